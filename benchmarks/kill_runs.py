"""Kill trainings at random moments, among them inside the writing of a checkpoint, resume them, and compare their ends:

python benchmarks/kill_runs.py --kills 50 --record results/faults.json

Two thirds of the kills come at points drawn from those that Python sees, the others at any time (`kill_runs` in tests/kills.py). It
ends with an error where a file cannot be read, a temporary file is left, or weights, optimiser, checkpoints or log of a resumed run
differ in one bit from those of a run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the harness is that of the tests

from aib.train.checkpoint import write_text  # noqa: E402
from aib.train.run_folder import environment  # noqa: E402
from faults import Server  # noqa: E402
from kills import EPOCHS, EVERY_STEP, TRAIN, Whole, kill_runs  # noqa: E402
from tiny import write_npz  # noqa: E402


def main() -> None:
    """Kill, compare, print a line a kill, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        server, data = Server(Path(place)), write_npz(Path(place, "squares.npz"))
        whole = Whole.train(server, data, Path(place, "whole"))
        kills = kill_runs(
            server, data, whole, Path(place), kills=options.kills, seed=options.seed,
            say=lambda kill: print(f"run {kill.run}: killed {kill.moment}, checkpoint of step {kill.step}", flush=True),
        )  # fmt: skip
        server.close()
    runs, steps = kills[-1].run, Counter(whole.points)["step"]
    timed = sum(kill.moment.startswith("after ") for kill in kills)
    inside = sum(kill.moment.partition(" ")[0] in ("write", "flush", "rename", "link") for kill in kills)
    print(f"{len(kills)} kills, {inside} inside a write, in {runs} runs of {steps} steps: every run ended as the undisturbed one")
    if options.record is None:
        return
    machine = environment("cpu", "32-true")
    machine["threads"] = 1  # of the trainings
    content = {
        "command": shlex.join(["python", "benchmarks/kill_runs.py", *sys.argv[1:]]),
        "environment": machine,
        "note": "every run ended with the weights, optimiser, checkpoints and log of an undisturbed one, bit for bit, no file was "
        "unreadable after a kill and no temporary file was left at the end; the command fails otherwise. "
        f"{timed} of the {len(kills)} kills came at a time drawn at random, the others at points drawn from those that Python "
        "sees: before a file is opened, flushed, renamed, linked or removed, a folder made or a step taken. At a point called "
        "write, which is where a file would be flushed, it is cut off at random first, as if the rest had not reached the disk",
        "training": shlex.join(["aib", "train", *map(str, (*TRAIN, *EPOCHS, *EVERY_STEP))]),
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "runs": runs,
        "steps_a_run": steps,
        "kills": len(kills),
        "kills_at_random_times": timed,
        "kills_inside_a_write": inside,
        "moments": [{"run": kill.run, "moment": kill.moment, "checkpoint_step": kill.step} for kill in kills],
    }
    options.record.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.record, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
