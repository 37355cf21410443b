"""The scores of a run's maps read back: ``score/SPLIT.json`` checked against its shape, and the pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aib.report.files import file_inside, parse_json, read_map, read_text
from aib.report.shapes import ESTIMATE, Estimate, shaped

__all__ = ["FORMAT", "LEAST", "QUOTED", "EditedItem", "Estimate", "Key", "ScoreRecord", "Version", "read_score_record"]

Key = tuple[str, str, float]
"""Source of a map, name of an edit and its size."""

QUOTED = "0.9"
"""The threshold of the cosine that figures show."""

FORMAT = 3
"""The newest format of a file of scores that is read; files without a number are of the first, and lack what came since."""

LEAST = 20
"""Images from which on a difference is called one: below, it is too few images to say."""

_SCORED = {
    "source": str, "edit": str, "size": float, "n": int, "unchanged": int, "unchanged_share": ESTIMATE,
    "thresholds": {"*": {"score": ESTIMATE, "excess": ESTIMATE}}, "cosine_own?": ESTIMATE, "cosine_other?": ESTIMATE,
    "correlation?": {"own": ESTIMATE, "other": ESTIMATE, "excess": ESTIMATE},
}  # fmt: skip
_COMPARED = {
    "source": str, "edit": str, "size": float, "n?": int, "unchanged": int,
    "thresholds": {"*": {"excess": {"control?": str, "difference": ESTIMATE}}},
    "correlation?": {"control?": str, "difference": ESTIMATE},
}  # fmt: skip
_REMOVED = {
    "deletion": ESTIMATE, "insertion": ESTIMATE, "srg": ESTIMATE, "polarity": ESTIMATE,
    "attended_removed": {"*": ESTIMATE}, "unattended_removed": {"*": ESTIMATE}, "morf": [ESTIMATE], "lerf": [ESTIMATE],
}  # fmt: skip
_ABOVE = {"control?": str, "difference": ESTIMATE}
_DETECTED = {"inside": int, "outside": int, "scores": {"*": {"auroc": ESTIMATE, "false_positive_rate": ESTIMATE}},
             "rate_less?": {"*": ESTIMATE}}  # fmt: skip

SHAPE: Mapping[str, Any] = {
    "format?": int,
    "split": str,
    "n": int,
    "own?": str,
    "against?": [str],
    "image_size?": [int],
    "consistency?": {"n": int, "rows": [_SCORED], "comparisons?": [_COMPARED]},
    "randomized?": {"*": {"n?": int, "spearman": ESTIMATE, "constant?": int, "draws?": [(float, None)]}},
    "beside_controls?": {"n": int, "rows": [_SCORED], "controls": [str], "controls_of?": {"*": [str]}, "same_map?": [str],
                         "not_recomputed?": [str], "comparisons": [_COMPARED]},
    "faithfulness?": {
        "n": int, "shares": [float], "accuracy?": ESTIMATE, "fills": {"*": {"*": _REMOVED}},
        "above?": {"*": {"*": {"*": _ABOVE}}},
    },
    "sensitivity?": {"*": {"n": int, "sigma": float, "share": ESTIMATE, "pooled?": (ESTIMATE, None), "undefined?": int,
                           "above?": _ABOVE}},
    "grid_pointing?": {"n": int, "images?": int, "chance": float, "maps": {"*": ESTIMATE}, "above?": {"*": _ABOVE}},
    "localization?": {"n": int, "excluded?": int, "maps": {"*": {"*": ESTIMATE}}, "above?": {"*": {"*": _ABOVE}}},
    "map_ablation?": {"*": ESTIMATE},
    "information?": {
        "images": int,
        "latent": {"image": ESTIMATE, "dimensions": int, "in_use": int},
        "attention?": {"image": ESTIMATE, "position": float, "highest": float, "map?": [[float]]},
        "quantized?": {
            "anchors": int, "height": int, "width": int, "entropy": {"position": float, "image": float},
            "codes": {"*": {"position": float, "image": ESTIMATE}},
        },
    },
    "detection?": {
        "selective?": {
            "n": int, "error": float, "coverage": [float], "best_area?": float,
            "scores": {"*": {"area": ESTIMATE, "error_at": [ESTIMATE]}},
        },
        "outside?": {"*": _DETECTED},
    },
    "agreement?": {"metrics": [str], "spearman": [[(float, None)]], "sources": [str], "controls?": [str]},
}  # fmt: skip
"""What a file of scores holds, see `aib.report.shapes.shaped`."""


@dataclass(frozen=True)
class Version:
    """An image as it is, or edited.

    Attributes:
        edit: ``"original"`` or the name of the edit.
        size: of the edit, or None.
        image: file of the picture.
        rescaled: whether the picture is shifted and scaled, since its pixels leave 0 to 255.
        predicted: class name.
        confidence: probability of the predicted class, in [0, 1].
        maps: raw (h, w) maps by their source.
    """

    edit: str
    size: float | None
    image: Path
    rescaled: bool
    predicted: str
    confidence: float
    maps: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class EditedItem:
    """An image of the gallery: the name of its true class, and its versions, the original first."""

    true: str
    versions: Sequence[Version]


@dataclass(frozen=True)
class ScoreRecord:
    """Everything a report says of the scores of a run.

    Attributes:
        file: ``score/SPLIT.json`` as it was found.
        split: whose images were scored.
        own: source that is the run's own map, None for a plain classifier.
        judged: sources whose worth is in question, the own map first; explainers follow.
        controls: sources that what is judged is compared with: maps made without the network, of another image, or of the network
            with random weights, in whole or in part.
        controls_of: by judged source, the controls it is compared with, as far as the file says.
        same_map: randomised networks that still give the same map: no controls.
        numbers: content of the file, checked; missing estimates are None.
        rows: numbers of every source under every edit, on the most images it was scored on.
        same_images: as much on the images that all sources were scored on.
        above: how far the judged sources stand above their best control.
        above_drawn: as much for the own map beside the controls made without the network alone, on the most images.
        gallery: edited pictures.
    """

    file: Path
    split: str
    own: str | None
    judged: Sequence[str]
    controls: Sequence[str]
    controls_of: Mapping[str, Sequence[str]]
    same_map: Sequence[str]
    numbers: Mapping[str, Any]
    rows: Mapping[Key, Mapping[str, Any]]
    same_images: Mapping[Key, Mapping[str, Any]]
    above: Mapping[Key, Mapping[str, Any]]
    above_drawn: Mapping[Key, Mapping[str, Any]]
    gallery: Sequence[EditedItem]

    @property
    def scored(self) -> list[str]:
        """Those of `judged` that were scored with edits."""
        return [source for source in self.judged if any(source == one for one, _, _ in self.rows)]

    def edits(self) -> list[tuple[str, float]]:
        """Edits to judge by, in order: those under which all images were scored, or those that come before the sweep of radii."""
        whole = [(edit, size) for _, edit, size in _keyed(self.numbers.get("consistency", {}).get("rows", ()))]
        if whole:
            return list(dict.fromkeys(whole))
        found: list[tuple[str, float]] = []
        for edit, size in dict.fromkeys((edit, size) for _, edit, size in self.above):
            if found and edit != found[-1][0] and edit in [name for name, _ in found]:  # the sweep goes back to low frequencies
                break
            found.append((edit, size))
        return found

    def every_edit(self) -> list[tuple[str, float]]:
        """The edits to judge by, then those of the sweep."""
        return list(dict.fromkeys([*self.edits(), *((edit, size) for _, edit, size in self.above)]))

    def estimate(self, kind: str, key: Key, threshold: str = QUOTED) -> Estimate | None:
        """``"score"`` or ``"excess"`` of a source under an edit; None where nothing is scored."""
        found: Estimate | None = self.rows.get(key, {}).get("thresholds", {}).get(threshold, {}).get(kind)
        return found

    def beside(self, kind: str, source: str, edit: tuple[str, float]) -> Estimate | None:
        """As `estimate`, or the ``"correlation"`` excess, on the images that all sources were scored on, where there are such."""
        row = self.same_images.get((source, *edit)) or self.rows.get((source, *edit), {})
        if kind == "correlation":
            correlation: Estimate | None = row.get("correlation", {}).get("excess")
            return correlation
        found: Estimate | None = row.get("thresholds", {}).get(QUOTED, {}).get(kind)
        return found

    def compared(self, source: str, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are controls of a judged source; where the file does not say, all that are not judged."""
        mine = self.controls_of.get(source)
        others = [name for name in names if name not in self.judged and name not in self.same_map]
        return others if mine is None else [name for name in others if name in mine]

    def compared_on(self, source: str) -> int:
        """Images that a judged source and all its controls were scored on."""
        beside: int = self.numbers.get("beside_controls", {}).get("n", 0)
        return max([beside, *(one.get("n", 0) for (name, _, _), one in self.above.items() if name == source)])

    def few(self, key: Key) -> bool:
        """Whether the comparison of a source with its controls under an edit rests on fewer than `LEAST` images."""
        return key in self.above and bool(self.above[key]["unchanged"] < LEAST)

    def over_control(self, key: Key, threshold: str = QUOTED) -> tuple[str | None, Estimate | None]:
        """The best control by its excess, and how far the excess of the source stands above it."""
        best = self.above.get(key, {}).get("thresholds", {}).get(threshold, {}).get("excess", {})
        return best.get("control"), best.get("difference")

    def over_correlation(self, key: Key) -> tuple[str | None, Estimate | None]:
        """The best control by its correlation excess, and how far that of the source stands above it."""
        best = self.above.get(key, {}).get("correlation", {})
        return best.get("control"), best.get("difference")


