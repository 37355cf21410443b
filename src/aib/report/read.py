"""A run folder read back into one frozen record, from its files alone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aib.report.files import file_inside, json_object, parse_json, read_arrays, read_map, read_text
from aib.report.read_scores import ScoreRecord, read_score_record
from aib.report.shapes import ESTIMATE, kept, shaped

__all__ = ["GalleryItem", "RunRecord", "read_run"]

MAX_TOML_BYTES = 1 << 15
"""Largest configuration that is read: some of a stranger's take a time that grows with the square of their length."""

SPLITS = ("test", "val")
"""Splits an evaluation may have, the one to report first."""

MODEL = {
    "name": str, "num_classes": int, "class_names": [str], "data?": str, "parameters?": int, "macs?": int, "image_size?": [int],
    "epoch?": int,
}  # fmt: skip
"""Of ``model.json``; for shapes see `aib.report.shapes.shaped`."""

EPOCH = {"epoch": int, "seconds?": float, "train?": {"*": (float,)}, "val?": {"*": (float,)}}
"""Of a line of ``metrics.jsonl``."""

EVALUATION = {
    "n": int, "error": float, "error_interval": [float], "rate_bits?": float, "label_entropy_bits?": float, "cross_entropy?": float,
    "ece?": float, "last_error?": float, "weights?": str, "map_relative?": bool,
    "classes": [{"name": str, "n": int, "error": float, "precision": float, "recall": float}],
    "confusion": [[int]],
    "calibration?": [{"low": float, "high": float, "count": int, "confidence": float, "accuracy": float}],
    "anchors?": {"values": [float], "counts": [int], "used": int, "perplexity": float, "smallest_gap?": float},
    "map_ablation?": {"*": float},
    "localization?": {"n": int, "excluded?": int, "own?": str, "maps": {"*": {"*": ESTIMATE}}},
}  # fmt: skip
"""Of ``eval/SPLIT.json``."""

PICTURE = {
    "group": str, "image": str, "true": str, "predicted": str, "confidence": float, "map?": str, "name?": str, "rate_bits?": float,
    "mask?": str, "others?": {"*": str},
}  # fmt: skip
"""Of an entry of ``eval/SPLIT-gallery.json``."""


