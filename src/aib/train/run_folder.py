"""The run folder: what training writes, and all that evaluation, explanation and reports need."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aib.data.decoders import is_lost_decoder
from aib.data.locking import held
from aib.data.texts import printable, read_text
from aib.train.checkpoint import naming, write_text
from aib.train.config import TrainConfig, config_to_dict, read_config

__all__ = ["BUSY", "RunFolder", "environment"]

LOCK = ".training.lock"
"""File that the process that trains in a folder holds."""

LOOK_SECONDS = 0.5
"""How long a training waits for its folder: `RunFolder.in_training` holds it for a moment."""

WRITTEN = (
    "config.toml", "environment.json", "origin.json", "recipe.toml", "skipped.txt", "metrics.jsonl", "model.json",
    "model.safetensors",
)  # fmt: skip
"""Files at the top of a run folder that nobody but its training writes, which holds the folder."""

GALLERY_FILE = re.compile(r"[0-9]+(-[0-9]+)*(-mask)?\.(png|npy)")
"""Names of the pictures, maps and masks of a gallery."""

BUSY = "is being trained by another process"
"""What the message of `RunFolder.locked` says, whatever the folder."""


def _is_leftover(path: Path) -> bool:
    """Whether a file in a run's place is what a training has there that was killed before its first word, or has not come to it."""
    return path.name == LOCK or (path.name.startswith(".config.toml.") and path.suffix == ".tmp")


