"""``aib demo``: the main job on the embedded data, from training to a page to read.

Trains the plain baseline and the attentive model with the same budget, evaluates both, and asks of the attention map what Grad-CAM
on the baseline is asked: does it lie on the digit? Every number stands beside its controls.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aib.commands.options import parse_options

if TYPE_CHECKING:
    from torch import Tensor

    from aib.data.bundle import DataBundle
    from aib.train.config import TrainConfig

BASELINE = "clutter/vgg_s"
ATTENTIVE = "clutter/vgg_s_aib_qt"


@dataclass(frozen=True)
class DemoOptions:
    """Train, evaluate and compare on the embedded data, and open the report: about four minutes on two cores."""

    out: Path | None = None
    """Folder for the runs and the report; by default runs/demo, or the first free runs/demo-N."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to repeat everything with; the report shows the first."""
    beta_zero: bool = False
    """Train the attentive model with beta = 0 too: what the bottleneck itself adds."""
    epochs: int | None = None
    """Passes over the training images instead of the recipe's."""
    record: Path | None = None
    """Write the numbers of all seeds with paired intervals to this JSON file."""
    open: bool = True
    """Open the report in a browser, when run from a terminal."""
    quiet: bool = False
    """Print the results only."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments`` and run the demo."""
    options = parse_options(DemoOptions, "demo", arguments)
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"seeds are {options.seeds}; give one or more different numbers")
    out = options.out or _free_folder(Path("runs/demo"))
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; choose another folder with --out")

    from rich.console import Console

    from aib.data import open_data
    from aib.report import build_report

    began = time.monotonic()
    console = Console(soft_wrap=True, highlight=False)
    say = Console(soft_wrap=True, highlight=False, quiet=options.quiet)
    say.print("making the images: scanned digits on photographs, 32x32, with the exact mask of every digit")
    bundle = open_data("clutter")
    rows = [_one_seed(options, out, seed, bundle, say) for seed in options.seeds]
    comparison = compare(rows)
    first = out / f"seed-{options.seeds[0]}"
    page = build_report(
        [first / "aib_qt", first / "baseline"], out / "report.html",
        title="AIB demo: a classifier that shows where it looks", comparison=comparison,
    )  # fmt: skip
    console.print("\n".join(["", *comparison["sentences"], ""]), markup=False)
    if options.record is not None:
        _record(options.record, options, first / "aib_qt", rows)
    console.print(f"report: {page}   ({time.monotonic() - began:.0f} s)", markup=False)
    if options.open and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def _free_folder(wanted: Path) -> Path:
    """``wanted``, or the first of wanted-2, wanted-3, ... that does not exist."""
    free, number = wanted, 1
    while free.exists():
        number += 1
        free = wanted.with_name(f"{wanted.name}-{number}")
    return free