def read_score_record(folder: Path, splits: Sequence[str]) -> ScoreRecord | None:
    """The scores in a run's folder ``score``, of the first of ``splits`` that has any; None where none has.

    Raises:
        ValueError: a file is damaged or no file of scores; one line that names it and the place in it.
    """
    split = next((name for name in splits if (folder / f"{name}.json").is_file()), None)
    if split is None:
        return None
    file = folder / f"{split}.json"
    content = parse_json(read_text(file), file)
    if isinstance(content, dict) and content.get("format", 1) == 1:
        content.pop("agreement", None)  # over sources that are not comparable
    numbers = shaped(content, SHAPE, str(file))
    if numbers.get("format", 1) > FORMAT:
        raise ValueError(f"{file} has format {numbers['format']}; this version reads up to {FORMAT}: score the run again with it")
    _check(numbers, file)
    whole, beside = numbers.get("consistency", {}), numbers.get("beside_controls", {})
    own, against = numbers.get("own"), numbers.get("against", [])
    same_images = _keyed(beside.get("rows", ()))
    simple = [row["source"] for row in whole.get("rows", ()) if row["source"] != own]
    judged = [*([own] if own is not None else []), *against]
    controls = beside.get("controls") or list(dict.fromkeys(simple))
    return ScoreRecord(
        file=file,
        split=numbers["split"],
        own=own,
        judged=judged,
        controls=controls,
        controls_of={source: names for source, names in beside.get("controls_of", {}).items() if source in judged},
        same_map=beside.get("same_map", []),
        numbers=numbers,
        rows={**same_images, **_keyed(whole.get("rows", ()))},
        same_images=same_images,
        above={**_keyed(whole.get("comparisons", ())), **_keyed(beside.get("comparisons", ()))},
        above_drawn=_keyed(whole.get("comparisons", ())),
        gallery=_gallery(folder, split),
    )


