"""``aib eval``: the numbers of a trained run on a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class EvalOptions:
    """Evaluate a run: error with interval, calibration, rate, anchors, and what the map is worth."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    split: Literal["test", "val", "train"] = "test"
    """Which images; train is, of another data set, all of its training images."""
    data: str | None = None
    """Another data set with the same classes, or stl10 for a run on cifar10."""
    labels: Literal["by-name", "by-index"] | None = None
    """Classes of the other set: those that both have (by-name; what stl10 gets) or as numbered (by-index, the paper's table)."""
    root: str | None = None
    """Folder that holds the data; by default looked for where the run was started, then here."""
    download: bool = False
    """Fetch a named data set that is absent."""
    samples: tuple[int, int] | None = None
    """Draws of the attention and, for each, of the latent (4 4 as published); by default the deterministic mean path."""
    mirror: bool = False
    """Average the logits over each image and its mirror image; maps and rates stay those of the image."""
    seed: int = 0
    """Seed of draws, shuffles and intervals."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""
    record: Path | None = None
    """Add or replace the run's row in this CSV file (results/runs.csv)."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, evaluate and print."""
    options = parse_options(EvalOptions, "eval", arguments)

    from rich.console import Console

    from aib.recipes import start_of
    from aib.train.device import choose_device
    from aib.train.evaluate import evaluate
    from aib.train.record import COLUMNS, check_trained, record_run
    from aib.train.results_table import check_table
    from aib.train.run_folder import RunFolder

    check_table(options.record, COLUMNS)
    base = None
    if options.record is not None:  # before the work
        check_trained(RunFolder.open(options.run))
        base = start_of(RunFolder.open(options.run))
    result = evaluate(
        options.run, split=options.split, data=options.data, labels=options.labels, root=options.root,
        download=options.download, device=choose_device(options.device), samples=options.samples,
        mirror=options.mirror, seed=options.seed,
    )  # fmt: skip
    Console(soft_wrap=True, highlight=False).print("\n".join(summary_lines(result)), markup=False)
    if options.record is not None and base is not None:
        record_run(options.run, result, options.record, base)


def summary_lines(result: dict) -> list[str]:
    """The main numbers of an evaluation as aligned lines of text."""
    low, high = result["error_interval"]
    rows = [
        ("images", f"{result['n']} ({result['data']}, {result['split']})"),
        ("error", f"{100 * result['error']:.2f} %   95 % interval {100 * low:.2f} to {100 * high:.2f}"),
        *([] if result["last_error"] is None else [("after the last epoch", f"{100 * result['last_error']:.2f} %")]),
        ("cross-entropy", f"{result['cross_entropy']:.4f} nats"),
        ("calibration error", f"{100 * result['ece']:.2f} %"),
    ]
    averaged = []
    if result["samples"]:
        averaged.append("over {} x {} draws".format(*result["samples"]))
    if result["mirror"]:
        averaged.append("over the image and its mirror image")
    if averaged:
        rows.insert(1, ("logits averaged", ", ".join(averaged)))
    if "labels" in result:
        used = result["labels"]
        shared = f"{len(used['classes_shared'])} of {len(result['confusion'])} classes"
        if used["convention"] == "by-name":
            lost = f" ({', '.join(used['classes_left_out'])})" if used["left_out"] else ""
            text = f"by name, {shared}; {used['left_out']} images left out{lost}"
        else:
            text = f"by index; {shared} have the same name, images of others can only be wrong or right by chance"
        rows.append(("labels", text))
    if "rate_bits" in result:
        rows.append(("rate", f"{result['rate_bits']:.2f} bits"))
    if "anchors" in result:
        anchors = result["anchors"]
        rows.append(("anchors", f"{anchors['used']} of {len(anchors['values'])} in use, perplexity {anchors['perplexity']:.1f}"))
    if "last_unreadable" in result:
        rows.append(("last checkpoint", f"left out: {result['last_unreadable']}"))
    if "map_ablation" in result:
        ablation = result["map_ablation"]
        shuffled, own = 100 * ablation["shuffled_images"], 100 * ablation["original"]
        rows.append(("map shuffled", f"error {shuffled:.2f} % under other images' maps ({own:.2f} % under its own)"))
    for name, scores in result.get("localization", {}).get("maps", {}).items():
        shown = "   ".join(f"{metric.replace('_', ' ')} {values[0]:.3f}" for metric, values in scores.items())
        rows.append((f"on the object: {name}", shown))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]