def _one_seed(options: DemoOptions, out: Path, seed: int, bundle: DataBundle, say: Any) -> dict[str, Any]:
    """Train and evaluate everything of one seed; the numbers that `compare` puts together."""
    from aib.recipes import load_recipe
    from aib.train.device import choose_device
    from aib.train.evaluate import evaluate
    from aib.train.loop import train

    device = choose_device(options.device)
    folder = out / f"seed-{seed}"

    def config(recipe: str, name: str, **optim: float) -> TrainConfig:
        base = load_recipe(recipe)
        if options.epochs is not None:
            optim["epochs"] = options.epochs
        return replace(
            base,
            optim=replace(base.optim, **optim),  # type: ignore[arg-type]
            run=replace(base.run, out=str(folder / name), seed=seed, device=device, quiet=options.quiet),
        )

    say.print(f"\nseed {seed}: the plain baseline", markup=False)
    baseline = train(config(BASELINE, "baseline"), bundle=bundle, title="baseline").path
    say.print(f"\nseed {seed}: the same network with attention, anchors and bottleneck", markup=False)
    attentive = train(config(ATTENTIVE, "aib_qt"), bundle=bundle, title="AIB-QT").path
    say.print("\nevaluating, with Grad-CAM on every layer of the baseline", markup=False)
    plain = evaluate(baseline, bundle=bundle, device=device)
    layer, cam = best_grad_cam(baseline, bundle, device)
    row = {"seed": seed, "baseline": _main_numbers(plain), "grad_cam_layer": layer}
    found = evaluate(attentive, bundle=bundle, device=device, other_maps={f"Grad-CAM ({layer})": cam})
    row["aib_qt"] = _main_numbers(found)
    maps = found["localization"]["maps"]
    row["grad_cam"] = {metric: values[0] for metric, values in maps[f"Grad-CAM ({layer})"].items()}
    row["controls"] = {
        name: {metric: values[0] for metric, values in maps[name].items()} for name in ("chance", "centre", "uniform", "random")
    }
    if options.beta_zero:
        say.print(f"\nseed {seed}: the attentive model with beta = 0", markup=False)
        free = train(config(ATTENTIVE, "aib_qt_beta_0", beta=0.0), bundle=bundle, title="beta = 0").path
        row["aib_qt_beta_0"] = _main_numbers(evaluate(free, bundle=bundle, device=device))
    return row


def _main_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation that are compared."""
    numbers = {"error": result["error"], "cross_entropy": result["cross_entropy"], "ece": result["ece"]}
    if "map_ablation" in result:
        ablation = result["map_ablation"]
        numbers["shuffling_costs"] = ablation["shuffled_images"] - ablation["original"]
        numbers["rate_bits"] = result["rate_bits"]
        numbers["anchors_used"] = result["anchors"]["used"]
        numbers |= {metric: values[0] for metric, values in result["localization"]["maps"]["AIB"].items()}
    return numbers


def best_grad_cam(path: Path, bundle: DataBundle, device: str) -> tuple[str, Tensor]:
    """Grad-CAM of a baseline on the test images, at the layer where it points best (judged on these very images, in its favour).

    Args:
        path: run folder of the baseline.
        bundle: data with masks.
        device: where to compute.

    Returns:
        The layer's name with its map size, and the maps (N, 1, h, w).

    Raises:
        ValueError: the data have no masks.
    """
    import torch

    from aib.data.augment import normalize
    from aib.data.bundle import batch_indices
    from aib.interpret import GradCAM, conv_layers, pointing_game
    from aib.train.weights import load_run

    split = bundle.test
    if split.masks is None:
        raise ValueError(f"{bundle.name} has no masks to point at")
    run = load_run(path, device=device)
    best: tuple[float, str, Tensor] | None = None
    for name, (_, height, width) in conv_layers(run.model, (bundle.channels, *bundle.image_size)):
        explainer = GradCAM(run.model, name)
        maps = torch.cat([
            explainer.attribute(normalize(batch.images.to(device), run.mean, run.std)).cpu()
            for batch in split.batches(batch_indices(torch.arange(len(split)), 250))
        ])  # fmt: skip
        score = float(pointing_game(maps, split.masks).nanmean())
        if best is None or score > best[0]:
            best = score, f"{height}x{width} stage", maps
    if best is None:
        raise ValueError(f"{path} has no convolutional layer for Grad-CAM")
    return best[1], best[2]


def compare(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The comparison shown in the report: a table over all seeds and plain sentences.

    Args:
        rows: one mapping a seed, from the demo's own runs.
    """
    from aib.interpret import hardly_used

    def mean(model: str, metric: str) -> float:
        return sum(row[model][metric] for row in rows) / len(rows)

    seeds = f"mean of {len(rows)} seeds" if len(rows) > 1 else "one seed"
    aib, cam, plain = mean("aib_qt", "pointing_game"), mean("grad_cam", "pointing_game"), mean("baseline", "error")
    error, cost, rate = mean("aib_qt", "error"), mean("aib_qt", "shuffling_costs"), mean("aib_qt", "rate_bits")
    chance = sum(row["controls"]["chance"]["pointing_game"] for row in rows) / len(rows)
    layers = " / ".join(dict.fromkeys(row["grad_cam_layer"] for row in rows))
    lead = "above" if aib > cam else "not above"
    sentences = [
        f"The attention map's maximum lies on the digit's ink in {100 * aib:.1f} % of the test images ({seeds}; chance "
        f"{100 * chance:.1f} %), {lead} Grad-CAM on the paired baseline at the best of its layers ({100 * cam:.1f} %, {layers}).",
        f"Test error is {100 * error:.1f} %, the plain baseline's {100 * plain:.1f} %, with the same budget.",
    ]
    if hardly_used({"original": error, "shuffled_images": error + cost}):
        sentences.append(
            f"Shuffling the maps across images costs only {100 * cost:.1f} points of accuracy: the map is hardly used."
        )
    else:
        sentences.append(
            f"Shuffling the maps across images costs {100 * cost:.1f} points of accuracy: the network relies on its map."
        )
    sentences.append(f"The latent carries {rate:.1f} bits about an image on average" + ("." if rate > 1 else ": it has collapsed."))
    if all("aib_qt_beta_0" in row for row in rows):
        free, free_error, free_rate = (mean("aib_qt_beta_0", name) for name in ("pointing_game", "error", "rate_bits"))
        sentences.append(
            f"Without the bottleneck (beta = 0) the map points at the digit in {100 * free:.1f} %, with {100 * free_error:.1f} % "
            f"error and {free_rate:.0f} bits."
        )
    metrics = ("pointing_game", "energy", "iou")
    control = {
        name: {m: sum(row["controls"][name][m] for row in rows) / len(rows) for m in metrics} for name in rows[0]["controls"]
    }
    table = {
        "columns": ["map", "pointing game", "energy on the digit", "IoU", "test error"],
        "rows": [
            ["AIB-QT", *(f"{mean('aib_qt', m):.3f}" for m in metrics), f"{100 * error:.1f} %"],
            [f"Grad-CAM on the baseline ({layers})", *(f"{mean('grad_cam', m):.3f}" for m in metrics), f"{100 * plain:.1f} %"],
            *([name, *(f"{values[m]:.3f}" for m in metrics), ""] for name, values in control.items()),
        ],
    }
    return {"title": "Where it looks, beside controls", "sentences": sentences, "table": table}


