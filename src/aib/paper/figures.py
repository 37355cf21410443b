"""Figures 3, 4 and 5 of the paper, from our runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aib.data.augment import normalize
from aib.data.bundle import DataBundle
from aib.functional import resize_maps
from aib.interpret.edits import colour_window
from aib.interpret.intervals import mean_interval
from aib.paper.tables import changes, on_mean_path
from aib.report.style import COLOUR_MAP, SERIES
from aib.train.weights import LoadedRun

__all__ = ["figure3", "figure4", "figure5"]

PANELS = {"beta": ("beta", "0.01"), "latent_dim": ("K", "256"), "anchors": ("Q", "20 to 50")}
"""Options that figure 4 varies: symbol, and the best value the paper reports."""


@dataclass(frozen=True)
class _Seen:
    """What a run makes of some images: (N, 1, H, W) maps at the images' size and (N,) predicted classes."""

    maps: Tensor
    predicted: Tensor


def figure3(runs: Sequence[LoadedRun], bundle: DataBundle, path: Path, *, size: int = 8, rows: int = 4, seed: int = 0) -> str:
    """Maps of images and of the same images with a coloured window, side by side for each run.

    Images are drawn by ``seed`` from the test images that every run still predicts as before, as the score counts them.

    Args:
        runs: whose models have a map.
        bundle: the images.
        path: of the figure; its ending says which kind.
        size: side of the window in pixels.
        rows: images shown.
        seed: of images, places and colours.

    Returns:
        A sentence for under the figure.

    Raises:
        ValueError: a run has no map, the window does not fit, or no prediction stays the same.
    """
    count = min(len(bundle.test), 256)
    chosen = torch.randperm(len(bundle.test), generator=torch.Generator().manual_seed(seed))[:count]
    (batch,) = bundle.test.batches([chosen])
    images = batch.images.cpu()
    edited = colour_window(images, size, torch.Generator().manual_seed(seed))
    before, after = [_look(run, images) for run in runs], [_look(run, edited) for run in runs]
    same = torch.stack([a.predicted == b.predicted for a, b in zip(before, after)]).all(0)
    if not same.any():
        raise ValueError(f"no prediction of {count} images survives a window of {size} pixels in all runs; choose a smaller one")
    shown = same.nonzero().flatten()[:rows]
    columns: list[tuple[str, Tensor, bool]] = [("image", images, False)]
    columns += [(run.card["name"], seen.maps, True) for run, seen in zip(runs, before)]
    columns += [("edited", edited.clamp(0, 255), False)]
    columns += [(run.card["name"], seen.maps, True) for run, seen in zip(runs, after)]
    _grid([(title, pixels[shown], is_map) for title, pixels, is_map in columns], path)
    share = 100 * same.float().mean().item()
    return (
        f"Maps of {bundle.name} images and of the same images with a window of {size} pixels in a random colour, drawn by seed "
        f"{seed} from the {share:.0f} % whose prediction stays in every run. That a map stays is no merit by itself: a constant "
        "one does too."
    )


def figure4(runs: Sequence[Mapping[str, str]], recipe: str, path: Path) -> str:
    """Test error over beta, K and Q, one option varied at a time, means of seeds with 95 % t intervals.

    Args:
        runs: of `aib.paper.tables.read_runs`.
        recipe: whose runs count: those with nothing else changed.
        path: of the figure.

    Returns:
        A sentence for under the figure.

    Raises:
        ValueError: no option has two values.
    """
    from aib.recipes import load_recipe

    config = load_recipe(recipe)
    start = {"beta": config.optim.beta, "latent_dim": config.model.latent_dim, "anchors": config.model.anchors}
    found: dict[str, dict[float, list[float]]] = {name: {} for name in PANELS}
    for run in runs:
        if run["recipe"] != recipe or run["split"] != "test" or run.get("evaluated_on", run["data"]) != run["data"]:
            continue
        if run["model"] != config.model.model or not on_mean_path(run):
            continue
        options = dict(change.split(" ", 1) for change in changes(run) if " " in change)
        if len(options) > 1 or len(options) != len(changes(run)):
            continue
        for name in PANELS:
            flag = name.replace("_", "-")
            value = options.get(flag, start[name] if not options else None)
            if value is not None:
                found[name].setdefault(float(value), []).append(100 * float(run["error"]))
    panels = {name: values for name, values in found.items() if len(values) > 1}
    if not panels:
        raise ValueError(
            f"no recorded runs of {recipe} differ in {', '.join(PANELS)} alone; "
            f"run aib sweep --recipe {recipe} --vary beta=0,0.001,0.01 --record results/runs.csv"
        )
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.2), layout="constrained", squeeze=False)
    for axis, (name, values), colour in zip(axes[0], panels.items(), SERIES):
        symbol, best = PANELS[name]
        levels = sorted(values)
        means = [mean_interval(values[level]) for level in levels]
        reach = [high - mean if high == high else math.nan for mean, _, high in means]
        axis.errorbar(range(len(levels)), [mean for mean, *_ in means], yerr=reach, fmt="o-", color=colour, capsize=3)
        axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axis.set_xlabel(f"{symbol} (best in the paper: {best})")
        axis.set_ylabel("test error (%)")
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
    seeds = max(len(errors) for values in panels.values() for errors in values.values())
    return f"Test error of {recipe} with one option changed, mean of up to {seeds} seeds with 95 % t intervals."


