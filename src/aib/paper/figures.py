"""Figures 3, 4 and 5 of the paper, from our runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aib.classifier import AttentiveClassifier
from aib.data.augment import normalize
from aib.data.benchmarks import BENCHMARKS
from aib.data.bundle import DataBundle
from aib.interpret.edits import colour_window
from aib.interpret.intervals import mean_interval
from aib.models import create_model, model_names
from aib.paper.counting import changes, network_and_data, on_protocol, one_a_seed
from aib.report.style import COLOUR_MAP, SERIES
from aib.train.config import TrainConfig
from aib.train.weights import LoadedRun

__all__ = ["figure3", "figure4", "figure5"]

PANELS = {"beta": ("beta", "0.01"), "latent_dim": ("K", "256"), "anchors": ("Q", "20 to 50")}
"""Options that figure 4 varies: symbol, and the best value the paper reports."""

CLASSES = {"clutter": 10, "cub200": 200, **{name: benchmark.classes for name, benchmark in BENCHMARKS.items()}}
"""Classes of the data sets that are known by name."""

ROWS = 4
"""Images shown unless asked otherwise."""

RIGHT, WRONG = "#00734f", "#b84a00"
LETTERS = 17
"""Of a class name that fit below a picture."""


@dataclass(frozen=True)
class _Seen:
    """What a run makes of some images: (N, 1, h, w) maps at their own size, (N,) predicted classes and (N,) their probability."""

    maps: Tensor
    predicted: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class _Column:
    """A column of pictures: (N, channels, H, W) pixels or maps (N, 1, h, w), a line below each, and whether it is right."""

    title: str
    pixels: Tensor
    below: Sequence[str]
    right: Sequence[bool] | None = None
    is_map: bool = False


def figure3(runs: Sequence[LoadedRun], bundle: DataBundle, path: Path, *, size: int = 8, rows: int = ROWS, seed: int = 0) -> str:
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
    names, labels = list(bundle.class_names), batch.labels.cpu()
    columns = [_pictures("image", images, shown, labels, names)]
    columns += [_maps(title, run, seen, shown, labels, names) for title, run, seen in zip(_titles(runs), runs, before)]
    columns += [replace(_pictures("edited", edited.clamp(0, 255), shown, labels, names), below=[""] * len(shown))]
    columns += [_maps(title, run, seen, shown, labels, names) for title, run, seen in zip(_titles(runs), runs, after)]
    share = 100 * same.float().mean().item()
    said = (
        f"Maps of {bundle.name} images and of the same images with a window of {size} by {size} pixels in a random colour, drawn "
        f"by seed {seed} from the {share:.0f} % of {count} test images whose prediction stays in every run. {_values(runs)} That a "
        "map stays is no merit by itself: a constant one does too. A few images do not show how often maps stay: aib score counts "
        "it."
    )
    _grid(columns, said, path)
    return said


def figure4(runs: Sequence[Mapping[str, str]], recipe: str, path: Path) -> str:
    """Test error over beta, K and Q, one option varied at a time, means of seeds with 95 % t intervals.

    Args:
        runs: of `aib.paper.tables.read_runs`.
        recipe: whose runs count, one a seed (`aib.paper.counting.one_a_seed`): those with nothing else changed or, where these show
            nothing, the most that have all other changes in common, which the sentence then names.
        path: of the figure.

    Returns:
        A sentence for under the figure.

    Raises:
        ValueError: no option has two values.
    """
    from matplotlib.ticker import MaxNLocator

    from aib.report.plots import NARROWEST, at_least

    common, panels = _panels(runs, recipe)
    figure = _figure(max(3.4 * len(panels), 5.0), 3.7)
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (name, values), colour in zip(axes[0], panels.items(), SERIES):
        symbol, best = PANELS[name]
        levels = sorted(values)
        means = [mean_interval(values[level]) for level in levels]
        reach = [high - mean if high == high else math.nan for mean, _, high in means]
        axis.errorbar(range(len(levels)), [mean for mean, *_ in means], yerr=reach, fmt="o-", color=colour, capsize=3)
        axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axis.set_xlabel(f"{symbol} (best in the paper: {best})")
        axis.set_ylabel("test error (%)")
        axis.set_ylim(*at_least(axis.get_ylim(), NARROWEST, 0, 100))
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    seeds = {len(errors) for values in panels.values() for errors in values.values()}
    said = (
        f"Test error of {recipe}" + (f", all with {', '.join(common)}," if common else "") + " with one option changed at a time, "
    )
    said += f"means of {_range(seeds)} seeds with 95 % t intervals over seeds." if max(seeds) > 1 else "one seed: no interval."
    said += " Points with one seed have no interval." if min(seeds) == 1 < max(seeds) else ""
    said += " The steps between an option's values are not to scale. It does not show how options work together."
    _write_below(figure, said)
    _save(figure, path)
    return said


def _panels(runs: Sequence[Mapping[str, str]], recipe: str) -> tuple[tuple[str, ...], dict[str, dict[float, list[float]]]]:
    """Changes that the runs shown have in common, and by option and value their errors in per cent, one a seed.

    Raises:
        ValueError: no option has two values.
    """
    from aib.recipes import load_recipe

    config = load_recipe(recipe)
    start = {"beta": config.optim.beta, **_own_sizes(config)}
    model, data = network_and_data(recipe)
    found: dict[tuple[str, ...], dict[str, dict[float, list[Mapping[str, str]]]]] = {}
    for run in runs:
        if run["recipe"] != recipe or run["split"] != "test" or {run["data"], run.get("evaluated_on", data)} != {data}:
            continue
        if run["model"] != model or not on_protocol(run):
            continue
        options = {option: value for option, _, value in (change.partition(" ") for change in sorted(changes(run)))}
        for name in PANELS:
            flag = name.replace("_", "-")
            value = options.get(flag, start[name])
            if value not in (None, "None"):
                others = tuple(f"{option} {given}".strip() for option, given in options.items() if option != flag)
                found.setdefault(others, {}).setdefault(name, {}).setdefault(float(value), []).append(run)
    groups = {
        others: {
            name: {value: [100 * float(run["error"]) for run in one_a_seed(mine)] for value, mine in by_name[name].items()}
            for name in PANELS if len(by_name.get(name, ())) > 1
        }
        for others, by_name in found.items()
    }  # fmt: skip
    shown = {
        others: sum(len(errors) for values in panels.values() for errors in values.values()) for others, panels in groups.items()
    }
    if not any(shown.values()):
        raise ValueError(
            f"no two recorded runs of {recipe}, with its model and data and on the mean path, differ in {', '.join(PANELS)} alone; "
            f"run aib sweep --recipe {recipe} --vary beta=0,0.001,0.01 --record results/runs.csv"
        )
    common = () if shown.get(()) else max(shown, key=lambda others: (shown[others], -len(others)))
    return common, groups[common]


def _own_sizes(config: TrainConfig) -> dict[str, int | None]:
    """K and Q that a configuration leads to: a recipe may leave both to a model of the package.

    What a model's own choice depends on is the number of classes. Where the name of the data does not tell it, a number stands only
    if 10 and 100 classes agree on it.
    """
    model = config.model
    given = {"latent_dim": model.latent_dim, "anchors": model.anchors}
    if model.model not in model_names() or None not in given.values():
        return given
    known = CLASSES.get(config.data.data)
    found: list[dict[str, int | None]] = []
    for classes in (10, 100) if known is None else (known,):
        with torch.device("meta"):
            built = create_model(model.model, classes, **{name: value for name, value in given.items() if value is not None})
        if not isinstance(built, AttentiveClassifier):
            return given
        anchors = None if built.quantizer is None else built.quantizer.num_anchors
        found.append({"latent_dim": built.bottleneck.latent_dim, "anchors": anchors})
    return {name: found[0][name] if found[0][name] == found[-1][name] else None for name in given}


def figure5(plain: LoadedRun, quantized: LoadedRun, bundle: DataBundle, path: Path, *, rows: int = ROWS, seed: int = 0) -> str:
    """Images that the first run gets wrong and the second right, with both maps.

    Args:
        plain: the run with continuous attention.
        quantized: the run with anchors; the two may also be given the other way round.
        bundle: the images.
        path: of the figure.
        rows: images shown, drawn by ``seed``.
        seed: of the choice.

    Returns:
        A sentence for under the figure, with the count of the opposite case.

    Raises:
        ValueError: a run has no map, not one of the two has anchors, or there is no such image.
    """
    with_anchors = [getattr(run.model, "quantizer", None) is not None for run in (plain, quantized)]
    if with_anchors[0] == with_anchors[1]:
        have = "both have" if with_anchors[0] else "neither has"
        raise ValueError(f"of {plain.folder.path} and {quantized.folder.path} {have} anchors; figure 5 takes one run of each kind")
    if with_anchors[0]:
        plain, quantized = quantized, plain
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
    names, runs = list(bundle.class_names), (plain, quantized)
    columns = [_pictures("image", images, shown, labels, names)]
    columns += [_maps(title, run, seen, shown, labels, names) for title, run, seen in zip(_titles(runs), runs, (first, second))]
    said = (
        f"Of {len(images)} images, {int(gained.sum())} are wrong in {plain.card['name']} and right in {quantized.card['name']}, "
        f"and {int(lost.sum())} the other way round; shown are {len(shown)} of the former, drawn by seed {seed}. {_values(runs)} "
        "The images were chosen by who is right, so they do not show that anchors help, nor that the map is the reason: two runs "
        "that differ in the seed alone also disagree on some."
    )
    _grid(columns, said, path)
    return said


def _look(run: LoadedRun, images: Tensor) -> _Seen:
    if not run.model.has_map:
        raise ValueError(f"{run.folder.path} has no map ({run.card['name']} is a plain classifier)")
    device = next(run.model.parameters()).device
    maps, sure, predicted = [], [], []
    with torch.no_grad():
        for part in images.split(128):
            details = run.model.forward_details(normalize(part.to(device), run.mean, run.std))
            assert details.map is not None
            maps.append(details.map.float().cpu())
            confidence, best = details.logits.float().softmax(1).max(1)
            sure.append(confidence.cpu())
            predicted.append(best.cpu())
    return _Seen(torch.cat(maps), torch.cat(predicted), torch.cat(sure))


def _titles(runs: Sequence[LoadedRun]) -> list[str]:
    """The models' names, with the end of the folder's path where two are alike, and what the values of their maps are."""
    names = [str(run.card["name"]) for run in runs]
    paths = [run.folder.path.resolve().parts for run in runs]
    shown = []
    for name, path in zip(names, paths):
        alike = {other for other_name, other in zip(names, paths) if other_name == name}
        length = next(
            (length for length in range(1, len(path)) if len({other[-length:] for other in alike}) == len(alike)), len(path)
        )
        # in lines, not cut: what tells two apart may be at either end
        ending = textwrap.fill("/".join(path[-length:]), LETTERS, break_on_hyphens=False)
        shown.append(name if names.count(name) == 1 else f"{name}\n{ending}")
    return [f"{name}\n{'÷ own maximum' if run.model.relative_map else 'scores'}" for name, run in zip(shown, runs)]


def _values(runs: Sequence[LoadedRun]) -> str:
    """What the maps' values are, as a sentence."""
    kinds = {run.model.relative_map for run in runs}
    if kinds == {False}:
        return "Maps are scores in [0, 1], cell by cell."
    if kinds == {True}:
        return "Maps are divided by their own maximum: compare where maps are bright, not how bright."
    return (
        "Maps are scores in [0, 1], or divided by their own maximum where the title says so: there compare where, not how bright."
    )


