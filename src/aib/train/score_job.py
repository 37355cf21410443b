"""A run that is scored: its images, edits and explainers, made once, and how many images each part takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from aib.classifier import Classifier
from aib.data import open_data
from aib.data.augment import normalize
from aib.data.bundle import DataBundle, Split, batch_indices
from aib.interpret.choice import make_explainer
from aib.interpret.consistency import OWN_MAP, Consistency, measure_consistency
from aib.interpret.explainers import AttentionMap, Explainer
from aib.interpret.map_sources import MapSource, RandomMaps, derived_seed
from aib.interpret.named_edits import Edit, frequency_edits, window_edits
from aib.interpret.randomization import randomized_networks
from aib.train.origin import locate_root
from aib.train.run_data import label_convention, open_run_data
from aib.train.score_settings import NO_OTHER, ScoreSettings
from aib.train.score_sources import ScoreSources, cheap
from aib.train.start import start_network
from aib.train.weights import LoadedRun, load_run

__all__ = ["CONTROL_IMAGES", "FAITHFUL_IMAGES", "ScoreJob"]

PATCH_IMAGES = 2000
"""Images of the other data set that windows are cut from."""

CONTROL_IMAGES, FAITHFUL_IMAGES = 1000, 300
"""Of `ScoreSettings`, by default; a CPU gets fewer of a network with more multiply-accumulates than `USUAL_MACS`."""
USUAL_MACS, LEAST_IMAGES = 3e8, 30

PASSES = {"own": 1, "gradcam": 3, "occlusion": 60, "integrated_gradients": 150, "iba": 300}
"""About what a map costs, in forward passes: beside explainers that take many, a CPU gets fewer images."""

USUAL_OTHERS = ("svhn", "clutter", "cifar10", "cifar100")
"""Data sets to cut windows from: the first that is at hand, is not the run's own and fits."""

CALIBRATION_IMAGES = 512
"""Training images for what needs some: statistics of randomised networks, noise of the information bottleneck."""


