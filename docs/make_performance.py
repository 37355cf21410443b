"""docs/performance.md from the files that `aib bench` leaves in results/bench:  python docs/make_performance.py"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from aib.bench import SUBJECTS
from aib.bench.shown import sentences, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "bench"

HEAD = """# Performance

What the package claims to be fast, measured beside a reference in the same process. Variants take turns, in a new order every
round; a *ratio* is the median over the rounds of a variant's time divided by the reference's of that round, with a 95 % bootstrap
interval, and below 1 it is the variant that is faster. Times alone say as much about the machine as about the code: they stand
beside the ratios to give their size. A target counts as reached where the whole interval is on its side. Every number is in
[results/bench](../results/bench), and each table is made again by the command below it; this page is written by
`python docs/make_performance.py`.
"""

REMARKS = {
    "step": """*Unclear* is a median below the target whose interval reaches over it: rounds of seconds scatter on a shared machine.
What a step has beside its floor is batch normalisation, ReLU, pooling, dropout and the optimiser.""",
    "score": """Other work ran beside this one and fell on the bare passes more often: a ratio below 1 on the clock is that and no
gain, since scoring holds the bare passes. The ratio of the processor's time is the one that is judged and the one to quote. The
intervals of the mean cosines came after this measurement: 1.1 s of the processor for 10,000 images under ten edits, 0.7 % of the
bare passes.""",
}
"""By subject: what limits a target that is not reached, or not with certainty, and what else a number needs beside it."""


def section(subject: str) -> str:
    """One subject: what was measured, the table, the targets and what limits them."""
    result: dict[str, Any] = json.loads((RESULTS / f"{subject}.json").read_text(encoding="utf-8"))
    machine, title = result["machine"], SUBJECTS[subject]
    parts = [f"## {title[0].upper()}{title[1:]}", wrapped(result["definition"])]
    header, rows = table(result)
    if rows:
        lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *rows]
        parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
    parts.append("\n".join(wrapped(f"- {sentence}", "  ") for sentence in sentences(result)))
    if subject in REMARKS:
        parts.append(wrapped(REMARKS[subject]))
    where = machine["device"] if result["settings"]["device"] == "cuda" else machine["cpu"]
    loads = f"load {machine['load']:g} before and {machine['load_after']:g} after, " if machine["load_after"] is not None else ""
    parts.append(
        wrapped(
            f"`{result['command']}`: {where}, threads: {machine['threads']}, {loads}torch {machine['torch']}, medians of "
            f"{result['settings']['repeats']} rounds, {machine['date']}, commit {machine['commit']}."
        )
    )
    return "\n\n".join(part for part in parts if part)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph of the page."""
    return textwrap.fill(text, 128, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    """The whole page: every subject that was measured."""
    measured = [subject for subject in SUBJECTS if (RESULTS / f"{subject}.json").exists()]
    return "\n\n".join([HEAD.rstrip(), *map(section, measured)]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "performance.md").write_text(page(), encoding="utf-8")