def figure5(plain: LoadedRun, quantized: LoadedRun, bundle: DataBundle, path: Path, *, rows: int = 6, seed: int = 0) -> str:
    """Images that the first run gets wrong and the second right, with both maps.

    Args:
        plain: the run with continuous attention.
        quantized: the run with anchors.
        bundle: the images.
        path: of the figure.
        rows: images shown, drawn by ``seed``.
        seed: of the choice.

    Returns:
        A sentence for under the figure, with the count of the opposite case.

    Raises:
        ValueError: a run has no map, or there is no such image.
    """
    order = torch.randperm(len(bundle.test), generator=torch.Generator().manual_seed(seed))[:2000]
    (batch,) = bundle.test.batches([order])
    images, labels = batch.images.cpu(), batch.labels.cpu()
    first, second = _look(plain, images), _look(quantized, images)
    gained, lost = (
        (first.predicted != labels) & (second.predicted == labels),
        (first.predicted == labels) & (second.predicted != labels),
    )
    if not gained.any():
        raise ValueError(f"{quantized.folder.path} is right on no image that {plain.folder.path} gets wrong")
    shown = gained.nonzero().flatten()[:rows]
    _grid([
        ("image", images[shown], False), (plain.card["name"], first.maps[shown], True),
        (quantized.card["name"], second.maps[shown], True),
    ], path)  # fmt: skip
    return (
        f"Of {len(images)} images, {int(gained.sum())} are wrong in {plain.card['name']} and right in {quantized.card['name']}, "
        f"and {int(lost.sum())} the other way round; shown are {len(shown)} of the former, drawn by seed {seed}."
    )


def _look(run: LoadedRun, images: Tensor) -> _Seen:
    if not run.model.has_map:
        raise ValueError(f"{run.folder.path} has no map ({run.card['name']} is a plain classifier)")
    device = next(run.model.parameters()).device
    maps, predicted = [], []
    with torch.no_grad():
        for part in images.split(128):
            details = run.model.forward_details(normalize(part.to(device), run.mean, run.std))
            assert details.map is not None
            maps.append(resize_maps(details.map.float(), (images.shape[2], images.shape[3])).cpu())
            predicted.append(details.logits.argmax(1).cpu())
    return _Seen(torch.cat(maps), torch.cat(predicted))


def _grid(columns: Sequence[tuple[str, Tensor, bool]], path: Path) -> None:
    """Images and maps, a row for each image; maps on the fixed scale 0 to 1 with its colour bar."""
    plt = _pyplot()
    count = len(columns[0][1])
    figure, axes = plt.subplots(
        count, len(columns), figsize=(1.25 * len(columns) + 0.8, 1.3 * count + 0.3), squeeze=False, layout="constrained"
    )
    shown = None
    for column, (title, pixels, is_map) in enumerate(columns):
        for row in range(count):
            axis = axes[row][column]
            if is_map:
                shown = axis.imshow(pixels[row, 0].numpy(), cmap=COLOUR_MAP, vmin=0, vmax=1)
            else:
                image = pixels[row].permute(1, 2, 0).numpy().astype(np.uint8)
                axis.imshow(image.repeat(3, 2) if image.shape[2] == 1 else image)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title, fontsize=9)
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.6, label="attention")
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=160)
    finally:
        _pyplot().close(figure)
