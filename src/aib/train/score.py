"""Scoring the maps of a trained run: the paper's interpretability score, faithfulness, localisation and bits, beside controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aib.data import open_data
from aib.data.augment import normalize
from aib.data.bundle import DataBundle, Split, batch_indices
from aib.functional import resize_maps
from aib.interpret.ablation import map_ablation
from aib.interpret.agreement import metric_agreement
from aib.interpret.choice import make_explainer
from aib.interpret.consistency import OWN_MAP, THRESHOLDS, Consistency, measure_consistency
from aib.interpret.controls import blurred_random, centred_gaussian, edge_map, uniform
from aib.interpret.explainers import AttentionMap, Explainer
from aib.interpret.faithfulness import removal_faithfulness
from aib.interpret.grid_pointing import grid_pointing_game
from aib.interpret.localization import localize
from aib.interpret.map_sources import MapSource, RandomMaps, control_sources, from_explainer
from aib.interpret.named_edits import Edit, frequency_edits, window_edits
from aib.interpret.randomization import map_similarity, randomized_networks
from aib.interpret.sensitivity import map_sensitivity
from aib.train.bits import detection_numbers, information_numbers, open_outside
from aib.train.checkpoint import naming
from aib.train.predict import predict
from aib.train.run_data import label_convention, open_run_data
from aib.train.score_gallery import save_edited_gallery
from aib.train.score_settings import NO_OTHER, ScoreSettings
from aib.train.start import start_network
from aib.train.weights import LoadedRun, load_run

__all__ = ["CONTROLS", "score_run"]

CONTROLS = ("uniform", "centre", "edges", "random")
"""Controls that know nothing of the network; those that are networks follow in `score_run`."""

PATCH_IMAGES = 2000
"""Images of the other data set that windows are cut from."""

CONTROL_IMAGES, FAITHFUL_IMAGES = 1000, 300
"""Of `ScoreSettings`, by default; a CPU gets fewer of a network with more multiply-accumulates than `USUAL_MACS`."""
USUAL_MACS, LEAST_IMAGES = 3e8, 30

PASSES = {"own": 1, "gradcam": 3, "occlusion": 60, "integrated_gradients": 150, "iba": 300}
"""About what a map costs, in forward passes: beside explainers that take many, a CPU gets fewer images."""

CALIBRATION_IMAGES = 512
"""Training images for what needs some: statistics of randomised networks, noise of the information bottleneck."""

SAME_MAP = 0.5
"""Mean rank correlation with the run's map from which on a network of the cascade still gives that map."""


