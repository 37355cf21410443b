"""Run folders as training and evaluation leave them, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

TEN = [str(digit) for digit in range(10)]


def make_run(
    root: Path,
    kind: str = "aib-qt",
    *,
    names: list[str] = TEN,
    evaluated: bool = True,
    shuffled: float = 0.31,
    seed: int = 0,
    size: int = 32,
) -> Path:
    """A run folder as training and evaluation leave it; ``kind`` is "plain", "aib" or "aib-qt"."""
    rng = np.random.default_rng(seed)
    classes, attentive, count = len(names), kind != "plain", 500
    (root / "eval" / "test-gallery").mkdir(parents=True)
    (root / "config.toml").write_text('[data]\nname = "clutter"\n[optim]\nlr = 0.1\nepochs = 6\n')
    _json(root / "environment.json", {"python": "3.11.2", "aib": "0.1.0", "device": "cpu", "threads": 2})
    model = {
        "format": 1,
        "name": f"vgg_s_{kind}",
        "num_classes": classes,
        "class_names": names,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    model |= {
        "image_size": [32, 32],
        "edits": [list(edit) for edit in EDITS],
        "data": "clutter",
        "parameters": 412_356,
        "macs": 7_123_456,
        "site": None,
        "options": {},
        "epoch": 5,
    }
    _json(root / "model.json", model)
    lines = []
    for epoch in range(1, 7):
        fading = float(np.exp(-epoch / 3))
        train = {"loss": 0.2 + 2.2 * fading, "cross_entropy": 0.15 + 2.1 * fading, "error": 0.05 + 0.8 * fading}
        val = {"error": 0.06 + 0.7 * fading, "cross_entropy": 0.2 + 1.9 * fading}
        if attentive:
            train |= {"rate_loss": 0.01 * fading, "rate_bits": 8 + 6 * fading}
            val |= {"rate_bits": 8 + 6 * fading, "map_mean": 0.3, "map_std": 0.2}
        if kind == "aib-qt":
            train |= {"anchor_loss": 0.001 * fading, "commitment_loss": 0.0003 * fading}
            val |= {"anchors_used": 17, "anchor_perplexity": 6.3}
        lines.append(json.dumps({"epoch": epoch, "step": 62 * epoch, "lr": 0.1, "seconds": 8.1, "train": train, "val": val}))
    (root / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if evaluated:
        _evaluate(root, kind, names, shuffled, rng, count, size)
    return root


def _json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


def _evaluate(root: Path, kind: str, names: list[str], shuffled: float, rng: np.random.Generator, count: int, size: int) -> None:
    classes = len(names)
    labels = np.arange(count) % classes
    wrong = rng.random(count) < 0.08
    predictions = np.where(wrong, (labels + rng.integers(1, classes, count)) % classes, labels)
    confidence = np.where(wrong, rng.beta(4, 3, count), rng.beta(12, 1, count))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predictions), 1)
    error = float(wrong.mean())
    bins = []
    for index in range(15):
        inside = (confidence >= index / 15) & (confidence < (index + 1) / 15)
        bin_ = {"low": index / 15, "high": (index + 1) / 15, "count": int(inside.sum())}
        mean = float(confidence[inside].mean()) if inside.any() else 0.0
        bins.append(bin_ | {"confidence": mean, "accuracy": float((~wrong[inside]).mean()) if inside.any() else 0.0})
    rows = [{"name": n, "n": int(c.sum()), "error": float(1 - c[i] / c.sum())} for i, (n, c) in enumerate(zip(names, confusion))]
    rows = [row | {"precision": 0.9, "recall": 1 - row["error"]} for row in rows]
    made = {
        "split": "test",
        "n": count,
        "error": error,
        "error_interval": [error - 0.02, error + 0.03],
        "cross_entropy": 0.21,
        "ece": 0.02,
    }
    made |= {"weights": "best", "last_error": error + 0.01, "label_entropy_bits": float(np.log2(classes)), "classes": rows}
    made |= {"confusion": confusion.tolist(), "calibration": bins}
    maps = {"Grad-CAM (block 4)": _scores(0.79), "centre": _scores(0.21), "uniform": _scores(0.115), "chance": _scores(0.115)}
    own = None
    if kind != "plain":
        maps, own = {"AIB": _scores(0.883)} | maps, "AIB"
        made |= {
            "rate_bits": 8.3,
            "map_ablation": {"original": error, "shuffled_images": shuffled, "shuffled_positions": 0.4, "mean": 0.2},
        }
    if kind == "aib-qt":
        counts = [1000 // (anchor + 1) for anchor in range(17)] + [0, 0, 0]
        made["anchors"] = {
            "values": np.linspace(0, 1, 20).tolist(),
            "counts": counts,
            "used": 17,
            "perplexity": 9.9,
            "smallest_gap": 0.05,
        }
    made["localization"] = {"n": count, "excluded": 3, "maps": maps, "own": own}
    _json(root / "eval" / "test.json", made)
    np.savez(root / "eval" / "test.npz", labels=labels, predictions=predictions, confidence=confidence)
    _gallery(root / "eval", kind, names, rng, size)


def _scores(pointing: float) -> dict[str, list[float]]:
    return {"pointing_game": [pointing, pointing - 0.02, pointing + 0.02], "energy": [0.3, 0.28, 0.32], "iou": [0.2, 0.19, 0.21]}


def _gallery(folder: Path, kind: str, names: list[str], rng: np.random.Generator, size: int) -> None:
    entries = []
    for index in range(16):
        group = ("right", "wrong", "most certain", "least certain")[index % 4]
        label = index % len(names)
        image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        mask = Image.new("L", (size, size))
        ImageDraw.Draw(mask).rectangle((size // 4, size // 4, size // 2, size // 2), fill=255)
        image.paste((250, 240, 90), mask=mask)
        image.save(folder / "test-gallery" / f"{index:03}.png")
        mask.save(folder / "test-gallery" / f"{index:03}-mask.png")
        entry = {
            "group": group,
            "image": f"test-gallery/{index:03}.png",
            "map": None,
            "true": names[label],
            "rate_bits": None,
            "name": None,
        }
        entry |= {"predicted": names[label if index % 2 == 0 else (label + 1) % len(names)], "confidence": 0.93}
        if kind != "plain":
            np.save(folder / "test-gallery" / f"{index:03}.npy", rng.random((16, 16), dtype=np.float32))
            np.save(folder / "test-gallery" / f"{index:03}-cam.npy", rng.random((8, 8), dtype=np.float32))
            entry |= {"map": f"test-gallery/{index:03}.npy", "rate_bits": 7.1, "mask": f"test-gallery/{index:03}-mask.png"}
            entry["others"] = {"Grad-CAM": f"test-gallery/{index:03}-cam.npy"}
        entries.append(entry)
    _json(folder / "test-gallery.json", entries)


EDITS = [("colour window", 8), ("low frequencies", 12.0), ("high frequencies", 4.0)]
SWEEP = [("low frequencies", 4.0), ("low frequencies", 8.0), ("high frequencies", 2.0), ("high frequencies", 8.0)]
SCORES = {"own map": 0.8, "gradcam": 0.6, "uniform": 1.0, "edges": 0.5, "untrained": 0.9, "last 25 % randomised": 0.8}
EXCESSES = {"own map": 0.7, "gradcam": 0.55, "uniform": 0.0, "edges": 0.4, "untrained": 0.1, "last 25 % randomised": 0.7}


def make_scores(root: Path, *, above: float = 0.3, explained: float = 0.15, split: str = "test") -> dict[str, object]:
    """Write ``score/SPLIT.json`` of a run of `make_run` and return its content: own map, Grad-CAM, controls, every part.

    Args:
        root: the run folder.
        above: how far the own map stands above its best control, with an interval 0.1 to each side.
        explained: as much for Grad-CAM.
        split: of the file.
    """
    sources = list(SCORES)
    beside = [_row(source, *edit, 40) for source in sources for edit in (*EDITS, *SWEEP)]
    compared = [
        _compared(source, *edit, difference)
        for source, difference in (("own map", above), ("gradcam", explained))
        for edit in (*EDITS, *SWEEP)
    ]
    result: dict[str, object] = {
        "format": 3,
        "model": "vgg_s_aib_qt", "data": "clutter", "split": split, "n": 100, "seed": 0, "own": "own map", "against": ["gradcam"],
        "controls": ["uniform", "edges"], "thresholds": [0.85, 0.9, 0.95], "image_size": [32, 32],
        "edits": [list(edit) for edit in EDITS],
        "consistency": {
            "n": 100,
            "rows": [_row(source, *edit, 100) for source in ("own map", "uniform", "edges") for edit in EDITS],
            "comparisons": [_compared("own map", *edit, above) for edit in EDITS],
        },
        "randomized": {name: {"n": 40, "spearman": _around(value, 0.03), "constant": 0,
                              "draws": [value - 0.02, value, value + 0.02]} for name, value in
                       (("untrained", 0.1), ("attention randomised", -0.2), ("last 25 % randomised", 1.0))},
        "beside_controls": {"n": 40, "rows": beside, "controls": ["uniform", "edges", "untrained"],
                            "same_map": ["last 25 % randomised"], "comparisons": compared},
        "faithfulness": {
            "n": 20, "cells": [8, 8], "shares": [0.0, 0.5, 1.0], "accuracy": [0.95, 0.9, 1.0],
            "fills": {fill: {name: _removed(srg) for name, srg in
                             (("own map", 0.61), ("gradcam", 0.43), ("uniform", 0.01), ("edges", 0.32), ("random", -0.02))}
                      for fill in ("mean", "blur")},
            "above": {fill: {name: {"srg": {"control": "edges", "difference": _around(above, 0.1)},
                                    "deletion": {"control": "random", "difference": _around(0.07, 0.03)},
                                    "polarity": {"control": "uniform", "difference": _around(0.25, 0.2)},
                                    "attended_removed": {"control": "edges@8x8", "difference": _around(0.125, 0.1)}}
                             for name in ("own map", "gradcam")} for fill in ("mean", "blur")},
        },
        "sensitivity": {"own map": {"n": 20, "draws": 4, "sigma": 4.0, "share": _around(4.24, 0.5), "undefined": 0,
                                    "pooled": _around(0.037, 0.005),
                                    "above": {"control": "edges", "difference": _around(-0.016, 0.004)}},
                        "gradcam": {"n": 20, "draws": 4, "sigma": 4.0, "share": None, "undefined": 20, "pooled": None},
                        "edges": {"n": 20, "draws": 4, "sigma": 4.0, "share": _around(0.02, 0.005), "undefined": 0,
                                  "pooled": _around(0.021, 0.005)}},
        "grid_pointing": {"n": 20, "images": 18, "chance": 0.25,
                          "maps": {"own map": [0.25] * 3, "gradcam": _around(0.41, 0.05), "uniform": [0.25] * 3},
                          "above": {"gradcam": {"control": "untrained@gradcam", "difference": _around(0.123, 0.05)}}},
        "localization": {"n": 24, "excluded": 4,
                         "maps": {name: _scores(value) for name, value in
                                  (("own map", 0.8), ("gradcam", 0.52), ("centre", 0.31), ("chance", 0.11))},
                         "above": {name: {measure: {"control": "centre", "difference": _around(value, 0.1)}
                                          for measure in ("pointing_game", "energy", "iou")}
                                   for name, value in (("own map", 0.49), ("gradcam", 0.05))}},
        "map_ablation": {"original": [0.06, 0.03, 0.12], "shuffled_images": [0.61, 0.51, 0.7], "mean": [0.2, 0.13, 0.29]},
        "information": {
            "images": 100, "latent": {"image": _around(60.5, 2.0), "dimensions": 64, "in_use": 63},
            "attention": {"image": _around(435.2, 9.0), "position": 0.4, "highest": 0.9, "height": 2, "width": 3,
                          "map": [[0.1, 0.2, 0.3], [0.4, 0.9, 0.0]]},
            "quantized": {"anchors": 50, "images": 100, "height": 2, "width": 3, "entropy": {"position": 2.5, "image": 15.0},
                          "codes": {"none": {"position": 2.6, "image": _around(15.6, 0.4)},
                                    "neighbours": {"position": 1.4, "image": _around(8.4, 0.3)}}},
        },
        "detection": {
            "selective": {"n": 100, "error": 0.08, "coverage": [0.1, 0.5, 1.0], "best_area": 0.01, "scores": {
                name: {"area": _around(area, 0.01), "error_at": [[0.0, 0.0, 0.2], [area, 0.0, 0.1], [0.08, 0.04, 0.14]]}
                for name, area in (("max_softmax", 0.02), ("rate", 0.05))}},
            "outside": {"svhn": {"inside": 100, "outside": 500, "scores": {
                name: {"auroc": _around(value, 0.01), "false_positive_rate": _around(0.2, 0.02)}
                for name, value in (("max_softmax", 0.912), ("entropy", 0.934), ("rate", 0.987))},
                "rate_less": {"max_softmax": _around(0.075, 0.02), "entropy": _around(0.053, 0.02)}}},
        },
        "agreement": {"metrics": ["consistency excess", "srg, blur"], "spearman": [[1.0, 0.37], [0.37, 1.0]],
                      "sources": ["own map", "gradcam", "edges", "untrained"], "controls": ["edges", "untrained"]},
    }  # fmt: skip
    (root / "score").mkdir(exist_ok=True)
    _json(root / "score" / f"{split}.json", result)
    return result


def make_score_gallery(root: Path, split: str = "test") -> None:
    """Write the edited pictures beside the scores: three images, original and one edit, own map and Grad-CAM."""
    rng = np.random.default_rng(5)
    folder = root / "score" / f"{split}-gallery"
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for index in range(3):
        versions = []
        for number, (edit, size) in enumerate([("original", None), ("colour window", 8)]):
            stem = f"{index}-{number}"
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{stem}.png")
            np.save(folder / f"{stem}-0.npy", rng.random((16, 16), dtype=np.float32))
            np.save(folder / f"{stem}-1.npy", 1e-5 * rng.random((4, 4), dtype=np.float32))
            names = {"own map": f"test-gallery/{stem}-0.npy", "gradcam": f"test-gallery/{stem}-1.npy"}
            version = {"edit": edit, "size": size, "image": f"test-gallery/{stem}.png", "rescaled": False, "maps": names}
            versions.append(version | {"predicted": str(index + (number if index == 1 else 0)), "confidence": 0.81})
        items.append({"true": str(index), "versions": versions})
    _json(root / "score" / f"{split}-gallery.json", items)


def _around(value: float, reach: float) -> list[float]:
    return [value, value - reach, value + reach]


def _row(source: str, edit: str, size: float, n: int) -> dict[str, object]:
    numbers = {"score": _around(SCORES[source], 0.05), "other": _around(0.1, 0.05), "excess": _around(EXCESSES[source], 0.05)}
    return {
        "source": source, "edit": edit, "size": size, "n": n, "unchanged": n - 3, "unchanged_share": [(n - 3) / n, 0.8, 0.99],
        "thresholds": dict.fromkeys(("0.85", "0.9", "0.95"), numbers), "cosine_own": _around(0.903, 0.01),
        "cosine_other": _around(0.412, 0.02),
        "correlation": {"own": _around(0.71, 0.02), "other": _around(0.2, 0.02), "excess": _around(EXCESSES[source] / 2, 0.02)},
    }  # fmt: skip


def _compared(source: str, edit: str, size: float, difference: float) -> dict[str, object]:
    best = {"control": "edges", "difference": _around(difference, 0.1)}
    thresholds = {threshold: {"excess": best, "score": best} for threshold in ("0.85", "0.9", "0.95")}
    return {"source": source, "edit": edit, "size": size, "n": 40, "unchanged": 37, "thresholds": thresholds, "correlation": best}


def _removed(srg: float) -> dict[str, object]:
    removed = {"1/4": [0.5, 0.4, 0.6], "1/2": [0.33, 0.2, 0.4], "3/4": [0.1, 0.0, 0.2]}
    return {
        "deletion": [0.2, 0.1, 0.3], "insertion": [0.2 + srg, 0.1, 0.9], "srg": _around(srg, 0.05), "polarity": [0.75, 0.6, 0.9],
        "attended_removed": removed, "unattended_removed": removed, "morf": [_around(p, 0.02) for p in (0.9, 0.3, 0.1)],
        "lerf": [_around(p, 0.02) for p in (0.9, 0.7, 0.1)],
    }  # fmt: skip
