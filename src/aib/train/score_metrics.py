"""Every metric of maps but the consistency, of what is judged and of its controls on the same images.

Not every control makes sense in every metric, and what is left out is left out for a reason:

removal       all of them; maps from networks with random weights say which cells go, and the trained network is asked.
sensitivity   not the map of another image, whose number is the map's own by definition. Maps that are the same for all images
              (uniform, centre) have none and say so; noise is drawn anew for every image, so that its share is about 1.
grid pointing maps that do not depend on the class are at chance by definition, whatever they show: the own map, all that is
              computed from images alone, and networks' attention. Played against are the explainers of a class (of `vgg_gap` the
              own map) on networks with random weights, and for the map of other images.
masks         all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aib.data.bundle import batch_indices
from aib.functional import resize_maps
from aib.interpret.ablation import map_ablation
from aib.interpret.consistency import OWN_MAP
from aib.interpret.explainers import Target
from aib.interpret.faithfulness import removal_faithfulness
from aib.interpret.grid_pointing import CONTROLS as CHANCE
from aib.interpret.grid_pointing import grid_pointing_game
from aib.interpret.intervals import wilson_interval
from aib.interpret.localization import localize
from aib.interpret.map_sources import control_maps, image_noise
from aib.interpret.sensitivity import map_sensitivity, sensitivity_numbers
from aib.train.predict import predict
from aib.train.score_job import FAITHFUL_IMAGES, ScoreJob
from aib.train.score_sources import ScoreSources

__all__ = ["agreement_table", "footing"]

AT_MOST = 7
"""Maps of an image up to which `FAITHFUL_IMAGES` are taken."""

Attribute = Callable[[Tensor, Target], Tensor]
"""Normalised images and the classes explained to maps."""

GRIDS, ABLATED, BATCH = 250, 2000, 250
"""Grids of images; images whose maps are replaced, and how many at a time."""


def footing(job: ScoreJob, sources: ScoreSources, say: Callable[[str], None]) -> dict[str, Any]:
    """``"faithfulness"``, ``"sensitivity"``, and where they can be had maps replaced, grids and masks, as the file holds them."""
    run, settings = job.run, job.settings
    compared = set(sources.judged).union(*(sources.controls_of(source) for source in sources.judged))
    split = job.some(job.count(settings.faithful_images, FAITHFUL_IMAGES, len(compared), AT_MOST))
    pixels = torch.cat([b.images.cpu() for b in split.batches(batch_indices(torch.arange(len(split)), BATCH))])
    predictions = predict(run.model, split, run.mean, run.std, device=job.device)
    answers = predictions.logits.argmax(1)
    maps, controls = sources.maps(pixels, list(job.images(split, 64)), answers)
    say(f"faithfulness: {len(split)} images, {len(maps)} sources of maps and {len(controls)} controls")
    controls_of = {source: sources.controls_of(source) for source in sources.judged}
    found: dict[str, Any] = {
        "faithfulness": removal_faithfulness(
            run.model, pixels, {**maps, **controls}, run.mean, run.std, split.labels, seed=settings.seed, device=job.device
        ).numbers(settings.seed, controls_of),
        "sensitivity": sensitivity_numbers({
            name: map_sensitivity(attribute, pixels, run.mean, run.std, answers, seed=settings.seed, device=job.device)
            for name, attribute in _steady(sources, run.mean, run.std).items()
        }, controls_of, settings.seed),
    }  # fmt: skip
    if run.model.gated:
        found["map_ablation"] = _ablation(job)
    right = (answers == split.labels).nonzero().flatten()
    if len(split.labels[right].unique()) >= 2 and not any(side % 2 for side in run.image_size):
        explained = [name for name in sources.judged if name != OWN_MAP or run.model.map_of_class]
        again = [name for name, of in sources.made_for.items() if of in explained and name not in sources.same_map]
        played = {**sources.judged, **{name: sources.networks[name] for name in again}}
        found["grid_pointing"] = grid_pointing_game(
            {name: one.attribute for name, one in played.items()}, pixels, split.labels, answers, run.mean, run.std,
            others=explained, grids=min(GRIDS, len(right)), seed=settings.seed, device=job.device,
        ).numbers(settings.seed, {name: [*CHANCE, *controls_of[name]] for name in explained})  # fmt: skip
    if split.masks is not None and not bool(split.masks.any()):
        say(f"localisation: none, the masks of all {len(split)} images are empty")
    elif split.masks is not None:
        size = (pixels.shape[2], pixels.shape[3])
        judged, known = ({name: resize_maps(one, size, "nearest") for name, one in some.items()} for some in (maps, controls))
        found["localization"] = localize(judged, split.masks, seed=settings.seed, controls=known, controls_of=controls_of)
    return found


def _steady(sources: ScoreSources, mean: Sequence[float], std: Sequence[float]) -> dict[str, Attribute]:
    """What gives maps of normalised images, by name."""
    found = {name: one.attribute for name, one in sources.judged.items()}
    found |= {name: one.attribute for name, one in sources.networks.items() if name not in sources.same_map}

    def drawn(kind: str, size: tuple[int, int]) -> Attribute:
        def attribute(images: Tensor, target: Target = None) -> Tensor:
            scale, shift = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (std, mean))
            pixels = 255 * (images * scale + shift)
            return image_noise(images, size, sources.seed) if kind == "random" else control_maps(pixels, size)[kind]

        return attribute

    return found | {name: drawn(kind, size) for name, (kind, size) in sources.drawn.items()}


def _ablation(job: ScoreJob) -> dict[str, list[float]]:
    """Error of each replacement of the map as [share, low, high], with Wilson's interval."""
    split = job.mixed(ABLATED)
    errors = map_ablation(job.run.model, zip(job.images(split), split.labels.to(job.device).split(BATCH)), job.settings.seed)
    lone = int(len(split) % BATCH == 1)  # an image alone in its batch has no other map to take
    return {
        name: [error, *wilson_interval(error * (count := len(split) - lone * (name == "shuffled_images")), count)]
        for name, error in errors.items()
    }