def score_run(
    path: Path,
    settings: ScoreSettings | None = None,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score the maps of a run's selected weights and write ``score/SPLIT.json``.

    Sources of maps, all judged on the same images: the run's own map; the explainers of ``settings.against``, which explain the
    class predicted for the original image; `CONTROLS`; and for the consistency score the networks of
    `aib.interpret.randomization.randomized_networks`.

    Args:
        path: run folder.
        settings: what to score; by default all images under the edits of table 2.
        device: where to compute.
        say: gets a line before each part.

    Returns:
        The content of ``score/SPLIT.json``.

    Raises:
        ValueError: no such run, data or explainer; a run without a map and nothing to score it against; an edit that does not fit.
    """
    settings = settings or ScoreSettings()
    job = _Job.of(path, settings, device)
    if not job.run.model.has_map and not settings.against:
        raise ValueError(
            f"{path} has no attention ({job.run.card['name']} is a plain classifier): name explainers, as in --against gradcam"
        )
    edits, more = job.edits()
    outside = open_outside(job.run, settings.outside)
    result: dict[str, Any] = {
        "model": job.run.card["name"], "data": job.bundle.name, "split": settings.split, "n": len(job.split),
        "labels": label_convention(job.run, settings.data, settings.labels),
        "seed": settings.seed, "own": OWN_MAP if job.run.model.has_map else None, "against": list(settings.against),
        "controls": list(CONTROLS), "thresholds": list(THRESHOLDS), "image_size": list(job.run.image_size),
    }  # fmt: skip
    if job.run.model.has_map:
        say(f"consistency of the map: {len(job.split)} images under {len(edits)} edits")
        own = job.consistency(job.split, edits, control_sources(job.map_size(), settings.seed))
        result["consistency"] = _consistency_numbers(own, OWN_MAP, settings.seed)
    networks = job.randomized()
    chosen = job.some(job.count(settings.control_images, CONTROL_IMAGES))
    say(f"beside {len(networks)} networks with random weights and {len(settings.against)} explainers: {len(chosen)} images")
    sources: dict[str, MapSource | RandomMaps] = {**control_sources(job.map_size(), settings.seed)}
    sources |= {name: from_explainer(AttentionMap(network)) for name, network in networks.items()}
    sources |= {name: from_explainer(explainer) for name, explainer in job.explainers.items()}
    found = job.consistency(chosen, (*edits, *more), sources)
    similarity, same = _similarity(job, networks, chosen)
    if similarity:
        result["randomized"] = similarity
    controls = [name for name in sources if name not in job.explainers and name not in same]
    judged = [OWN_MAP] * job.run.model.has_map + list(settings.against)
    result["beside_controls"] = {
        **_consistency_numbers(found, None, settings.seed),
        "controls": controls,
        "same_map": same,
        "comparisons": [
            found.comparison(edit, source, controls, seed=settings.seed) for source in judged for edit in found.edits
        ],
    }  # fmt: skip
    result |= _footing(job, say)
    if (bits := information_numbers(job.run, job.images(job.split), settings.seed)) is not None:
        say("bits of the latent and of the map")
        result["information"] = bits
    if settings.outside:
        say(f"images of {', '.join(settings.outside)} beside {job.bundle.name}")
        result["detection"] = detection_numbers(job.run, job.split, outside, device=device, seed=settings.seed)
    result["agreement"] = metric_agreement(_metric_table(result))
    name = settings.split if settings.data is None else f"{Path(settings.data).stem}-{settings.split}"
    sizes = sorted({edit.size for edit in edits if edit.name.endswith("window")})
    shown = [edit for edit in edits if not edit.name.endswith("window") or edit.size == sizes[len(sizes) // 2]]
    explainers = {**({OWN_MAP: AttentionMap(job.run.model)} if job.run.model.has_map else {}), **job.explainers}
    with naming(job.run.folder.path / "score" / f"{name}-gallery"):
        save_edited_gallery(job.run.folder, name, job.run, job.split, shown, explainers, seed=settings.seed, device=device)
    job.run.folder.write_json(f"score/{name}.json", result)  # last: where it is, the scores are complete
    return result


@dataclass(frozen=True)
class _Job:
    """A run with its images, and what is made from them once."""

    run: LoadedRun
    bundle: DataBundle
    split: Split
    settings: ScoreSettings
    device: str
    explainers: Mapping[str, Explainer]
    patches: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, settings: ScoreSettings, device: str) -> _Job:
        run = load_run(path, device=device)
        bundle = open_run_data(run, settings.data, label_convention(run, settings.data, settings.labels))
        split = bundle.split(settings.split)
        if len(split) < 2:
            raise ValueError(f"{bundle.name} has {len(split)} {settings.split} images; scores need at least 2")
        job = cls(run, bundle, split, settings, device, {})
        job = replace(job, split=job.some(settings.images), patches=_patches(settings.other, run, bundle, max(job.windows())))
        shape = (run.card["channels"], *run.image_size)
        explainers = {
            name: make_explainer(name, run.model, shape, job.training_images(), settings.seed) for name in settings.against
        }
        return replace(job, explainers=explainers)

    def some(self, count: int | None) -> Split:
        """At most ``count`` images drawn by the seed, in the order of the split."""
        if count is None or count >= len(self.split):
            return self.split
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.settings.seed))
        return self.split.select(order[:count].sort().values)

    def count(self, asked: int | None, usual: int) -> int:
        """Images to take: what was asked for, or the usual number; fewer on a CPU where maps or passes cost much."""
        if asked is not None:
            return asked
        passes = max([1, *(PASSES[name.partition("@")[0]] for name in self.explainers)])
        share = 1.0 if self.device != "cpu" else min(1.0, USUAL_MACS / self.run.card["macs"], 30 / passes)
        return max(LEAST_IMAGES, round(usual * share))

    def images(self, split: Split, at_once: int = 250) -> Iterator[Tensor]:
        """Normalised batches on the device."""
        for batch in split.batches(batch_indices(torch.arange(len(split)), at_once)):
            yield normalize(batch.images.to(self.device), self.run.mean, self.run.std)

    def training_images(self) -> Tensor:
        """Normalised images to take statistics from: of training, or of the set itself where it brings none for that."""
        source = self.bundle.train if len(self.bundle.train) >= 2 else self.split
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.settings.seed))[:CALIBRATION_IMAGES]
        return next(self.images(source.select(order.sort().values), CALIBRATION_IMAGES))

    def map_size(self) -> tuple[int, int] | None:
        """Resolution of the run's own map, at which controls are compared with it; None: the images'."""
        if not self.run.model.has_map:
            return None
        height, width = _maps(AttentionMap(self.run.model), [self.training_images()[:2]]).shape[2:]
        return height, width

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

    def randomized(self) -> dict[str, Any]:
        """The run's network with random weights, by name; none for a network without a map of its own."""
        if not self.run.model.has_map:
            return {}
        config = self.run.folder.config
        with torch.random.fork_rng(devices=()):
            scratch = replace(config, model=replace(config.model, pretrained=None))
            fresh = start_network(scratch, self.bundle, resumed=not len(self.bundle.train)).to(self.device)
        return randomized_networks(self.run.model, fresh, self.training_images(), seed=self.settings.seed)


def _patches(other: str | None, run: LoadedRun, bundle: DataBundle, largest: int) -> dict[str, Tensor]:
    """Pixels (M, C, H, W) of the other data set by its name in an edit; by default of one that has windows as large."""
    if other == NO_OTHER:
        return {}
    if other in (run.folder.config.data.data, run.card["data"]):
        raise ValueError(f"other is {other!r}, which the run was trained on; windows of another data set are filled from another")
    root = Path(run.folder.config.data.root)
    found = None
    for name in (other,) if other is not None else ("svhn", "clutter"):
        try:
            found = open_data(name, root=root, val_fraction=None)
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


def _maps(explainer: Explainer, batches: Sequence[Tensor]) -> Tensor:
    """(N, 1, h, w) float32 on the CPU."""
    return torch.cat([explainer.attribute(images).float().cpu() for images in batches])


def _consistency_numbers(found: Consistency, only: str | None, seed: int) -> dict[str, Any]:
    """Every source under every edit; with ``only``, also how far it stands above the other sources."""
    numbers: dict[str, Any] = {
        "n": len(found.original),
        "rows": [found.summary(source, edit, seed=seed) for source in found.own for edit in found.edits],
    }
    if only is not None:
        numbers["comparisons"] = [found.comparison(edit, only, seed=seed) for edit in found.edits]
    return numbers


def _similarity(job: _Job, networks: Mapping[str, Any], split: Split) -> tuple[dict[str, Any], list[str]]:
    """How alike the maps of each randomised network are to the run's, and which of the cascade still give the run's own map.

    Where all that is random lies behind the map, or next to it, the map changes little or not at all: such a network is no control
    of its score. The untrained network and the one without its trained attention always are.
    """
    if not networks:
        return {}, []
    batches = list(job.images(split))
    trained = _maps(AttentionMap(job.run.model), batches)
    maps = {name: _maps(AttentionMap(network), batches) for name, network in networks.items()}
    found = {name: map_similarity(trained, other, job.settings.seed) for name, other in maps.items()}
    cascade = {name: numbers["spearman"] for name, numbers in found.items() if name.startswith("last ")}
    return found, [name for name, spearman in cascade.items() if spearman is not None and spearman[0] >= SAME_MAP]


def _footing(job: _Job, say: Callable[[str], None]) -> dict[str, Any]:
    """Own map, explainers and controls on the same images: removal, noise, grids, masks."""
    run, settings = job.run, job.settings
    split = job.some(job.count(settings.faithful_images, FAITHFUL_IMAGES))
    pixels = torch.cat([b.images.cpu() for b in split.batches(batch_indices(torch.arange(len(split)), 250))])
    explainers = {**({OWN_MAP: AttentionMap(run.model)} if run.model.has_map else {}), **job.explainers}
    batches = list(job.images(split, 64))
    maps = {name: _maps(explainer, batches) for name, explainer in explainers.items()}
    controls = {
        "uniform": uniform(pixels), "centre": centred_gaussian(pixels), "edges": edge_map(pixels),
        "random": blurred_random(pixels, settings.seed),
    }  # fmt: skip
    say(f"faithfulness: {len(split)} images, {len(maps)} sources of maps and {len(controls)} controls")
    predictions = predict(run.model, split, run.mean, run.std, device=job.device)
    answers = predictions.logits.argmax(1)
    found: dict[str, Any] = {
        "faithfulness": removal_faithfulness(
            run.model, pixels, {**maps, **controls}, run.mean, run.std, split.labels, seed=settings.seed, device=job.device
        ).numbers(settings.seed),
        "sensitivity": {
            name: map_sensitivity(
                explainer.attribute, pixels, run.mean, run.std, answers, seed=settings.seed, device=job.device
            ).numbers(settings.seed)
            for name, explainer in explainers.items()
        },
    }  # fmt: skip
    if run.model.gated:
        pairs = zip(job.images(job.some(2000)), job.some(2000).labels.to(job.device).split(250))
        found["map_ablation"] = map_ablation(run.model, pairs, settings.seed)
    right = (answers == split.labels).nonzero().flatten()
    if len(split.labels[right].unique()) >= 2 and not any(side % 2 for side in run.image_size):
        found["grid_pointing"] = grid_pointing_game(
            {name: explainer.attribute for name, explainer in explainers.items()}, pixels, split.labels, answers,
            run.mean, run.std, grids=min(250, len(right)), seed=settings.seed, device=job.device,
        ).numbers(settings.seed)  # fmt: skip
    if split.masks is not None and bool(split.masks.any()):
        sized = {name: resize_maps(one, (pixels.shape[2], pixels.shape[3]), "nearest") for name, one in maps.items()}
        found["localization"] = localize(sized, split.masks, pixels, seed=settings.seed)
    return found


def _metric_table(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The mean of every metric that more of is better, by metric and by source of maps."""
    table: dict[str, dict[str, float]] = {}
    excess: dict[str, list[float]] = {}
    for row in result["beside_controls"]["rows"]:
        value = row["thresholds"]["0.9"]["excess"]
        excess.setdefault(row["source"], []).append(math.nan if value is None else value[0])
    table["consistency excess"] = {name: float(torch.tensor(values).nanmean()) for name, values in excess.items()}
    for fill, maps in result["faithfulness"]["fills"].items():
        for metric in ("srg", "polarity"):
            table[f"{metric}, {fill}"] = {name: numbers[metric][0] for name, numbers in maps.items()}
    if "grid_pointing" in result:
        table["grid pointing"] = {name: values[0] for name, values in result["grid_pointing"]["maps"].items()}
    for name, scores in result.get("localization", {}).get("maps", {}).items():
        for metric, values in scores.items():
            table.setdefault(metric, {})[name] = values[0]
    return table
