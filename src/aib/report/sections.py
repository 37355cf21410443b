"""The sections of one run: figures, and under each a plain sentence on what it shows and what it does not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aib.report import figures
from aib.report.compare import CONTROLS, MEANINGS, MEASURES, Table, measured, own_map
from aib.report.confusion import confusion_figure, worst_pairs
from aib.report.parts import Figure, Number, Section
from aib.report.read import RunRecord
from aib.report.score_sections import score_sections
from aib.report.style import ACCENT, CONTROL, OTHER, compact, interval, percent, plain

__all__ = ["headline", "run_sections"]

LN2 = math.log(2.0)
HARDLY_USED = 5.0
"""Points of accuracy; a shuffled map that costs less is called hardly used."""


def headline(record: RunRecord) -> list[Number]:
    """The numbers of the strip; those a run does not have are left out."""
    evaluation = record.evaluation
    numbers = []
    if evaluation is not None:
        note = f"95 %: {interval(evaluation['error_interval'])}"
        numbers.append(Number(f"{_split(record)} error", percent(evaluation["error"]), note))
        if "rate_bits" in evaluation:
            bits = evaluation.get("label_entropy_bits")
            numbers.append(
                Number("rate", f"{plain(evaluation['rate_bits'])}\u00a0bits", f"the label has {bits:.2f}" if bits else "an image")
            )
        if evaluation.get("anchors"):
            usage = evaluation["anchors"]
            numbers.append(Number("anchors in use", str(usage["used"]), f"of {len(usage['values'])}"))
    elif record.epochs and "error" in record.epochs[-1].get("val", {}):
        last = record.epochs[-1]
        numbers.append(Number("validation error", percent(last["val"]["error"]), f"epoch {last['epoch']}, not evaluated yet"))
    if record.model.get("parameters") is not None:
        numbers.append(Number("parameters", compact(record.model["parameters"]), f"{record.model['parameters']:,}"))
    if record.model.get("macs") is not None:
        size = "×".join(str(side) for side in record.model.get("image_size", ()))
        numbers.append(Number("MACs", compact(record.model["macs"]), f"for an image of {size}" if size else "for an image"))
    return numbers


def run_sections(record: RunRecord) -> list[Section]:
    """All sections that apply, in the order of the page."""
    made = [_localisation(record), *score_sections(record), _ablation(record), _errors(record), _calibration(record)]
    made += [_training(record), _plane(record), _anchors(record), _configuration(record)]
    return [section for section in made if section is not None]


def _split(record: RunRecord) -> str:
    return "validation" if record.split == "val" else str(record.split)


def _localisation(record: RunRecord) -> Section | None:
    found = (record.evaluation or {}).get("localization")
    if not found or not found.get("maps"):
        return None
    maps: Mapping[str, Any] = found["maps"]
    own = own_map(found)
    explainers = [name for name in maps if name != own and name.casefold() not in CONTROLS]
    order = ([own] if own else []) + explainers + [name for name in maps if name.casefold() in CONTROLS]
    colours = {name: ACCENT if name == own else OTHER if name in explainers else CONTROL for name in order}
    drawn = []
    for measure, title in MEASURES.items():
        values = measured(maps, measure)
        rows = [(name, colours[name], _of_chance(name, values[name])) for name in order if name in values]
        if rows:
            drawn.append(Figure(figures.interval_bars(title, rows), MEANINGS[measure]))
    excluded = found.get("excluded", 0)
    note = f"; {excluded:,} images with an empty mask are left out" if excluded else ""
    lead = _localisation_lead(maps, own or next(iter(explainers), None)) + f" Measured on {found['n'] - excluded:,} images{note}."
    return Section("localisation", "Does it look at the right thing?", lead, drawn)


def _of_chance(name: str, values: Sequence[float]) -> Sequence[float]:
    """Chance is known from the masks, and has no interval."""
    return (values[0], math.nan, math.nan) if name == "chance" else values


def _localisation_lead(maps: Mapping[str, Any], shown: str | None) -> str:
    pointing = measured(maps, "pointing_game")
    controls = {name: values for name, values in pointing.items() if name.casefold() in CONTROLS}
    if shown not in pointing:
        return "Maps beside their controls."
    mean, low, high = pointing[shown]
    text = f"The brightest place of the {shown} map lies on the object in {percent(mean)} of the images"
    text += f" (95 %: {interval((low, high))})"
    if not controls:
        return text + "; there is no control to compare it with."
    best = max(controls, key=lambda name: controls[name][0])
    verdict = "" if low > controls[best][2] else " The two intervals overlap: it has not been shown to look at the object."
    if high < controls[best][1]:
        verdict = " It does worse than that."
    return text + f"; the best control, “{best}”, reaches {percent(controls[best][0])}.{verdict}"


def _ablation(record: RunRecord) -> Section | None:
    """With the intervals of the scores where the run has them; the evaluation has none."""
    plain_errors = (record.evaluation or {}).get("map_ablation") or {}
    scored = {} if record.scores is None else record.scores.numbers.get("map_ablation", {})
    scored = {name: value for name, value in scored.items() if value is not None}
    errors = scored if "original" in scored else {name: (error, math.nan, math.nan) for name, error in plain_errors.items()}
    if "original" not in errors:
        return None
    lead = "The map was replaced while the rest of the network stayed as trained."
    if "shuffled_images" in errors:
        before, after = (errors[name] for name in ("original", "shuffled_images"))
        cost = 100 * (after[0] - before[0])
        change = f"error {_with_interval(before)} becomes {_with_interval(after)}"
        if cost >= HARDLY_USED:
            lead = f"Shuffling the maps across images costs {cost:.1f} points of accuracy: {change}."
        else:
            lead = f"The map is hardly used: shuffling the maps across images costs only {cost:.1f} points of accuracy ({change})."
    sentence = (
        "Error with the model's own map and with maps that tell it nothing about this image. A long bar means that the network "
        "relies on the map; it does not mean that the map is right."
    )
    if errors is scored:
        sentence += " On the images of aib score, with 95\u00a0% intervals"
        if record.evaluation is not None and {"original", "shuffled_images"} <= plain_errors.keys():
            first, last = (percent(plain_errors[name]) for name in ("original", "shuffled_images"))
            sentence += f"; on the {record.evaluation['n']:,} of aib eval it goes from {first} to {last} under another image's map"
        sentence += "."
    return Section("ablation", "Is the map used?", lead, [Figure(figures.ablation_bars(errors), sentence)])


def _with_interval(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return percent(mean) + ("" if math.isnan(low + high) else f" ({interval((low, high))})")


def _errors(record: RunRecord) -> Section | None:
    evaluation = record.evaluation
    if evaluation is None:
        return None
    names = record.class_names
    wrong = round(evaluation["error"] * evaluation["n"])
    lead = f"{wrong:,} of {evaluation['n']:,} {_split(record)} images are classified wrong: {percent(evaluation['error'])} (95 %: "
    lead += f"{interval(evaluation['error_interval'])})."
    selected = record.model.get("val_error") is not None  # else there were no validation images, and the last epoch is kept
    if selected and evaluation.get("last_error") is not None and evaluation.get("weights") == "best":
        lead += " These are the weights that did best on the validation split; those of the last epoch err on"
        lead += f" {percent(evaluation['last_error'])}."
    if record.split == "val":
        lead += " The weights were chosen on this split, so the number is optimistic."
    ordered = sorted(evaluation["classes"], key=lambda entry: -entry["error"] if entry["n"] else 1.0)
    rows = [
        [str(entry["name"]), f"{entry['n']:,}", percent(entry["error"]), percent(entry["precision"]), percent(entry["recall"])]
        for entry in ordered
    ]
    tables = [Table("Classes, the worst first.", ["class", "images", "error", "precision", "recall"], rows)]
    pairs = worst_pairs(evaluation["confusion"], names)
    if pairs:
        rows = [[true, predicted, f"{count:,}", percent(share)] for true, predicted, count, share in pairs]
        tables.append(Table("Most frequent mistakes.", ["true", "predicted", "images", "of the class"], rows))
    sentence = (
        "Rows are true classes, columns predictions; blue is right, orange wrong, and stronger is more. The orange is scaled to "
        "the most frequent mistake, so compare it within this matrix only."
    )
    return Section(
        "errors", "Where does it err?", lead, [Figure(confusion_figure(evaluation["confusion"], names), sentence)], tables
    )


def _calibration(record: RunRecord) -> Section | None:
    bins = (record.evaluation or {}).get("calibration")
    if not record.evaluation or not bins or not any(entry["count"] for entry in bins):
        return None
    total = sum(entry["count"] for entry in bins)
    gap = sum(entry["count"] * (entry["confidence"] - entry["accuracy"]) for entry in bins if entry["count"]) / total
    kind = (
        "too sure of itself" if gap > 0.005 else "not sure enough of itself" if gap < -0.005 else "neither too sure nor too unsure"
    )
    side = "above" if gap > 0 else "below"
    lead = f"On average the model is {kind}: its confidence is {abs(100 * gap):.1f} points {side} its accuracy"
    ece = record.evaluation.get("ece")
    lead += f", and the expected calibration error is {percent(ece)}." if ece is not None else "."
    sentence = (
        "Points on the dashed line mean that of the images given, say, 80 % confidence, 80 % are right. The grey bars show how "
        "many images a bin has: a point over a low bar is uncertain. It says nothing about images unlike these."
    )
    return Section("calibration", "Can its confidence be trusted?", lead, [Figure(figures.reliability(bins), sentence)])


@dataclass(frozen=True)
class Curve:
    """A figure of training: its lines as (part of the epoch's record, key) by name, and the sentence under it."""

    name: str
    unit: str
    lines: Mapping[str, tuple[str, str]]
    sentence: str


def _both(key: str) -> dict[str, tuple[str, str]]:
    return {"train": ("train", key), "val": ("val", key)}


CURVES = (
    Curve(
        "error",
        "",
        _both("error"),
        "Share of wrong answers. Training images are augmented: their line may lie above that of others.",
    ),
    Curve("loss", "nats", _both("loss"), "The sum that training lowers; the parts that apply follow."),
    Curve(
        "cross-entropy",
        "nats",
        _both("cross_entropy"),
        "Wants right answers. A validation line, where there is one, that turns up means overfitting.",
    ),
    Curve("rate loss", "nats", _both("rate_loss"), "Beta times the rate: the price of information. It moves with beta, too."),
    Curve(
        "anchor loss",
        "",
        _both("anchor_loss"),
        "Pulls the anchors to the scores; low means that they fit, not that the map is good.",
    ),
    Curve("commitment loss", "", _both("commitment_loss"), "Pulls the scores to the anchors, and moves the attention only."),
    Curve("sparsity loss", "", _both("sparsity_loss"), "The price of an open map: its weight times the mean attention."),
    Curve(
        "rate", "bits", _both("rate_bits"), "Information the latent keeps of an image, at most. Near 0 the latent has collapsed."
    ),
    Curve(
        "anchors",
        "",
        {"in use": ("val", "anchors_used"), "perplexity": ("val", "anchor_perplexity")},
        "Anchors taken at least once on validation, and how many it would be if used equally often; 1 means a constant map.",
    ),
    Curve("spread of the map", "", {"val": ("val", "map_std")}, "Standard deviation of its values; near 0 the map says nothing."),
)


def _training(record: RunRecord) -> Section | None:
    if not record.epochs:
        return None
    drawn = []
    for curve in CURVES:
        series = {
            name: [(epoch["epoch"], epoch[part][key]) for epoch in record.epochs if epoch.get(part, {}).get(key) is not None]
            for name, (part, key) in curve.lines.items()
        }
        series = {name: points for name, points in series.items() if points}
        if series:
            svg = figures.curves(curve.name, series, unit=curve.unit, share=curve.name == "error")
            drawn.append(Figure(svg, curve.sentence))
    seconds = sum(epoch.get("seconds", 0.0) for epoch in record.epochs)
    lead = f"{len(record.epochs)} epochs" + (f" in {_duration(seconds)}" if seconds else "")
    chosen = record.model.get("epoch")
    lead += f"; the weights kept are those of epoch {chosen}." if chosen is not None else "."
    return Section("training", "How did training go?", lead, drawn)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _plane(record: RunRecord) -> Section | None:
    points = []
    for epoch in record.epochs:
        held = epoch.get("val", {})
        if held.get("rate_bits") is not None and held.get("cross_entropy") is not None:
            points.append((epoch["epoch"], held["rate_bits"], held["cross_entropy"] / LN2))
    if not points:
        return None
    entropy = (record.evaluation or {}).get("label_entropy_bits") or math.log2(record.model["num_classes"])
    _, rate, loss = points[-1]
    lead = f"In the end the latent holds at most {rate:.1f} bits of an image, and at least {max(entropy - loss, 0):.2f} of the"
    lead += f" {entropy:.2f} bits that name its class."
    sentence = (
        "One point an epoch, on the validation split. Up is better informed about the label, left is more compressed. Both are "
        "bounds, up to the evaluation taking the mean latent: the true point lies further up or further left."
    )
    return Section(
        "plane", "How much information does it keep?", lead, [Figure(figures.information_plane(points, entropy), sentence)]
    )


def _anchors(record: RunRecord) -> Section | None:
    usage = (record.evaluation or {}).get("anchors")
    if not usage:
        return None
    size, used = len(usage["values"]), usage["used"]
    lead = f"{used} of {size} anchors are in use, as many as {usage['perplexity']:.1f} used equally often."
    if used < size / 2:
        lead += " Less than half are in use: fewer anchors would do."
    if usage.get("smallest_gap", 1.0) < 1e-3:
        lead += " Two anchors have all but merged."
    sentence = (
        "Every anchor stands at its value, as tall as the share of map positions that take it. Hollow marks are never taken. It "
        "does not show where in the image they are taken."
    )
    return Section(
        "anchors",
        "Which attention values does it use?",
        lead,
        [Figure(figures.anchor_bars(usage["values"], usage["counts"]), sentence)],
    )


def _configuration(record: RunRecord) -> Section | None:
    tables = []
    for name, values in record.config.items():
        entries = values if isinstance(values, Mapping) else {name: values}
        if entries:
            tables.append(Table(f"[{name}]", ["setting", "value"], [[str(key), _value(value)] for key, value in entries.items()]))
    model = [[key, _value(value)] for key, value in record.model.items() if key not in ("class_names", "format")]
    tables.append(Table("Model", ["", "value"], model))
    if record.environment:
        environment = [[str(key), _value(value)] for key, value in record.environment.items()]
        tables.append(Table("Environment", ["", "value"], environment))
    return Section("configuration", "Configuration and environment", "Everything needed to run it again.", (), tables, folded=True)


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "nested too deeply to be shown"
