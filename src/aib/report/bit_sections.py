"""Sections of a scored run: what it carries in bits, whether it notices what it does not know, and whether the metrics agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aib.report.bit_figures import bit_map, code_bars
from aib.report.compare import Table
from aib.report.parts import Figure, Section
from aib.report.read_scores import LEAST, Estimate, ScoreRecord
from aib.report.score_figures import PERCENT, PLAIN, DotGroup, DotRow, Form, Line, curve_chart, dot_chart
from aib.report.score_names import metric_label, source_label
from aib.report.style import ACCENT, CONTROL, OTHER, SERIES

__all__ = ["bit_sections"]

BITS, WHOLE_BITS, AREA, LEAD = Form(digits=1), Form(digits=0), Form(digits=3), Form(digits=3, signed=True)

CODES = {"none": "each position by itself", "neighbours": "given the left and the upper one", "place": "given its place"}

UNUSUAL = {"rate": ("rate", ACCENT), "max_softmax": ("max softmax", SERIES[1]), "entropy": ("entropy", SERIES[2])}
"""Scores of unusualness: name and colour; the model's own comes first."""


def bit_sections(scores: ScoreRecord) -> list[Section]:
    """Those that the file has numbers for, in the order of the page."""
    return [section for section in (_information(scores), _detection(scores), _agreement(scores)) if section is not None]


def _information(scores: ScoreRecord) -> Section | None:
    found = scores.numbers.get("information")
    if not found:
        return None
    latent, attention, quantized = found["latent"], found.get("attention"), found.get("quantized")
    said = [
        f"The latent carries {BITS.estimate(latent['image'])} bits an image in {latent['in_use']} of its {latent['dimensions']} "
        "dimensions"
    ]
    drawn = []
    if attention:
        said.append(f"the attention, with the noise of training, at most {BITS.estimate(attention['image'])}")
        if attention.get("map"):
            drawn.append(Figure(
                bit_map(attention["map"]),
                f"Bits of the attention at each position, a mean over {found['images']:,} images: bright where the map tells "
                "images apart in "
                "spite of its noise. A bound: positions are counted one by one, as if they had nothing in common. It does not show "
                "whether the network uses them.",
            ))  # fmt: skip
    if quantized:
        codes = {name: code["image"] for name, code in quantized["codes"].items() if code["image"] is not None}
        if codes:
            best = min(codes.values(), key=lambda image: image[0])
            said.append(f"the quantised map takes {WHOLE_BITS.estimate(best)} by the shortest code")
        drawn.append(Figure(
            code_bars("bits an image of the quantised map", _code_rows(quantized)),
            "What a code needs that can be decoded and learns as it goes: the shortest bounds from above what the map tells. The "
            "fewer "
            "images, the more a code with much to learn pays. Bits are no merit: noise takes the most.",
        ))  # fmt: skip
    return Section("information", "What does it carry, in bits?", "; ".join(said) + ".", drawn)


def _code_rows(quantized: Mapping[str, Any]) -> list[tuple[str, str, Estimate, str]]:
    positions, anchors = quantized["height"] * quantized["width"], quantized["anchors"]
    entropy, most = quantized["entropy"], math.log2(anchors)

    def row(name: str, colour: str, image: Estimate, position: float) -> tuple[str, str, Estimate, str]:
        return name, colour, image, f"{image[0]:,.0f} · {position:.2f} a position"

    def alone(bits: float) -> Estimate:
        return bits, math.nan, math.nan

    rows = [row(f"fixed length: {positions:,} positions of log₂ {anchors} bits", CONTROL, alone(positions * most), most)]
    rows.append(row("entropy of how often each anchor is used", OTHER, alone(entropy["image"]), entropy["position"]))
    codes = {name: code for name, code in quantized["codes"].items() if code["image"] is not None}
    return rows + [row(f"code: {CODES.get(name, name)}", ACCENT, code["image"], code["position"]) for name, code in codes.items()]


def _detection(scores: ScoreRecord) -> Section | None:
    found = scores.numbers.get("detection") or {}
    outside: Mapping[str, Any] = found.get("outside") or {}
    selective = found.get("selective")
    names = [name for name in UNUSUAL if any(name in table["scores"] for table in outside.values())]
    drawn, said, tables = [], [], []
    if names:
        groups = [
            DotGroup(
                (data,), [DotRow(*UNUSUAL[name], table["scores"].get(name, {}).get("auroc"), few=_few(table)) for name in names]
            )
            for data, table in outside.items()
        ]
        legend = [(*UNUSUAL[name], "dot") for name in names]
        svg = dot_chart(
            "AUROC: told from another data set", groups, AREA, legend=legend, bounds=(0.5, 1.0), line=0.5, missing="none"
        )
        drawn.append(Figure(
            svg,
            "The chance that an image of the other data set looks more unusual than one of the run’s own; 0.5 is chance. Max "
            "softmax and "
            "entropy need no bottleneck: beside them the rate has to be better. Another data set may give another answer.",
        ))  # fmt: skip
        said.append(_told(outside))
        rows = [
            [data, UNUSUAL[name][0], f"{table['inside']:,} / {table['outside']:,}", AREA.estimate(table["scores"][name]["auroc"]),
             PERCENT.estimate(table["scores"][name]["false_positive_rate"]), LEAD.estimate(table.get("rate_less", {}).get(name))]
            for data, table in outside.items() for name in names if name in table["scores"]
        ]  # fmt: skip
        columns = ["data set", "score", "images inside / outside", "AUROC", "false positives at 95 %", "AUROC of the rate less it"]
        note = "False positives: images of the other set accepted where 95 % of the run’s own are; the lower, the better."
        if any("rate_less" in table for table in outside.values()):
            note += " The difference of two AUROCs is of the same images: it may be clear where their intervals overlap."
        else:
            columns, rows = columns[:-1], [row[:-1] for row in rows]
        tables.append(Table("Images of another kind, in numbers", columns, rows, note, folded=True))
    if selective and selective["scores"]:
        drawn.append(_selective(selective))
        said.append(_kept(selective))
    if not drawn:
        return None
    lead = " ".join(part for part in said if part)
    return Section("detection", "Does it notice what it does not know?", lead, drawn, tables)


