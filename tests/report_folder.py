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