def _keyed(rows: Sequence[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any]]:
    return {(row["source"], row["edit"], row["size"]): row for row in rows}


def _check(numbers: Mapping[str, Any], file: Path) -> None:
    """Lengths that must agree."""
    steps = len(numbers.get("faithfulness", {}).get("shares", ()))
    for fill, maps in numbers.get("faithfulness", {}).get("fills", {}).items():
        for name, removed in maps.items():
            if None in (*removed["morf"], *removed["lerf"]):
                raise ValueError(f"{file}, 'faithfulness', {fill!r}, {name!r}: a step of the curves has no number")
            if {len(removed["morf"]), len(removed["lerf"])} != {steps}:
                raise ValueError(f"{file}, 'faithfulness', {fill!r}, {name!r}: the curves have not the {steps} steps of 'shares'")
    rows = numbers.get("information", {}).get("attention", {}).get("map")
    if rows is not None and (not rows or len({len(row) for row in rows}) != 1 or not rows[0]):
        raise ValueError(f"{file}, 'information', 'attention', 'map': expected rows of equal length")
    selective = numbers.get("detection", {}).get("selective")
    for name, scores in selective["scores"].items() if selective else ():
        if len(scores["error_at"]) != len(selective["coverage"]):
            raise ValueError(f"{file}, 'detection', 'selective', {name!r}: expected an error for each coverage")
    agreement = numbers.get("agreement", {"metrics": [], "spearman": []})
    size = len(agreement["metrics"])
    if any(len(rows) != size for rows in (agreement["spearman"], *agreement["spearman"])):
        raise ValueError(f"{file}, 'agreement': expected {size} rows of {size} for its {size} metrics")


_ITEM = {"true": str, "versions": [{"edit": str, "size?": float, "image": str, "predicted": str, "confidence": float,
                                    "maps": {"*": str}}]}  # fmt: skip


def _gallery(folder: Path, split: str) -> list[EditedItem]:
    file = folder / f"{split}-gallery.json"
    if not file.is_file():
        return []
    content = parse_json(read_text(file), file)
    items = []
    for number, entry in enumerate(shaped(content, [_ITEM], str(file)), start=1):
        if not entry["versions"] or entry["versions"][0]["edit"] != "original":
            raise ValueError(f"{file}, entry {number}: the first of 'versions' must be the original")
        versions = []
        for known, raw in zip(entry["versions"], content[number - 1]["versions"]):
            where = f"{file}, entry {number}"
            image = file_inside(folder, known["image"], where)
            maps = {source: read_map(file_inside(folder, name, where)) for source, name in known["maps"].items()}
            versions.append(Version(known["edit"], known.get("size"), image, raw.get("rescaled") is True, known["predicted"],
                                    known["confidence"], maps))  # fmt: skip
        items.append(EditedItem(entry["true"], versions))
    return items
