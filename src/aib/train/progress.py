"""What a person sees while a run trains: a live bar on a terminal, one line an epoch elsewhere, nothing with ``quiet``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["TrainingDisplay", "epoch_line"]

SHORT = {
    "loss": "loss",
    "cross_entropy": "ce",
    "rate_loss": "rate",
    "anchor_loss": "anchor",
    "commitment_loss": "commit",
    "sparsity_loss": "sparsity",
}


class _Terminal(Console):
    """A console whose reader may leave (``| head``): the run goes on without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class TrainingDisplay:
    """Context manager around the training loop.

    Args:
        total_steps: steps of the whole run.
        done: steps already taken, for a resumed run.
        quiet: print nothing.
    """

    def __init__(self, total_steps: int, done: int = 0, *, title: str = "training", quiet: bool = False) -> None:
        # emoji would be imported with the first line, in which a signal's own line must not find them half imported
        self.console = _Terminal(quiet=quiet, soft_wrap=True, highlight=False, emoji=False)
        self.live = self.console.is_terminal and not quiet
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
            refresh_per_second=4,
        )
        self.task = self.progress.add_task(title, total=total_steps, completed=done, numbers="")

    def __enter__(self) -> TrainingDisplay:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def step(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        """Move the bar; ``numbers`` are the running means of the epoch, when there are new ones."""
        if not self.live:
            return
        if numbers is None:
            self.progress.update(self.task, completed=done)
        else:
            self.progress.update(self.task, completed=done, numbers=_parts(numbers))

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.progress.console.print(text, markup=False)


def _parts(numbers: Mapping[str, float]) -> str:
    shown = [f"{short} {numbers[name]:.3f}" for name, short in SHORT.items() if name in numbers]
    if "error" in numbers:
        shown.append(f"error {100 * numbers['error']:.1f}%")
    if "rate_bits" in numbers:
        shown.append(f"{numbers['rate_bits']:.1f} bits")
    if "anchors_used" in numbers:
        shown.append(f"{numbers['anchors_used']:.0f} anchors")
    if "images_per_second" in numbers:
        shown.append(f"{numbers['images_per_second']:.0f} img/s")
    return "  ".join(shown)


def epoch_line(row: Mapping[str, object], epochs: int) -> str:
    """One line about a finished epoch, from its row of ``metrics.jsonl``; without validation images ``val`` is empty."""
    train, val = row["train"], row["val"]
    if not isinstance(train, Mapping) or not isinstance(val, Mapping):
        raise ValueError("a metrics row needs 'train' and 'val' tables")
    text = f"epoch {row['epoch']}/{epochs}  train {_parts(train)}"
    if "error" in val:
        text += f"  |  val error {100 * val['error']:.2f}%"
    if "rate_bits" in val:
        text += f"  rate {val['rate_bits']:.1f} bits"
    if "anchors_used" in val:
        text += f"  {val['anchors_used']} anchors in use"
    return text + f"  |  {row['images_per_second']:.0f} images/s  {row['seconds']:.1f} s"
