"""docs/performance.md from the files that `aib bench` leaves in results/bench:  python docs/make_performance.py

It warns of files that were measured before what they time was changed.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from aib.bench import SUBJECTS
from aib.bench.record import FORMAT, source_digests
from aib.bench.shown import rounds_in_words, sentences, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "bench"

HEAD = """# Performance

What the package claims to be fast, measured beside a reference in the same process. Variants take turns, in a changing
order; a *ratio* is the median over the rounds of a variant's time divided by the reference's of that round, and below 1 it is the
variant that is faster. Its interval goes from the k-th least round to the k-th greatest, with the largest k that covers the true
median in at least 95 %, whatever the distribution (by the binomial, exactly); the coverage stands below each table. Fewer than 6
rounds give no interval and no verdict. Times alone say as much about the machine as about the code: they stand beside the ratios
to give their size. A target counts as reached where the whole interval is on its side. Every number is in
[results/bench](../results/bench), and each table is made again by the command below it; this page is written by
`python docs/make_performance.py`.
"""

REMARKS = {
    "step": """*Unclear* is a median below the target whose interval reaches over it: rounds of seconds scatter on a shared machine.
What a step has beside its floor is batch normalisation, ReLU, pooling, dropout and the optimiser. "Attention, quantiser and
bottleneck under 3 % of the step" is not reached for `wrn_aib_qt` with the convolutions inside the attention's head: the published
head is more than half of the network's operations, and what they take is in the floor too. On their own, without these
convolutions, the shares are what the package itself adds.""",
    "quantizer": """For a single map of 256 scores and up to 50 anchors the table is small and the faster of the two: what counts
there are the calls. Two threads are for idle machines. From 32,768 positions on torch shares each of some twenty short
operations among its threads, and beside other work two threads can take many times as long as one ([log.md](log.md)).
`--threads 1` measures without that.""",
    "score": """Other work ran on the other core, so the ratio of the processor's time is the one that is judged and the one to
quote. Bare passes are a part of what is scored, and cannot take longer than it but for chance.""",
    "variants": """Why each is where it is, with numbers of trials in [log.md](log.md). Channels-last order: the recipes of narrow
networks have it, the paper's own do not. Folded normalisation: little gain, so it is a function for inference
(`aib.fold_batch_norm`) and evaluation does without. Crop and mirror in one pass: always, with the same images bit for bit. Malloc
that keeps freed memory: always on the command line, never in a program that imports the package. bfloat16 is slower than
float32 on these CPUs: an option (`--precision bf16-mixed`), tested to pick the same anchors. `--compile` takes its time before
the first step and gains little here, CUDA graphs (`--compile-mode reduce-overhead`) need a GPU: both are off by default, and
checked at the start of every run against the eager network, logits and the gradient of every parameter. None of these three has
been timed on a GPU.""",
}
"""By subject: what limits a target that is not reached, or not with certainty, and what else a number needs beside it."""


def read(subject: str) -> dict[str, Any]:
    """What was measured of a subject.

    Raises:
        ValueError: the file is of another format.
    """
    result: dict[str, Any] = json.loads((RESULTS / f"{subject}.json").read_text(encoding="utf-8"))
    if result["format"] != FORMAT:
        raise ValueError(f"{subject}.json is of format {result['format']}, not {FORMAT}; measure it anew: {result['command']}")
    return result


def warnings(subject: str) -> list[str]:
    """What was changed, of that which a subject times, since it was measured."""
    result = read(subject)
    now = source_digests(subject)
    changed = sorted(path for path, digest in now.items() if result["sources"].get(path) != digest)
    return [f"{subject}: measured before the last change of {', '.join(changed)}; again: {result['command']}"] if changed else []


def section(subject: str) -> str:
    """One subject: what was measured, the table, the targets and what limits them."""
    if not (RESULTS / f"{subject}.json").exists():
        title = SUBJECTS[subject]
        parts = [f"## {title[0].upper()}{title[1:]}", f"Not measured yet: `aib bench {subject}`."]
        return "\n\n".join([*parts, *([wrapped(REMARKS[subject])] if subject in REMARKS else [])])
    result = read(subject)
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
            f"`{result['command']}`: {where}, threads: {machine['threads']}, {loads}torch {machine['torch']}, "
            f"{rounds_in_words(result['settings']['repeats'])}, {machine['date']}, commit {machine['commit']}."
            + (f" The run is that of `{result['run_command']}`." if result.get("run_command") else "")
        )
    )
    return "\n\n".join(part for part in parts if part)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph of the page."""
    return textwrap.fill(text, 128, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    """The whole page."""
    return "\n\n".join([HEAD.rstrip(), *map(section, SUBJECTS)]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "performance.md").write_text(page(), encoding="utf-8")
    for name in SUBJECTS:
        if (RESULTS / f"{name}.json").exists():
            print(*warnings(name), sep="\n", end="\n" * bool(warnings(name)))