@dataclass(frozen=True)
class ScoreJob:
    """A run with its images, and what is made from them once."""

    run: LoadedRun
    bundle: DataBundle
    split: Split
    settings: ScoreSettings
    device: str
    explainers: Mapping[str, Explainer]
    patches: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, settings: ScoreSettings, device: str) -> ScoreJob:
        run = load_run(path, device=device)
        bundle = open_run_data(run, settings.data, label_convention(run, settings.data, settings.labels),
                               root=settings.root, download=settings.download)  # fmt: skip
        split = bundle.split(settings.split)
        if len(split) < 2:
            raise ValueError(f"{bundle.name} has {len(split)} {settings.split} images; scores need at least 2")
        job = cls(run, bundle, split, settings, device, {})
        job = replace(job, split=job.some(settings.images), patches=_patches(settings, run, bundle, max(job.windows())))
        if not settings.against:
            return job
        shape, known = (run.card["channels"], *run.image_size), job.training_images()
        explainers = {name: make_explainer(name, run.model, shape, known, settings.seed) for name in settings.against}
        return replace(job, explainers=explainers)

    def some(self, count: int | None) -> Split:
        """At most ``count`` images drawn by the seed, in the order of the split."""
        if count is None or count >= len(self.split):
            return self.split
        return self.split.select(self._order()[:count].sort().values)

    def mixed(self, count: int) -> Split:
        """At most ``count`` images drawn by the seed, in random order: what lies together in a set is often of one class."""
        return self.split.select(self._order()[:count])

    def _order(self) -> Tensor:
        return torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.settings.seed))

    def count(self, asked: int | None, usual: int, maps: int = 1, at_most: int = 1, *, explained: bool = True) -> int:
        """Images to take: what was asked for, or the usual number; fewer on a CPU where maps or passes cost much.

        Args:
            asked: by the settings.
            usual: otherwise.
            maps: how many are compared on each image: where there are more than ``at_most``, images are fewer in proportion, so
                that many controls do not take longer than few.
            at_most: of them at full number.
            explained: whether the explainers are among them.
        """
        if asked is not None:
            return asked
        passes = max([1, *(PASSES[name.partition("@")[0]] for name in self.explainers if explained)])
        share = 1.0 if self.device != "cpu" else min(1.0, USUAL_MACS / self.run.card["macs"], 30 / passes)
        return max(LEAST_IMAGES, round(usual * min(share, at_most / maps)))

    def passes(self, sources: ScoreSources) -> int:
        """About what the maps of every version of an image cost, in forward passes of the network."""
        every = [("own" if name == OWN_MAP else name) for name in [*sources.judged, *sources.made_for.values()]]
        return sum(PASSES[name.partition("@")[0]] for name in every)

    def images(self, split: Split, at_once: int = 250) -> Iterator[Tensor]:
        """Normalised batches on the device."""
        for batch in split.batches(batch_indices(torch.arange(len(split)), at_once)):
            yield normalize(batch.images.to(self.device), self.run.mean, self.run.std)

    def training_images(self) -> Tensor:
        """Normalised images to take statistics from: of training, or of the set itself where it brings none for that."""
        source = self.bundle.train if len(self.bundle.train) >= 2 else self.split
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.settings.seed))[:CALIBRATION_IMAGES]
        return next(self.images(source.select(order.sort().values), CALIBRATION_IMAGES))

    def windows(self) -> tuple[int, ...]:
        """Sides of the windows in pixels."""
        share = min(self.run.image_size) / 32
        return self.settings.windows or tuple(dict.fromkeys(max(1, round(size * share)) for size in (4, 8, 12, 16)))

    def edits(self) -> tuple[tuple[Edit, ...], tuple[Edit, ...]]:
        """The edits of table 2, and further radii for a sweep."""
        settings, share = self.settings, min(self.run.image_size) / 32
        low, high = settings.low or (12 * share,), settings.high or (4 * share,)
        main = (*window_edits(self.windows(), self.patches), *frequency_edits(low, high))
        swept = frequency_edits(
            [] if settings.low else [radius * share for radius in (4, 8, 16)],
            [] if settings.high else [radius * share for radius in (2, 8, 12)],
        )
        return main, swept

    def consistency(self, split: Split, edits: Sequence[Edit], sources: Mapping[str, MapSource | RandomMaps]) -> Consistency:
        return measure_consistency(
            self.run.model, split, self.run.mean, self.run.std, edits, sources,
            seed=self.settings.seed, device=self.device, batch_size=self.settings.batch_size,
        )  # fmt: skip

    def randomized(self, draw: int = 0) -> dict[str, Classifier]:
        """The run's network with random weights, by name; none where no map can be taken from them at little cost.

        The weights are not those that the training started from, to which a trained network stays close, but another start's.

        Args:
            draw: which of as many starts as are wanted, from 0 on.
        """
        if not self.run.model.has_map and not any(cheap(explainer) for explainer in self.explainers.values()):
            return {}
        config = self.run.folder.config
        with torch.random.fork_rng(devices=()):
            start = derived_seed("random weights", config.run.seed, self.settings.seed, draw) % 2**31
            scratch = replace(config, model=replace(config.model, pretrained=None), run=replace(config.run, seed=start))
            fresh = start_network(scratch, self.bundle, resumed=not len(self.bundle.train)).to(self.device)
        return randomized_networks(self.run.model, fresh, self.training_images(), seed=self.settings.seed)

    def sources(self) -> ScoreSources:
        """What is judged, and the controls of each, those with random weights of the first draw."""
        own = {OWN_MAP: AttentionMap(self.run.model)} if self.run.model.has_map else {}
        return ScoreSources.of({**own, **self.explainers}, self.randomized(), self.training_images()[:64], self.settings.seed)


def _patches(settings: ScoreSettings, run: LoadedRun, bundle: DataBundle, largest: int) -> dict[str, Tensor]:
    """Pixels (M, C, H, W) of the other data set by its name in an edit; by default of one that has windows as large."""
    if (other := settings.other) == NO_OTHER:
        return {}
    if other is not None and run.trained_on(other):
        raise ValueError(f"other is {other!r}, which the run was trained on; windows of another data set are filled from another")
    found = None
    for name in (other,) if other is not None else [name for name in USUAL_OTHERS if not run.trained_on(name)]:
        try:
            root = locate_root(run.folder, name, settings.root)
            found = open_data(name, root=root, download=settings.download and other is not None, val_fraction=None)
        except ValueError:
            if other is not None:
                raise
            continue
        fits = found.channels == bundle.channels and found.name != bundle.name and min(found.image_size) >= largest
        if fits or other is not None:
            break
        found = None
    if found is None:
        return {}
    if found.channels != bundle.channels:
        raise ValueError(f"{found.name} has {found.channels} channels and {bundle.name} {bundle.channels}; patches need the same")
    order = torch.randperm(len(found.test), generator=torch.Generator().manual_seed(0))[:PATCH_IMAGES]
    batches = found.test.batches(batch_indices(order, 500))
    return {"SVHN" if found.name == "svhn" else found.name: torch.cat([batch.images.cpu() for batch in batches])}
