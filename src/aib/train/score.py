"""Scoring the maps of a trained run: the paper's interpretability score, faithfulness, localisation and bits, beside controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aib.data.bundle import Split
from aib.interpret.agreement import metric_agreement
from aib.interpret.consistency import OWN_MAP, THRESHOLDS, Consistency
from aib.interpret.map_sources import control_name, control_sources
from aib.interpret.randomization import map_similarity
from aib.train.bits import detection_numbers, information_numbers, open_outside
from aib.train.checkpoint import naming
from aib.train.predict import predict
from aib.train.run_data import label_convention
from aib.train.score_gallery import save_edited_gallery
from aib.train.score_job import CONTROL_IMAGES, ScoreJob
from aib.train.score_metrics import agreement_table, footing
from aib.train.score_settings import ScoreSettings
from aib.train.score_sources import CONTROLS, OTHER_IMAGE, ScoreSources, attributed

__all__ = ["FORMAT", "score_run"]

FORMAT = 3
"""Of ``score/SPLIT.json``: since 2, controls have the resolution of what they are beside, and metrics have all of them; since 3,
the blur leaves the blurred image where everything is removed, and curves and mean cosines have intervals."""

DRAWS = 3
"""Of random weights in the sanity check; the controls are networks of the first, since every draw costs as much again."""

AT_MOST = 18
"""Passes on every version of an image up to which `CONTROL_IMAGES` are taken."""


def score_run(
    path: Path,
    settings: ScoreSettings | None = None,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score the maps of a run's selected weights and write ``score/SPLIT.json``.

    What is judged, all on the same images: the run's own map, and the explainers of ``settings.against``, which explain the class
    predicted for the original image. Beside each its controls (`aib.train.score_sources`), in every metric in which they make
    sense (`aib.train.score_metrics`). Costly explainers leave few images; how far the own map stands above its controls under the
    edits is then measured once more, on as many as without them.

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
    job = ScoreJob.of(path, settings, device)
    if not job.run.model.has_map and not settings.against:
        raise ValueError(
            f"{path} has no attention ({job.run.card['name']} is a plain classifier): name explainers, as in --against gradcam"
        )
    edits, more = job.edits()
    outside = open_outside(job.run, settings.outside, settings.root, settings.download)
    result: dict[str, Any] = {
        "format": FORMAT, "model": job.run.card["name"], "data": job.bundle.name, "split": settings.split, "n": len(job.split),
        "labels": label_convention(job.run, settings.data, settings.labels),
        "seed": settings.seed, "own": OWN_MAP if job.run.model.has_map else None, "against": list(settings.against),
        "controls": list(CONTROLS), "thresholds": list(THRESHOLDS), "image_size": list(job.run.image_size),
        "edits": [[edit.name, edit.size] for edit in edits],
    }  # fmt: skip
    sources = job.sources()
    if job.run.model.has_map:
        say(f"consistency of the map: {len(job.split)} images under {len(edits)} edits")
        own = job.consistency(job.split, edits, control_sources(sources.sizes[OWN_MAP], settings.seed))
        result["consistency"] = {
            **_consistency_numbers(own, [OWN_MAP]),
            "comparisons": [own.comparison(edit, OWN_MAP) for edit in own.edits],
        }
    chosen = job.some(_control_images(job, sources))
    networks = len({name.partition("@")[0] for name in sources.networks})
    say(f"beside {networks} networks with random weights and {len(settings.against)} explainers: {len(chosen)} images")
    together = job.consistency(chosen, (*edits, *more), sources.beside())
    found = dict.fromkeys(sources.judged, together)
    if job.run.model.has_map:
        mine = sources.only(OWN_MAP)
        if (usual := _control_images(job, mine, explained=False)) > len(chosen):
            found[OWN_MAP] = job.consistency(job.some(usual), (*edits, *more), mine.beside())
    if sources.networks:
        result["randomized"] = _similarity(job, sources, chosen)
    result["beside_controls"] = {
        **_consistency_numbers(together, list(sources.judged)),
        "controls": list(dict.fromkeys(name for source in sources.judged for name in sources.controls_of(source))),
        "controls_of": {source: sources.controls_of(source) for source in sources.judged},
        "map_sizes": {source: list(size) for source, size in sources.sizes.items()},
        "same_map": list(sources.same_map),
        "not_recomputed": sources.not_recomputed,
        "comparisons": [
            one.comparison(edit, source, sources.controls_of(source, other=False))
            for source, one in found.items() for edit in one.edits
        ],
    }  # fmt: skip
    result |= footing(job, sources, say)
    if (bits := information_numbers(job.run, job.images(job.split), settings.seed)) is not None:
        say("bits of the latent and of the map")
        result["information"] = bits
    if settings.outside:
        say(f"images of {', '.join(settings.outside)} beside {job.bundle.name}")
        result["detection"] = detection_numbers(job.run, job.split, outside, device=device, seed=settings.seed)
    result["agreement"] = metric_agreement(agreement_table(result), list(sources.judged))
    name = settings.split if settings.data is None else f"{Path(settings.data).stem}-{settings.split}"
    sizes = sorted({edit.size for edit in edits if edit.name.endswith("window")})
    shown = [edit for edit in edits if not edit.name.endswith("window") or edit.size == sizes[len(sizes) // 2]]
    with naming(job.run.folder.path / "score" / f"{name}-gallery"):
        save_edited_gallery(job.run.folder, name, job.run, job.split, shown, sources.judged, seed=settings.seed, device=device)
    job.run.folder.write_json(f"score/{name}.json", result)  # last: where it is, the scores are complete
    return result


def _control_images(job: ScoreJob, sources: ScoreSources, explained: bool = True) -> int:
    return job.count(job.settings.control_images, CONTROL_IMAGES, job.passes(sources), AT_MOST, explained=explained)


def _consistency_numbers(found: Consistency, judged: list[str]) -> dict[str, Any]:
    """Every source under every edit, and the maps of another image of those that are judged.

    Another image's map in the place of the edited image's passes as often as `Consistency.summary` says, and its excess over itself
    is 0 by definition.
    """
    rows = [found.summary(source, edit) for source in found.own for edit in found.edits]
    for row in [row for row in rows if row["source"] in judged]:
        thresholds = {
            threshold: {"score": numbers["other"], "other": numbers["other"], "excess": numbers["other"] and [0.0, 0.0, 0.0]}
            for threshold, numbers in row["thresholds"].items()
        }
        alike = row["correlation"]["other"]
        rows.append({
            **row, "source": control_name(OTHER_IMAGE, row["source"]), "thresholds": thresholds, "cosine_own": row["cosine_other"],
            "correlation": {"own": alike, "other": alike, "excess": alike and [0.0, 0.0, 0.0]},
        })  # fmt: skip
    return {"n": len(found.original), "rows": rows}


def _similarity(job: ScoreJob, sources: ScoreSources, split: Split) -> dict[str, Any]:
    """How alike the maps of networks with random weights are to those of the run's, over `DRAWS`: the sanity check itself."""
    batches = list(job.images(split))
    classes = predict(job.run.model, split, job.run.mean, job.run.std, device=job.device).logits.argmax(1)
    trained: Mapping[str, Any] = {
        source: attributed(sources.judged[source], batches, classes) for source in dict.fromkeys(sources.made_for.values())
    }
    maps: dict[str, list[Tensor]] = {name: [] for name in sources.networks}
    for draw in range(DRAWS):  # one after the other: networks are large, maps are not
        networks = sources.networks if draw == 0 else sources.again(job.randomized(draw))
        for name, again in networks.items():
            maps[name].append(attributed(again, batches, classes))
    return {name: map_similarity(trained[sources.made_for[name]], draws, job.settings.seed) for name, draws in maps.items()}