def agreement_table(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """One entry a metric, by source of maps, with the sign that makes more better.

    The consistency's excess is that over all images whose prediction stays, of all edits of table 2 together; what depends on the
    fill is the mean over the fills: near-identical metrics would agree with each other and be counted as many. Class-independent
    maps are at chance in the grid pointing game.
    """
    table: dict[str, dict[str, float]] = {}

    def add(metric: str, source: str, values: list[Any], sign: int = 1) -> None:
        known = [value[0] for value in values if value is not None]
        table.setdefault(metric, {})[source] = sign * sum(known) / len(known) if known else math.nan

    rows = [row for row in result["beside_controls"]["rows"] if [row["edit"], row["size"]] in result["edits"]]
    for source in dict.fromkeys(row["source"] for row in rows):
        mine = [row for row in rows if row["source"] == source and row["unchanged"]]
        total = sum(row["unchanged"] for row in mine)
        pooled = sum(row["unchanged"] * row["thresholds"]["0.9"]["excess"][0] for row in mine)
        add("consistency excess", source, [[pooled / total]] if total else [])
    fills = list(result["faithfulness"]["fills"].values())
    for source in fills[0]:
        for metric, sign in (("srg", 1), ("polarity", 1), ("deletion", -1), ("insertion", 1)):
            add(metric, source, [maps[source][metric] for maps in fills], sign)
        add("accuracy", source, [maps[source]["unattended_removed"]["1/2"] for maps in fills])
    for source, numbers in result["sensitivity"].items():
        add("noise", source, [numbers["pooled"]], -1)
    if "grid_pointing" in result:
        grid = result["grid_pointing"]
        for source in result["sensitivity"]:
            add("grid pointing", source, [grid["maps"].get(source, [grid["chance"]])])
    for source, scores in result.get("localization", {}).get("maps", {}).items():
        for metric, values in scores.items():
            add(metric, source, [values])
    return table
