"""The paper's interpretability score, beside its controls: does a map stay where it is when an edit leaves the prediction alone?

Of the images whose *prediction* is the same before and after an edit, the score is the share whose map is: the cosine of the two
flattened maps is at or above a threshold (section 4.4 and table 2 of the paper). A map that never changes scores 1 and explains
nothing, and of maps that are positive everywhere any two have a cosine near 1. So each score stands beside the same score with the
map of another image, and what counts is how far it stands above that:

    excess = share(cos(map of the edited image, map of the image) >= t) - share(cos(map of the edited image, map of ANOTHER) >= t)

A map that is the same for every image has excess 0. So has one that is near its maximum everywhere, however its dips follow the
image, since a cosine counts from the map's zero. Beside both stands therefore what no constant added to the map changes, and no
threshold decides: the mean correlation (Pearson's) of the two maps, and how far it is above that with another image's map,

    correlation excess = mean(r(map of the edited image, map of the image) - r(map of the edited image, map of ANOTHER))

where a map without variation has correlation 0 with any. Every source of maps (the model itself, explainers, untrained networks,
controls: `aib.interpret.map_sources`) is judged on the same images under the same edits. Shares are fractions: 1 is printed as 100.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aib.classifier import Classifier
from aib.data.bundle import Split
from aib.interpret.explainers import evaluating
from aib.interpret.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_means,
    correlated,
    difference_interval,
    paired_shares,
    share_interval,
    wilson_interval,
)
from aib.interpret.map_sources import OWN_MAP, MapSource, RandomMaps, derived_seed
from aib.interpret.map_tracks import MapTrack
from aib.interpret.named_edits import Edit

__all__ = ["OWN_MAP", "THRESHOLDS", "Consistency", "measure_consistency"]

THRESHOLDS = (0.85, 0.9, 0.95)

BLOCK = 16
"""Images edited together, and what the number of images in a forward pass is a multiple of: the CPU kernels of convolutions and
linear layers then round alike for every memory cap, which they do not for a batch of one."""

COSINE_DRAWS = 1000
"""Resamples for the interval of a mean cosine: for 10,000 images under ten edits and five sources they take two seconds in all."""

CPU_BATCH = 64
"""Images in a forward pass on a CPU. More fall out of its caches: passes of 1024 took 1.5 to 2 times as long an image."""


@dataclass(frozen=True)
class Consistency:
    """Predictions and cosines of N images under E edits, from `measure_consistency`; everything on the CPU, by position.

    Attributes:
        edits: the E edits.
        original: (N,) int64 predicted classes of the images.
        edited: (E, N) int64 predicted classes of the edited images.
        others: (N,) int64 position of the other image, whose map `other` takes: one random cycle through all images.
        own: by source, (E, N) float32 cosine of the edited image's map with that of the image.
        other: by source, (E, N) float32 cosine of the edited image's map with that of the *other* image, which is not edited.
        own_correlation, other_correlation: Pearson's, likewise: the cosine of the maps less their means.

    A map that is zero everywhere has no direction: its cosine is NaN, and it counts as changed. So a source that gives zeros before
    and after scores 0, not 1. One without variation has no correlation either, NaN here and 0 in the means.
    """

    edits: tuple[Edit, ...]
    original: Tensor
    edited: Tensor
    others: Tensor
    own: Mapping[str, Tensor]
    other: Mapping[str, Tensor]
    own_correlation: Mapping[str, Tensor]
    other_correlation: Mapping[str, Tensor]
    _made: dict[int, dict[str, list[list[float] | None]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def unchanged(self) -> Tensor:
        """(E, N) bool, whether the edit left the prediction as it was."""
        return self.edited == self.original

    def summary(self, source: str, edit: Edit, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, Any]:
        """One source under one edit in plain numbers, ready for JSON.

        ``n`` images of which ``unchanged`` keep their prediction, a share with its Wilson interval; over those, for each threshold,
        ``score``, ``other`` (with another image's map) and ``excess`` (their difference, paired) as [mean, low, high] with 95 %
        intervals over images; the mean cosines ``cosine_own`` and ``cosine_other`` likewise, over the images that have one, and how
        many were NaN (``no_direction``); and ``correlation``, the mean ``own``, ``other`` and their difference ``excess``. What no
        image is left for is None.

        Intervals of shares are Wilson's, those of their differences Newcombe's (`aib.interpret.intervals.paired_shares`), not a
        bootstrap's: shares lie near 0 and 1 as often as not, where a bootstrap's interval is too narrow, and a point at 0 and 1
        themselves (`aib.interpret.intervals` has the numbers). Those of the mean cosines and correlations are a
        percentile bootstrap's, of `COSINE_DRAWS` resamples.

        Args:
            source: a name in `own`.
            edit: one of `edits`.
            thresholds: cosines from which on a map counts as unchanged.

        Raises:
            ValueError: the source or the edit was not measured, or a threshold is not between 0 and 1.
        """
        row = self._row(edit)
        kept = self.unchanged[row]
        own, other = (cosines[self._known(source)][row][kept] for cosines in (self.own, self.other))
        count, scores = len(own), {}
        for threshold in _checked(thresholds):
            stays, passes = _reach(own, threshold), _reach(other, threshold)
            scores[f"{threshold:g}"] = {
                "score": _known_interval(share_interval(stays)), "other": _known_interval(share_interval(passes)),
                "excess": _known_interval(paired_shares(stays, passes)),
            }  # fmt: skip
        cosine_own, cosine_other, *correlation = self._means(source, row)
        return {
            "source": source, "edit": edit.name, "size": edit.size,
            "n": len(kept), "unchanged": count, "unchanged_share": [count / len(kept), *wilson_interval(count, len(kept))],
            "thresholds": scores, "cosine_own": cosine_own, "cosine_other": cosine_other,
            "correlation": dict(zip(("own", "other", "excess"), correlation)),
            "no_direction": {"own": int(own.isnan().sum()), "other": int(other.isnan().sum())},
        }  # fmt: skip

    def comparison(
        self,
        edit: Edit,
        source: str = OWN_MAP,
        controls: Iterable[str] | None = None,
        thresholds: Sequence[float] = THRESHOLDS,
    ) -> dict[str, Any]:
        """How far a source stands above the best of its controls under one edit, in plain numbers.

        ``excess`` is the number to quote: the excess of the source less that of the control with the greatest excess. ``score`` is
        the same with raw scores, for completeness: a constant control scores 1 by construction, so beside one it is never above 0.
        ``correlation`` is the correlation excess of the source less that of the control with the greatest.
        Differences are paired, since all sources are judged on the same images. The best control is chosen on those images too,
        which favours the controls a little; of equals it is the first.

        Args:
            edit: one of `edits`.
            source: a name in `own`.
            controls: names in `own`; all others by default.
            thresholds: as in `summary`.

        Returns:
            ``{"source", "edit", "size", "n", "unchanged", "correlation": {"control", "difference"}, "thresholds": {t: {"excess"
            and "score": {"control", "difference"}}}}``, each difference [mean, low, high] with a 95 % interval over images, None
            where no prediction is unchanged. That of scores is Newcombe's; that of excesses is put together from both excesses'
            intervals and their correlation in the same way; that of correlations is a bootstrap's.

        Raises:
            ValueError: as in `summary`, or there is no control.
        """
        names = [self._known(name) for name in ([n for n in self.own if n != source] if controls is None else controls)]
        if not names:
            raise ValueError(f"{source!r} has no control to be compared with; measure it with control_sources()")
        row = self._row(edit)
        kept = self.unchanged[row]
        found = {}
        for threshold in _checked(thresholds):
            stays = {name: _reach(self.own[name][row][kept], threshold) for name in [self._known(source), *names]}
            passes = {name: _reach(self.other[name][row][kept], threshold) for name in stays}
            found[f"{threshold:g}"] = _above(stays, passes, source, names)
        return {
            "source": source, "edit": edit.name, "size": edit.size, "n": len(kept), "unchanged": int(kept.sum()),
            "correlation": self._above_correlation(source, names, row), "thresholds": found,
        }  # fmt: skip

    def _correlations(self, source: str, row: int) -> NDArray[np.float64]:
        """(n, 2) correlations with the image and with the other one, of images whose prediction stays; 0 where there is none."""
        kept = self.unchanged[row]
        both = [found[source][row][kept] for found in (self.own_correlation, self.other_correlation)]
        return torch.stack(both, 1).double().nan_to_num(0.0).numpy()

    def _means(self, source: str, row: int) -> list[list[float] | None]:
        """Mean cosines with the image and the other one, mean correlations likewise, and the correlation excess, with intervals."""
        if not (kept := self.unchanged[row]).any():
            return [None] * 5
        if row not in self._made:  # of all sources at once: they have the same resamples, which take longest to draw
            columns: list[NDArray[np.float64]] = []
            for name in self.own:
                alike, other = self._correlations(name, row).T
                columns += [*(of[name][row][kept].double().numpy() for of in (self.own, self.other)), alike, other, alike - other]
            together = bootstrap_means(np.nan_to_num(np.stack(columns, 1)), draws=COSINE_DRAWS).tolist()
            for i, column in enumerate(columns):
                if np.isnan(column).any():  # cosines that do not exist are no part of the resamples
                    together[i] = _known_interval(bootstrap_mean(column, draws=COSINE_DRAWS))
            self._made[row] = {name: together[5 * i : 5 * i + 5] for i, name in enumerate(self.own)}
        return self._made[row][source]

    def _above_correlation(self, source: str, controls: Sequence[str], row: int) -> dict[str, Any]:
        excess = {name: -np.diff(self._correlations(name, row))[:, 0] for name in [source, *controls]}
        if not len(excess[source]):
            return {"control": None, "difference": None}
        best = max(controls, key=lambda name: float(excess[name].mean()))
        return {"control": best, "difference": list(bootstrap_mean(excess[source] - excess[best], draws=COSINE_DRAWS))}

    def _row(self, edit: Edit) -> int:
        if edit not in self.edits:
            raise ValueError(f"the edit {edit.label!r} was not measured; these were: {', '.join(e.label for e in self.edits)}")
        return self.edits.index(edit)

    def _known(self, source: str) -> str:
        if source not in self.own:
            near = difflib.get_close_matches(source, self.own, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no source {source!r}; {hint}These were measured: {', '.join(self.own)}")
        return source


def _checked(thresholds: Sequence[float]) -> Sequence[float]:
    for threshold in thresholds:
        if not 0 < threshold < 1:
            raise ValueError(f"a threshold is {threshold}; it must lie between 0 and 1, as in 0.9")
    return thresholds


def _reach(cosines: Tensor, threshold: float) -> NDArray[np.int64]:
    """1 where a cosine is at or above the threshold, 0 where it is below or NaN."""
    return (cosines.double() >= threshold).long().numpy()


def _known_interval(found: Interval) -> list[float] | None:
    return None if math.isnan(found[0]) else list(found)


def _above(
    stays: Mapping[str, NDArray[np.int64]], passes: Mapping[str, NDArray[np.int64]], source: str, controls: Sequence[str]
) -> dict[str, Any]:
    if not len(stays[source]):
        return {kind: {"control": None, "difference": None} for kind in ("excess", "score")}
    excess = {name: int(stays[name].sum() - passes[name].sum()) for name in controls}
    best = {"excess": max(controls, key=lambda name: excess[name]), "score": max(controls, key=lambda name: int(stays[name].sum()))}
    one, other = ((stays[name], passes[name]) for name in (source, best["excess"]))
    correlation = correlated(one[0] - one[1], other[0] - other[1])
    difference = {
        "excess": difference_interval(paired_shares(*one), paired_shares(*other), correlation),
        "score": paired_shares(stays[source], stays[best["score"]]),
    }
    return {kind: {"control": best[kind], "difference": list(difference[kind])} for kind in best}


def measure_consistency(
    model: Classifier,
    split: Split,
    mean: Sequence[float],
    std: Sequence[float],
    edits: Sequence[Edit],
    sources: Mapping[str, MapSource | RandomMaps] | None = None,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> Consistency:
    """Predictions and maps of every image of ``split`` before and after every edit.

    Images are taken in a random order fixed by ``seed`` and the number of images; the *other* image of each is the one before it,
    so that all images form one cycle and no map has to be kept. An edit is drawn by (``seed``, name, size, place in that order),
    whatever the model, the other edits and ``batch_size``. All versions of an image go through the network together, as far as the
    cap allows. On a CPU the result is bit for bit the same for every ``batch_size``; other devices may round differently.

    Args:
        model: the classifier that is scored; its own map, on the mean path, is the source `OWN_MAP` if it has one.
        split: at least two images.
        mean, std: per channel, of images scaled to [0, 1].
        edits: of `window_edits` and `frequency_edits`, or others.
        sources: further sources by name: `control_sources`, `from_explainer`.
        seed: of the order and of the edits.
        device: where the images go; that of the model's parameters by default.
        batch_size: a cap on memory, 32x32 images that go through the network together; fewer if they are larger, more if smaller,
            in multiples of 16 and at least 16. 1024 by default, 64 on a CPU, which is faster there.

    Raises:
        ValueError: there is no source of maps, no edit, an edit twice or one that does not fit the images, fewer than two images, a
            source called `OWN_MAP`, channels that do not fit, ``batch_size`` below 1; or a source returns no finite maps
            (M, 1, h, w).
    """
    given, edits = dict(sources or {}), tuple(edits)
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if batch_size is None:
        batch_size = CPU_BATCH if torch.device(device).type == "cpu" else 1024
    pixels = _check(model, split, mean, std, edits, given, batch_size)
    tracks = {name: MapTrack(name) for name in [OWN_MAP] * model.has_map + list(given)}
    rows = max(1, batch_size * 32 * 32 // pixels // BLOCK) * BLOCK
    together = max(1, rows // (BLOCK * (1 + len(edits)))) * BLOCK
    order = torch.randperm(len(split), generator=_generator("order", seed))
    shift = torch.tensor(mean, device=device).view(-1, 1, 1) * 255
    scale = 1 / (torch.tensor(std, device=device).view(-1, 1, 1) * 255)
    predicted = []
    with torch.no_grad(), evaluating(model):
        for number, batch in enumerate(split.batches(order.split(together))):
            count, block = len(batch.images), number * together // BLOCK
            versions = _edited(batch.images.to(device), edits, seed, block)
            flat = versions.flatten(0, 1)
            # further sources may ask for the pixels
            images = (flat - shift if given else flat.sub_(shift)).mul_(scale)
            classes, maps = _look(model, images, rows)
            predicted.append(classes.view(len(versions), -1)[:, :count].cpu())
            if maps is not None:
                tracks[OWN_MAP].add(maps, len(versions), count)
            target = classes[: versions.shape[1]].repeat(len(versions))
            for name, source in given.items():
                if isinstance(source, RandomMaps):
                    maps = source.draw(versions, ["original", *(edit.label for edit in edits)], block, BLOCK)
                else:
                    parts = zip(flat.split(rows), images.split(rows), target.split(rows))
                    maps = torch.cat([_maps_of(source, name, *part) for part in parts])
                tracks[name].add(maps, len(versions), count)
    place = order.argsort()
    every = torch.cat(predicted, 1)[:, place]
    own, other, own_correlation, other_correlation = (
        {name: read(track)[:, place] for name, track in tracks.items()}
        for read in (
            lambda track: track.cosines.own(), lambda track: track.cosines.other(),
            lambda track: track.correlations.own(), lambda track: track.correlations.other(),
        )
    )  # fmt: skip
    return Consistency(edits, every[0], every[1:], order.roll(1)[place], own, other, own_correlation, other_correlation)


def _check(
    model: Classifier, split: Split, mean: Sequence[float], std: Sequence[float], edits: Sequence[Edit],
    sources: Mapping[str, Any], batch_size: int,
) -> int:  # fmt: skip
    """The number of pixels of an image, if everything fits."""
    if OWN_MAP in sources:
        raise ValueError(f"a source is called {OWN_MAP!r}, which is the scored model's; choose another name")
    if not model.has_map and not sources:
        raise ValueError(f"{type(model).__name__} has no map of its own and no other source is given; there is nothing to score")
    if not edits:
        raise ValueError("there is no edit; window_edits() and frequency_edits() make those of the paper")
    if len(split) < 2:
        raise ValueError(f"the number of images is {len(split)}; the map of another image needs at least 2")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    image = next(iter(split.batches([torch.zeros(1, dtype=torch.int64)]))).images.float()
    if not image.shape[1] == len(mean) == len(std):
        raise ValueError(f"images have {image.shape[1]} channels, but there are {len(mean)} means and {len(std)} deviations")
    labels = [edit.label for edit in edits]
    for edit in edits:
        if labels.count(edit.label) > 1:
            raise ValueError(f"the edit {edit.label!r} is given twice; every edit needs a name and size of its own")
        edited = edit.apply(image, torch.Generator())
        if edited.shape != image.shape:
            raise ValueError(f"the edit {edit.label!r} makes {tuple(edited.shape)} of {tuple(image.shape)}; it must keep the shape")
    return image.shape[2:].numel()


def _generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*parts))


def _edited(images: Tensor, edits: Sequence[Edit], seed: int, block: int) -> Tensor:
    """(1 + E, B, C, H, W) float pixels: the images as they are, then under every edit; B is rounded up to full blocks."""
    count = len(images)
    versions = torch.empty(1 + len(edits), -(-count // BLOCK) * BLOCK, *images.shape[1:], device=images.device)
    versions[0, :count] = images
    versions[0, count:] = versions[0, count - 1]
    for i, some in enumerate(versions[0].split(BLOCK)):
        for edit, version in zip(edits, versions[1:]):
            version[i * BLOCK : (i + 1) * BLOCK] = edit.apply(some, _generator("edit", seed, edit.label, block + i))
    return versions


def _look(model: Classifier, images: Tensor, rows: int) -> tuple[Tensor, Tensor | None]:
    """Predicted classes (M,) and the model's own maps (M, 1, h, w), ``rows`` images at a time."""
    classes, maps = [], []
    for some in images.split(rows):
        details = model.forward_details(some)
        classes.append(details.logits.argmax(1))
        if model.has_map:
            if details.map is None:
                raise ValueError(f"{type(model).__name__} says it has a map but gives none")
            maps.append(details.map)
        del details  # its features, before the next pass makes its own
    return torch.cat(classes), torch.cat(maps) if maps else None


def _maps_of(source: MapSource, name: str, pixels: Tensor, images: Tensor, target: Tensor) -> Tensor:
    maps = source(pixels, images, target)
    if maps.ndim != 4 or maps.shape[:2] != (len(images), 1):
        raise ValueError(f"the source {name!r} gives maps of shape {tuple(maps.shape)}; expected ({len(images)}, 1, h, w)")
    return maps
