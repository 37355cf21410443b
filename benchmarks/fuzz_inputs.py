"""Hostile input in every place where the package reads: does each case end well, or in one line?

    python benchmarks/fuzz_inputs.py --cases 100000 --seed 0 --out results/fuzz.json

Each case is a function of its kind, the seed and its number: ``--only npz:17`` repeats one. A case may succeed or be refused by an
error that the command line prints as one line naming the file; anything else is a bug: an error of another type, 20 seconds of the
processor or 60 on the clock, a crash, 2 GB more memory, a file written outside the case's folder, a process started, an object
unpickled. Bugs are listed and make the exit code 1. Linux only.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # before torch is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import timm  # noqa: F401 (imported here, they are in every process of the cases)
import torchvision.datasets  # noqa: F401

import fuzz_checkpoints
import fuzz_data
import fuzz_images
import fuzz_runs
from aib.train.run_folder import environment
from fuzzing import MEGABYTES, SECONDS, WAIT, Verdict, run_cases

MAKERS = {**fuzz_images.MAKERS, **fuzz_data.MAKERS, **fuzz_checkpoints.MAKERS, **fuzz_runs.MAKERS}

SHARES = {
    "image": 33, "npz": 12, "recipe": 12, "lists": 8, "archive": 6, "table": 4, "safetensors": 4, "start": 4, "published": 3,
    "arguments": 2, "checkpoint": 2, "pretrained": 2, "run": 2, "report": 2, "folder": 2, "benchmark": 2,
}  # fmt: skip
"""Of the cases, in per cent: more of what is quick, no subject below 2."""


def chosen(cases: int, only: str | None) -> list[tuple[str, int]]:
    """Kind and number of every case, the kinds mixed evenly."""
    if only is not None:
        kind, _, number = only.partition(":")
        return [(kind, int(number))] if number else [(kind, i) for i in range(cases)]
    counts = {kind: max(1, round(cases * share / 100)) for kind, share in SHARES.items()}
    every = [((i + 0.5) / count, kind, i) for kind, count in counts.items() for i in range(count)]
    return [(kind, i) for _, kind, i in sorted(every)]


def judged(plan: Sequence[tuple[str, int]], seed: int, talk: bool) -> list[Verdict]:
    """The verdicts of all cases; bugs are printed as they are found, with ``talk`` every verdict."""
    verdicts: list[Verdict] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        base, seeds = Path(folder, "cases"), Path(folder, "seeds")
        base.mkdir()
        seeds.mkdir()
        if (process := os.fork()) == 0:  # what computes stays out of the process that is forked for the cases
            fuzz_runs.make_seeds(seeds)
            os._exit(0)
        os.waitpid(process, 0)
        for verdict in run_cases(MAKERS, plan, seed, base, seeds):
            verdicts.append(verdict)
            if talk or verdict.outcome == "BUG":
                print(f"{verdict.kind}:{verdict.number} {verdict.outcome} {verdict.said} ({verdict.seconds} s)", flush=True)
            if len(verdicts) % 1000 == 0:
                print(f"{len(verdicts)} of {len(plan)} cases, {time.monotonic() - began:.0f} s", flush=True)
    return verdicts


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """Counts, processor seconds and memory by kind."""
    made = {}
    for kind in sorted({verdict.kind for verdict in verdicts}):
        mine = [verdict for verdict in verdicts if verdict.kind == kind]
        counts = collections.Counter(verdict.outcome for verdict in mine)
        made[kind] = {
            "cases": len(mine), "success": counts["success"], "refused": counts["refused"], "bugs": counts["BUG"],
            "seconds": round(sum(verdict.seconds for verdict in mine), 1),
            "slowest_seconds": max(verdict.seconds for verdict in mine),
            "most_megabytes": max(verdict.megabytes for verdict in mine),
        }  # fmt: skip
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a kind, or kind:number")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    options = parser.parse_args()
    machine = environment("cpu", "32-true") | {name: version(name) for name in ("pillow", "safetensors", "tyro")}
    began = time.monotonic()
    verdicts = judged(chosen(options.cases, options.only), options.seed, options.only is not None)
    kinds = summary(verdicts)
    print(f"{'':12}" + "".join(f"{name:>17}" for name in next(iter(kinds.values()))))
    for kind, row in kinds.items():
        print(f"{kind:12}" + "".join(f"{value:>17,}" for value in row.values()))
    bugs = [f"{verdict.kind}:{verdict.number} {verdict.said}" for verdict in verdicts if verdict.outcome == "BUG"]
    print(f"{len(verdicts):,} cases, {len(bugs)} bugs, {(time.monotonic() - began) / 60:.1f} minutes")
    if options.out is not None:
        only = f" --only {options.only}" if options.only else ""
        result = {
            "command": f"python benchmarks/fuzz_inputs.py --cases {options.cases} --seed {options.seed}{only}",
            "cases": len(verdicts), "seed": options.seed,
            **{name: sum(int(row[name]) for row in kinds.values()) for name in ("success", "refused", "bugs")},
            "limits": {"processor_seconds": SECONDS, "seconds": WAIT, "megabytes": MEGABYTES},
            "minutes": round((time.monotonic() - began) / 60, 1), "kinds": kinds, "machine": machine, "found": bugs[:100],
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if bugs else 0


if __name__ == "__main__":
    sys.exit(main())