def environment(device: str, precision: str, processes: int = 1) -> dict[str, Any]:
    """Versions, machine and commit, for the record of a run, and the number of its processes where there are several."""
    from importlib.metadata import version

    import torch

    found: dict[str, Any] = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "lightning-fabric")}
    found |= {
        "aib": version("aib"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "precision": precision,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    return found if processes == 1 else found | {"processes": processes}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+`` where the package differs from it; None outside a checkout."""
    package = Path(__file__).resolve().parent.parent  # elsewhere a change does not matter: results are written there, one by one
    how: dict[str, Any] = {"cwd": package, "capture_output": True, "text": True, "timeout": 10}
    try:
        if subprocess.run(["git", "ls-files", "--error-unmatch", __file__], **how).returncode:
            return None
        commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], check=True, **how).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain", "--", "."], check=True, **how).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + "+" * bool(changes)


def default_name(config: TrainConfig) -> str:
    """DATA-MODEL-SEED, with the site of an attached network: the name of a run's folder unless one is given."""
    path = Path(config.data.data)
    data = path.stem if path.suffix == ".npz" else path.resolve().name
    model = config.model.model + (f"@{config.model.attend}" if config.model.attend else "")
    return f"{data}-{model}-{config.run.seed}"


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run; see ARCHITECTURE.md for the list."""

    path: Path

    def check_free(self) -> None:
        """Refuse a place where something is already.

        Raises:
            ValueError: the folder holds a run or other files, or is a file.
        """
        path = self.path
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; a run needs a folder of its own")
        if path.exists() and not all(_is_leftover(inside) for inside in path.iterdir()):
            resumable = self.has("config.toml") and not self._traces()
            hint = f"continue it with --resume {path}, or " if resumable else ""
            raise ValueError(f"{path} exists and is not empty: {hint}choose another folder with --out")

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write the configuration; two that may meet there hold the folder with `locked`.

        Raises:
            ValueError: see `check_free`.
            OSError: it cannot be written.
        """
        import tomli_w

        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.remove_leftovers()
            self.write_text("config.toml", tomli_w.dumps(config_to_dict(config)))
            self.best.parent.mkdir(exist_ok=True)
        except BaseException:
            if not self.has("config.toml"):
                with contextlib.suppress(OSError):  # empty as it is, it would be in the way of the next try
                    (self.path / LOCK).unlink(missing_ok=True)
                    self.path.rmdir()
            raise

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run, perhaps a stranger's, which is written into as well.

        What is written to ``eval`` and ``score`` stays inside: a link in the place of either, or of a folder in them, is refused.
        The run folder itself may be a link, and so may ``checkpoints``, which people put on another disk: only a training writes
        there, under the names of its own checkpoints, and never beside or over those that do not fit its network.

        Raises:
            ValueError: the path holds no run, or one with such a link.
        """
        if not (path / "config.toml").is_file():
            inside = sorted(p.parent.name for p in path.glob("*/config.toml"))[:5] if path.is_dir() else []
            hint = f"; there are runs inside it: {', '.join(inside)}" if inside else ""
            raise ValueError(f"{path} is not a run folder (it has no config.toml){hint}")
        for written in (path / "eval", path / "score"):
            for place in (written, *(written.iterdir() if written.is_dir() else ())):
                if place.is_symlink() and (place == written or place.is_dir()):
                    raise ValueError(
                        f"{printable(place)} is a link, and what is written there would lie outside the run; put a folder in its "
                        "place (the whole run folder may be a link)"
                    )
        return cls(path)

    def emptied_gallery(self, name: str) -> Path:
        """The folder ``NAME-gallery`` without the pictures and maps of an earlier gallery; other files in it stay.

        ``NAME-gallery.json`` goes first, before the files that it names.
        """
        target = self.path / f"{name}-gallery"
        target.mkdir(parents=True, exist_ok=True)
        (self.path / f"{name}-gallery.json").unlink(missing_ok=True)
        for old in target.iterdir():
            if GALLERY_FILE.fullmatch(old.name):
                old.unlink()
        return target

    @contextlib.contextmanager
    def locked(self, wait: float = LOOK_SECONDS) -> Iterator[None]:
        """Hold the folder for one training. The system lets go of it when the process ends, however it ends.

        Args:
            wait: seconds after which another process that holds the folder is one that trains.

        Raises:
            ValueError: another process trains in this folder.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(self.path / LOCK, wait))
            except TimeoutError:
                raise ValueError(f"{self.path} {BUSY}; wait for it, or stop it first") from None
            yield

    def in_training(self) -> bool:
        """Whether a process trains in this folder now; one that begins to while this is found out waits for the answer."""
        if not self.has("config.toml"):
            return False
        try:
            with self.locked(wait=0.0):
                return False
        except ValueError:
            return True

    @property
    def config(self) -> TrainConfig:
        return read_config(self.path / "config.toml")

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def finished_epochs(self) -> int:
        """Epochs in the log; a cut last line does not count."""
        return len(self._rows())

    def advice(self) -> str:
        """The end of a message about a run that stops: how to go on, where there is something to go on with."""
        return f"; go on from the last checkpoint with: aib train --resume {self.path}" if self.has("config.toml") else ""

    @contextlib.contextmanager
    def advising(self) -> Iterator[None]:
        """Context in which an error of the disk, or of a process that decodes, gets a note that says how the training goes on."""
        try:
            yield
        except ConnectionError:  # says it already
            raise
        except OSError as error:
            if advice := self.advice().removeprefix("; "):
                error.add_note(f"make room, then {advice}" if error.errno == errno.ENOSPC else advice)
            raise
        except RuntimeError as error:
            if is_lost_decoder(error) and (advice := self.advice().removeprefix("; ")):
                error.add_note(f"{advice} and fewer --workers")
            raise

    def log(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``, an epoch each; a cut last line, of a process that was killed, does not count."""
        return [json.loads(line) for line, _ in self._rows()]

    def has(self, name: str) -> bool:
        """Whether the run has a file of that name."""
        return (self.path / name).is_file()

    def remove_leftovers(self) -> None:
        """Delete what a killed training left half written; safetensors has names of its own for that.

        Only the one that holds the folder may. What others write there, such as reports, may be in the writing.
        """
        own = [left for name in WRITTEN for left in self.path.glob(f".{name}.*.tmp")]
        for leftover in (*own, *self.path.glob(".tmp*"), *self.last.parent.glob(".*.ckpt.*tmp")):
            leftover.unlink(missing_ok=True)

    def check_checkpoint(self) -> None:
        """Refuse to start over a run whose last checkpoint is gone while other traces of its training are there.

        Raises:
            ValueError: ``last.ckpt`` is absent, and another checkpoint, the metrics of several epochs, or weights without metrics
                are not.
        """
        self.last.parent.mkdir(parents=True, exist_ok=True)
        if found := self._traces():
            raise ValueError(
                f"{self.last} is missing, but {', '.join(found)} exist: put one in its place, or start a run elsewhere"
            )

    def _traces(self) -> list[str]:
        """What tells of a training, or of no training at all, that cannot be gone on with: its last checkpoint is not there."""
        if self.last.exists():
            return []
        # weights and log of the first epoch come before the first checkpoint; they are written again
        epochs = self.finished_epochs
        others = [self.last.with_name("previous.ckpt"), self.best, *([self.metrics] if epochs > 1 else [])]
        if not epochs:  # no training wrote these: a converted run's
            others.append(self.path / "model.safetensors")
        return [str(path) for path in others if path.exists()]

    def write_text(self, name: str, text: str) -> None:
        """Write a small file of the run, whole or not at all."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)

    def write_json(self, name: str, value: Mapping[str, Any] | list[Any]) -> None:
        """Write ``value`` as JSON."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            ValueError: it is absent or damaged.
        """
        target = self.path / name
        try:
            return json.loads(read_text(target))
        except FileNotFoundError:
            raise ValueError(f"{self.path} has no {name}: has the run been trained to the end of an epoch?") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{target} is damaged: {error}") from None

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's row to ``metrics.jsonl``, on the disk before the checkpoint that counts the epoch.

        Raises:
            OSError: it cannot be written; the file is named.
        """
        with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_metrics(self, epochs: int) -> None:
        """Drop rows of epochs after ``epochs``: they belong to a future that resuming undoes. A cut last line goes too."""
        if self.metrics.exists() or self.metrics.is_symlink():  # of a link to nowhere the next row would make a file
            kept = [line for line, epoch in self._rows() if epoch <= epochs]
            self.write_text(self.metrics.name, "".join(line + "\n" for line in kept))

    def _rows(self) -> list[tuple[str, int]]:
        """Whole lines of ``metrics.jsonl`` with their epoch."""
        rows: list[tuple[str, int]] = []
        if not self.metrics.exists():
            return rows
        try:
            lines = read_text(self.metrics, errors="replace").splitlines()
        except ValueError as error:
            raise ValueError(f"{self.metrics} cannot be read: {error}") from None
        for line in lines:
            try:
                rows.append((line, int(json.loads(line)["epoch"])))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue
        return rows
