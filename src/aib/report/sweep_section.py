"""The section of a scored run on the sweep of radii: how much of the image's frequencies may go?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aib.report.parts import Figure, Section
from aib.report.read_scores import LEAST, QUOTED, Estimate, ScoreRecord
from aib.report.score_figures import Line, curve_chart
from aib.report.score_names import source_label, who_is
from aib.report.style import ACCENT, CONTROL

__all__ = ["PALE_ONES", "sweep_section"]

RADII = 3
"""Radii that make a curve."""

PALE_ONES = f"Pale: fewer than {LEAST} predictions stay, too few to say."
"""Of points that rest on too few images."""


def sweep_section(scores: ScoreRecord) -> Section | None:
    """Excess over the radius, and at which radii the first source is ahead of its controls; None without `RADII` of them."""
    if not scores.scored:
        return None
    source, drawn, said = scores.scored[0], [], []
    for name, kept in (("low frequencies", "below"), ("high frequencies", "from")):
        known = scores.same_images or scores.rows
        radii = sorted(size for one, edit, size in known if (one, edit) == (source, name))
        radii = [radius for radius in radii if scores.beside("score", source, (name, radius)) is not None]
        if len(radii) < RADII:
            continue
        drawn.append(_sweep_figure(scores, source, name, kept, radii))
        enough = [radius for radius in radii if not scores.few((source, name, radius))]
        found = {radius: scores.over_control((source, name, radius))[1] for radius in enough}
        said.append(f"With {name} alone {_sweep_verdict(who_is(scores.own, source), radii, found)}")
    if not drawn:
        return None
    lead = "Only a part of the image’s frequencies is kept. " + " ".join(said if scores.above else [])
    return Section("sweep", "How much may the image lose?", lead.strip(), drawn)


def _sweep_verdict(who: str, radii: Sequence[float], found: Mapping[float, Estimate | None]) -> str:
    """What the differences from the best control say, of the radii under which enough predictions stay."""
    few = ", ".join(f"{radius:g}" for radius in radii if radius not in found)
    radius = "radii" if "," in few else "radius"
    rest = f" At {radius} {few} fewer than {LEAST} predictions stay: too few images to say." if few else ""
    if not found:
        return f"nothing can be said: at no radius do {LEAST} predictions stay."
    more, less = (_listed(found, sign) for sign in (1, -1))
    return f"{who} is ahead of the best control at {more} of {len(found)} radii, behind at {less}.{rest}"


def _listed(found: Mapping[float, Estimate | None], sign: int) -> str:
    """``"2 (2, 4)"``: radii where the differences are above 0 (``sign`` 1) or below (-1) with their whole interval."""
    there = [radius for radius, value in found.items() if value is not None and min(sign * value[1], sign * value[2]) > 0]
    return f"{len(there)} ({', '.join(f'{radius:g}' for radius in there)})" if there else "none"


def _sweep_figure(scores: ScoreRecord, source: str, name: str, kept: str, radii: Sequence[float]) -> Figure:
    few = [radius for radius in radii if scores.few((source, name, radius))]

    def line(label: str, colour: str, values: Sequence[Estimate | None], dash: str | None = None, band: bool = True) -> Line:
        known = [(radius, value) for radius, value in zip(radii, values) if value is not None]
        ends = [(r, 100 * v[1], 100 * v[2]) for r, v in known if band and r not in few and not math.isnan(v[1] + v[2])]
        points = [(r, 100 * v[0]) for r, v in known]
        return Line(label, colour, points, dash, band=ends if len(ends) > 1 else (), dots=not dash, few=few)

    bests = [scores.over_control((source, name, radius))[0] for radius in radii]
    control = [None if best is None else scores.beside("excess", best, (name, radius)) for best, radius in zip(bests, radii)]
    own = [scores.beside("excess", source, (name, radius)) for radius in radii]
    score = [scores.beside("score", source, (name, radius)) for radius in radii]
    label = "own map" if source == scores.own else source_label(source)
    lines = [
        *([line("best control", CONTROL, control)] if any(value is not None for value in control) else []),
        line(f"{label}, score", ACCENT, score, "4 3", band=False),
        line(label, ACCENT, own),
    ]
    lowest = min([low for one in lines for _, low, _ in one.band] + [0.0])
    rows = {radius: scores.same_images.get((source, name, radius)) or scores.rows[source, name, radius] for radius in radii}
    stays = [(radius, f"{row['unchanged']:,}") for radius, row in rows.items()]
    total = max(row["n"] for row in rows.values())
    named = dict.fromkeys(source_label(best) for best in bests if best is not None)
    sentence = f"Excess at cosine {QUOTED}, with 95\u00a0% intervals, over the radius in cycles an image; below, how many of "
    sentence += f"{total:,} predictions stay. "
    if named:
        sentence += f"The best control is chosen anew at every radius ({', '.join(named)}). "
    sentence += PALE_ONES if few else "Where fewer predictions stay, a point says less."
    pad = 0.06 * (radii[-1] - radii[0])
    svg = curve_chart(
        f"only {name} kept: excess", lines, x_label=f"kept {kept} this radius", x=(radii[0] - pad, radii[-1] + pad),
        y=(lowest, 104.0), x_ticks=[(radius, f"{radius:g}") for radius in radii], second_ticks=("stays", stays),
    )  # fmt: skip
    return Figure(svg, sentence)