def _few(table: Mapping[str, Any]) -> bool:
    return bool(min(table["inside"], table["outside"]) < LEAST)


def _told(outside: Mapping[str, Any]) -> str:
    """The rate beside the best of the predictions' own scores, for every data set."""
    parts = []
    for data, table in outside.items():
        found = {name: table["scores"][name]["auroc"] for name in UNUSUAL if name in table["scores"]}
        known: dict[str, Estimate] = {name: value for name, value in found.items() if value is not None}
        if "rate" not in known:
            continue
        rate, text = known.pop("rate"), ""
        if known:
            best, other = max(known.items(), key=lambda item: item[1][0])
            verdict = "too few images to compare with" if _few(table) else _verdict(table.get("rate_less", {}).get(best))
            text = f", {verdict} the {UNUSUAL[best][0]} of its predictions ({AREA.number(other[0])})"
        fewer = ", which have fewer bits than the run’s own" if rate[2] < 0.5 else ""
        parts.append(f"{AREA.estimate(rate)} for images of {data}{fewer}{text}")
    return f"AUROC of the rate: {'; '.join(parts)}." if parts else ""


def _verdict(difference: Estimate | None) -> str:
    """What the paired difference says of the rate beside another score; files from before there was one say nothing of it."""
    if difference is None:
        return "beside"
    _, low, high = difference
    return "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"


def _kept(selective: Mapping[str, Any]) -> str:
    if 0.5 not in selective["coverage"]:
        return ""
    place = selective["coverage"].index(0.5)
    errors = {name: selective["scores"][name]["error_at"][place] for name in UNUSUAL if name in selective["scores"]}
    parts = [f"by {UNUSUAL[name][0]} on {100 * value[0]:.1f}\u00a0%" for name, value in errors.items() if value is not None]
    if not parts:
        return ""
    return (
        f"Of its own images it errs on {100 * selective['error']:.1f}\u00a0%; on the half that looks most usual {', '.join(parts)}."
    )


def _selective(selective: Mapping[str, Any]) -> Figure:
    present = [name for name in UNUSUAL if name in selective["scores"]]
    lines = []
    for index, name in reversed(list(enumerate(present))):
        shift = 1.6 * (index - (len(present) - 1) / 2)  # side by side, so that equal errors do not hide each other
        errors = zip(selective["coverage"], selective["scores"][name]["error_at"])
        known = [(100 * share + shift, value) for share, value in errors if value is not None]
        ends = [(at, 100 * value[1], 100 * value[2]) for at, value in known if not math.isnan(value[1] + value[2])]
        label, colour = UNUSUAL[name]
        lines.append(
            Line(label, colour, [(at, 100 * value[0]) for at, value in known], width=1.5, band=ends, whiskers=True, dots=True)
        )
    error = 100 * selective["error"]
    highest = max([high for one in lines for _, _, high in one.band] + [y for one in lines for _, y in one.points] + [error, 1e-6])
    svg = curve_chart(
        "error on the images kept", lines, x_label="most usual images kept, %", x=(0.0, 104.0), y=(0.0, 1.05 * highest),
        line=(error, "on all images"),
    )  # fmt: skip
    return Figure(
        svg,
        f"Error if the network answers only the most usual of the {selective['n']:,} images: a score that knows its errors rises "
        "from 0 at "
        "the left to the dashed line at the right. Where intervals overlap nothing is told apart.",
    )


def _agreement(scores: ScoreRecord) -> Section | None:
    found = scores.numbers.get("agreement")
    if not found or not any(value is not None for number, row in enumerate(found["spearman"]) for value in row[:number]):
        return None

    def cells(row: Sequence[float | None], number: int) -> list[str]:
        return ["·" if at == number else "–" if value is None else PLAIN.number(value) for at, value in enumerate(row)]

    names = [metric_label(name) for name in found["metrics"]]
    rows = [[f"{at + 1}\u2002{name}", *cells(row, at)] for at, (name, row) in enumerate(zip(names, found["spearman"]))]
    named = ", ".join(source_label(name) for name in found["sources"])
    note = (
        f"Spearman’s rank correlation over the {len(found['sources'])} sources of maps that all metrics judged ({named}): so few "
    )
    note += "give rough numbers, and no interval is claimed. A dash: a metric that does not vary. Each metric stands once: excess "
    note += "is the mean over edits, what depends on the fill the mean over fills; deletion and noise count downwards."
    if found.get("controls"):
        note += " Controls are among them, since maps in question are fewer than four: agreement on those need not carry over."
    lead = "Metrics that rank the same maps differently measure different things; none of them stands for the others."
    table = Table("", ["metric", *(str(number) for number in range(1, len(names) + 1))], rows, note)
    return Section("agreement", "Do the metrics agree?", lead, (), [table], folded=True)