def _record(target: Path, options: DemoOptions, run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All seeds' numbers with paired intervals, and how they were made."""
    from aib.interpret import paired_difference
    from aib.train.checkpoint import write_text

    def difference(a: tuple[str, str], b: tuple[str, str]) -> list[float]:
        return list(paired_difference([row[a[0]][a[1]] for row in rows], [row[b[0]][b[1]] for row in rows]))

    summary: dict[str, Any] = {
        "error, AIB-QT minus baseline": difference(("aib_qt", "error"), ("baseline", "error")),
        "pointing game, AIB-QT minus Grad-CAM": difference(("aib_qt", "pointing_game"), ("grad_cam", "pointing_game")),
    }
    if options.beta_zero:
        for metric in ("error", "pointing_game", "energy", "iou"):
            summary[f"{metric}, AIB-QT minus beta = 0"] = difference(("aib_qt", metric), ("aib_qt_beta_0", metric))
    command = "aib demo --seeds " + " ".join(map(str, options.seeds)) + (" --beta-zero" if options.beta_zero else "")
    if options.epochs is not None:
        command += f" --epochs {options.epochs}"
    if options.out is not None:
        command += f" --out {options.out}"
    content = {
        "command": f"{command} --record {target}",
        "environment": json.loads((run / "environment.json").read_text(encoding="utf-8")),
        "note": "differences are [mean, low, high], 95 % t interval over paired seeds; errors are fractions",
        "differences": summary,
        "seeds": list(rows),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps(content, indent=1) + "\n")
