"""The ``aib`` command: a dict of verb to function. Nothing heavy is imported before the verb's options are parsed."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from aib.commands.output import GONE, say_error, steady_output

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "demo": "train, evaluate and compare on the embedded data, and open the report (start here)",
    "train": "train a classifier on your images or from a recipe",
    "eval": "error, calibration, rate and anchors of a trained run",
    "explain": "show where a trained run looks in an image or a folder of images",
    "score": "what a trained run's maps are worth, beside controls",
    "report": "one self-contained HTML page about one or more runs",
    "sweep": "train several values of some options over seeds, and compare",
    "convert": "turn a checkpoint of the paper's published code into a run folder",
    "figure": "figures 3, 4 and 5 of the paper, from your runs",
    "table": "the paper's tables, published values beside ours",
    "sites": "list where attention can be attached in a timm model",
    "recipes": "list the recipes and models",
    "doctor": "check this machine: versions, devices, disk, what is missing",
    "bench": "time what the package claims to be fast, on this machine",
}
"""Verb to one-line help; the function is ``run`` of the module of that name in `aib.commands`."""

COMPUTING = frozenset({"demo", "train", "eval", "explain", "score", "figure", "bench"})
"""Verbs that run networks in this process."""


def command(verb: str) -> Callable[[Sequence[str]], None]:
    """The function of a verb, imported now."""
    function: Callable[[Sequence[str]], None] = importlib.import_module(f"aib.commands.{verb}").run
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 (doctor found something missing), 2 (bad input) or 130 (interrupted)."""
    with steady_output() as stream:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    if stream.failure is not None and stream.failure.errno not in GONE:
        say_error(f"aib: the output could not be written: {_one_line(stream.failure)}")
        return code or 2
    return code


def _run(given: Sequence[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    verb, rest = given[0], given[1:]
    if verb in ("--version", "version"):
        from aib import __version__

        print(f"aib {__version__}")
        return 0
    if verb not in COMMANDS:
        near = difflib.get_close_matches(verb, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(COMMANDS)}"
        say_error(f"aib: unknown command {verb!r}; {hint}")
        return 2
    if "AIB_ENDS_WITH_STARTER" in os.environ:
        from aib.train.stopping import end_with_starter

        end_with_starter()
    try:
        if verb in COMPUTING:
            from aib.commands.allocator import keep_freed_memory

            keep_freed_memory()
        command(verb)(rest)
    except KeyboardInterrupt:
        say_error(f"aib {verb}: interrupted")
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            say_error(f"aib {verb}: {error}")
            return 130
        from aib.data.decoders import is_lost_decoder

        if not (isinstance(error, ValueError | OSError) or is_lost_decoder(error)):
            raise
        say_error(f"aib {verb}: {_one_line(error)}")
        return 2
    return 0


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f" ({error.filename})" if error.filename else "")
    elif isinstance(error, RuntimeError):
        text = f"a process that decodes images is gone ({text.strip(' .')}); is there too little memory?"
    return " ".join("; ".join([text, *getattr(error, "__notes__", ())]).split())


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in COMMANDS.items()]
    return "\n".join(
        ["usage: aib COMMAND [options]     (aib COMMAND --help for its options)", "",
         "Image classifiers that show where they look.", "", *lines]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