def _pictures(title: str, pixels: Tensor, shown: Tensor, labels: Tensor, names: Sequence[str]) -> _Column:
    return _Column(title, pixels[shown], [f"true: {_short(names[label])}" for label in labels[shown].tolist()])


def _maps(title: str, run: LoadedRun, seen: _Seen, shown: Tensor, labels: Tensor, names: Sequence[str]) -> _Column:
    """The maps of a run, and below each the class it takes the image for and how sure it is."""
    predicted, sure = seen.predicted[shown], seen.confidence[shown]
    below = [f"{_short(names[best])} {100 * share:.0f} %" for best, share in zip(predicted.tolist(), sure.tolist())]
    return _Column(title, seen.maps[shown], below, (predicted == labels[shown]).tolist(), is_map=True)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def _range(counts: set[int]) -> str:
    return "–".join(map(str, sorted({min(counts), max(counts)})))


def _grid(columns: Sequence[_Column], said: str, path: Path) -> None:
    """Images and maps, a row for each image, and a sentence below; maps in hard cells on the scale 0 to 1 with its colour bar."""
    count, (height, width) = len(columns[0].pixels), columns[0].pixels.shape[2:]
    figure = _figure(max(1.3 * len(columns) + 0.8, 5.0), 1.42 * count + 1.2)
    axes = figure.subplots(count, len(columns), squeeze=False)
    shown = None
    for number, column in enumerate(columns):
        for row in range(count):
            axis = axes[row][number]
            if column.is_map:
                cells = column.pixels[row, 0].numpy()
                # over the image's place whatever the number of cells, and none of them smoothed: values of a map with anchors
                # that lie between two of them would be made up
                shown = axis.imshow(
                    cells, cmap=COLOUR_MAP, vmin=0, vmax=1, interpolation="nearest", extent=(0, width, height, 0), aspect="equal"
                )
            else:
                image = column.pixels[row].permute(1, 2, 0).numpy().astype(np.uint8)
                axis.imshow(image.repeat(3, 2) if image.shape[2] == 1 else image, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            colour = "black" if column.right is None else RIGHT if column.right[row] else WRONG
            mark = "" if column.right is None else "✓ " if column.right[row] else "✗ "
            axis.set_xlabel(mark + column.below[row], fontsize=6.5, color=colour, labelpad=2)
            if row == 0:
                axis.set_title(column.title, fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.6).set_label("value of the map", fontsize=8)
    _write_below(figure, said)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """A figure of so many inches, of its own: a caller's matplotlib stays as it was."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _write_below(figure: Any, said: str) -> None:
    """A sentence below the figure, as wide as it is."""
    lines = textwrap.wrap(said, int(figure.get_figwidth() * 72 / 3.9))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7, color="#59636e", linespacing=1.4)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