@dataclass(frozen=True)
class GalleryItem:
    """One picture of the gallery.

    Attributes:
        group: ``"right"``, ``"wrong"``, ``"most certain"`` or ``"least certain"``.
        image: file of the image, uint8 RGB of its own size.
        map: (h, w) float32 map at the resolution of the attention, or None.
        true, predicted: class names.
        confidence: probability of the predicted class, in [0, 1].
        name: the image's file in the data set, or None.
        rate_bits: KL of this image in bits, or None.
        mask: file of the ground-truth mask, or None.
        others: maps (h, w) of other explainers by name.
    """

    group: str
    image: Path
    map: NDArray[np.float32] | None
    true: str
    predicted: str
    confidence: float
    name: str | None
    rate_bits: float | None
    mask: Path | None
    others: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class RunRecord:
    """Everything a report says about a run.

    Attributes:
        path: the run folder as it was given.
        name: the folder's own name.
        model: ``model.json``.
        config: ``config.toml``, empty when the file is absent.
        environment: ``environment.json``, empty when the file is absent.
        epochs: the lines of ``metrics.jsonl`` by epoch; of a repeated epoch (a resumed run) the last line.
        split: the evaluated split that is reported, ``"test"`` before ``"val"``; None before `aib eval`.
        evaluation: ``eval/SPLIT.json``, or None.
        labels, predictions: (N,) int64 of the evaluated images in order, or None.
        gallery: pictures, in the order of ``eval/SPLIT-gallery.json``.
        scores: ``score/SPLIT.json`` with its pictures, of the first split that was scored; None before `aib score`.
    """

    path: Path
    name: str
    model: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    split: str | None
    evaluation: Mapping[str, Any] | None
    labels: NDArray[np.int64] | None
    predictions: NDArray[np.int64] | None
    gallery: Sequence[GalleryItem]
    scores: ScoreRecord | None = None

    @property
    def class_names(self) -> list[str]:
        """One name a class, in label order."""
        return [str(name) for name in self.model["class_names"]]


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder; only ``model.json`` must be there.

    Raises:
        ValueError: ``path`` is no run folder, or one of its files is malformed; one line that names the file, and the line in it.
    """
    root = Path(path)
    if not (root / "model.json").is_file():
        raise ValueError(_no_run(root))
    model = kept(json_object(root / "model.json"), MODEL, f"{root / 'model.json'}, line 1")
    if len(model["class_names"]) != model["num_classes"] or not model["class_names"]:
        names, classes = len(model["class_names"]), model["num_classes"]
        raise ValueError(f"{root / 'model.json'}: {names} class names for {classes} classes")
    split = next((name for name in SPLITS if (root / "eval" / f"{name}.json").is_file()), None)
    evaluation, labels, predictions = None, None, None
    if split is not None:
        file = root / "eval" / f"{split}.json"
        evaluation = shaped(json_object(file), EVALUATION, f"{file}, line 1")
        _check(file, evaluation, len(model["class_names"]))
        if (arrays := root / "eval" / f"{split}.npz").is_file():
            labels, predictions = read_arrays(arrays, ("labels", "predictions"))
    return RunRecord(
        path=root,
        name=root.resolve().name,
        model=model,
        config=_toml(root / "config.toml"),
        environment=json_object(root / "environment.json") if (root / "environment.json").is_file() else {},
        epochs=_epochs(root / "metrics.jsonl"),
        split=split,
        evaluation=evaluation,
        labels=labels,
        predictions=predictions,
        gallery=_gallery(root / "eval", split),
        scores=read_score_record(root / "score", SPLITS),
    )


def _no_run(root: Path) -> str:
    if not root.is_dir():
        siblings = [child.name for child in root.parent.iterdir() if child.is_dir()] if root.parent.is_dir() else []
        near = get_close_matches(root.name, siblings, n=1)
        return f"run folder {root} does not exist" + (f"; did you mean {root.parent / near[0]}?" if near else "")
    runs = sorted(child.parent.name for child in root.glob("*/model.json"))
    hint = f"; it holds the runs {', '.join(runs[:5])}" if runs else "; a run folder is what `aib train` writes"
    return f"{root} is not a run folder, it has no model.json{hint}"


def _toml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    text = read_text(file, MAX_TOML_BYTES)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also of a whole number with thousands of digits
        raise ValueError(f"{file}: not valid TOML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{file}: not valid TOML: it is nested too deeply") from None


def _epochs(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    by_epoch: dict[int, dict[str, Any]] = {}
    lines = read_text(file).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == len(lines) and not _is_json(line)):  # a killed run may leave half a last line
            continue
        epoch = kept(parse_json(line, file, number), EPOCH, f"{file}, line {number}")
        by_epoch[epoch["epoch"]] = epoch
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _check(file: Path, evaluation: Mapping[str, Any], num_classes: int) -> None:
    """Lengths that must agree."""
    rows = evaluation["confusion"]
    if len(rows) != num_classes or any(len(row) != num_classes for row in rows):
        raise ValueError(f"{file}: the confusion matrix has {len(rows)} rows; model.json names {num_classes} classes")
    if len(evaluation["classes"]) != num_classes:
        raise ValueError(f"{file}: 'classes' has {len(evaluation['classes'])} entries; model.json names {num_classes} classes")
    if len(evaluation["error_interval"]) != 2:
        raise ValueError(f"{file}: 'error_interval' has {len(evaluation['error_interval'])} entries; expected its two ends")
    usage = evaluation.get("anchors")
    if usage is not None and (not usage["values"] or len(usage["values"]) != len(usage["counts"])):
        raise ValueError(f"{file}: 'anchors' has {len(usage['values'])} values and {len(usage['counts'])} counts")
    counts = [*(count for row in rows for count in row), *(usage["counts"] if usage is not None else ())]
    counts += [entry["count"] for entry in evaluation.get("calibration", ())]
    if counts and min(counts) < 0:
        raise ValueError(f"{file}: a count is {min(counts)}")


def _gallery(folder: Path, split: str | None) -> list[GalleryItem]:
    file = folder / f"{split}-gallery.json"
    if not file.is_file():
        return []
    entries = parse_json(read_text(file), file)
    if not isinstance(entries, list):
        raise ValueError(f"{file}, line 1: expected a list, found {type(entries).__name__}")
    items = []
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, entry {number}"
        known = shaped(entry, PICTURE, where)
        others = known.get("others", {})
        items.append(
            GalleryItem(
                group=known["group"],
                image=file_inside(folder, known["image"], where),
                map=read_map(file_inside(folder, known["map"], where)) if known.get("map") else None,
                true=known["true"],
                predicted=known["predicted"],
                confidence=known["confidence"],
                name=known.get("name"),
                rate_bits=known.get("rate_bits"),
                mask=file_inside(folder, known["mask"], where) if known.get("mask") else None,
                others={name: read_map(file_inside(folder, other, where)) for name, other in others.items()},
            )
        )
    return items
