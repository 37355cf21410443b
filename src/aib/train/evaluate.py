"""Evaluation of a trained run: every number of the report, and the pictures of its gallery, as files under ``RUN/eval``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aib.classifier import AttentiveClassifier
from aib.data.augment import normalize
from aib.data.bundle import DataBundle, Split, batch_indices
from aib.data.classes import same_name
from aib.functional import nats_to_bits
from aib.interpret import localize, map_ablation, reliability_bins, wilson_interval
from aib.train.checkpoint import naming, write_atomically
from aib.train.predict import Predictions, predict
from aib.train.run_data import Labels, label_convention, open_run_data
from aib.train.run_folder import RunFolder
from aib.train.weights import LoadedRun, load_run

__all__ = ["CALIBRATION_BINS", "evaluate"]

CALIBRATION_BINS = 15
GALLERY_PER_GROUP = 6
ABLATION_IMAGES = 2000
"""Images at most on which the map is shuffled: five more passes over each."""
LOCALIZATION_PIXELS = 1 << 26
"""Pixels at most on which maps are localised, 65,536 images of 32x32 or 1,337 of 224x224: there are controls of that size too."""


def evaluate(
    path: Path,
    *,
    split: str = "test",
    data: str | None = None,
    labels: Labels | None = None,
    root: str | None = None,
    download: bool = False,
    device: str = "cpu",
    samples: tuple[int, int] | None = None,
    mirror: bool = False,
    seed: int = 0,
    bundle: DataBundle | None = None,
    other_maps: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's selected weights on a split and write ``eval/SPLIT.json``, ``eval/SPLIT.npz`` and ``eval/SPLIT-gallery``.

    Args:
        path: run folder.
        split: ``"train"`` (of another data set all of its training images), ``"val"`` or ``"test"``.
        data: another data set; its files get its name as a prefix.
        labels: how the other set's classes become the run's, see `open_run_data`; its files are then called SPLIT-by-name or
            SPLIT-by-index.
        root: the folder that holds the data; by default they are looked for where the run was started, then here.
        download: fetch the data if they are a benchmark that is absent.
        device: where to compute.
        samples: draws of attention and latent, (4, 4) as published (files are then called SPLIT-4x4); None is the deterministic
            mean path.
        mirror: average the logits over each image and its mirror image, as airbench94 (Jordan 2024) is tested; files are then
            called SPLIT-mirror. Maps and rates stay those of the image.
        seed: of the draws, the shuffling and the bootstrap.
        bundle: the data, where the caller has it open already.
        other_maps: further maps of the split's images (N, 1, h, w) by name, localised beside the attention map and shown in the
            gallery.

    Returns:
        The content of ``eval/SPLIT.json``.

    Raises:
        ValueError: no such run or split, or data that does not fit.
    """
    run = load_run(path, device=device)
    if bundle is None:
        labels = label_convention(run, data, labels)
        bundle = open_run_data(run, data, labels, root=root, download=download)
    elif labels is not None:
        raise ValueError(f"labels is {labels!r}, but the data are open already; match their classes before")
    chosen = bundle.split(split)
    if not len(chosen):
        raise ValueError(f"{bundle.name} has no {split} images: it brings none, and none were held out")
    has_map = run.model.has_map
    if mirror and not bundle.mirror:
        raise ValueError(f"mirror images of {bundle.name} do not show the same class; evaluate without mirror")
    generator = torch.Generator(device=device).manual_seed(seed)
    how: dict[str, Any] = {"device": device, "samples": samples, "mirror": mirror}
    found = predict(run.model, chosen, run.mean, run.std, **how, generator=generator, keep_maps=has_map)
    class_names = list(bundle.class_names)
    result = _numbers(found, class_names)
    if labels == "by-name":  # of classes that the other set lacks there is nothing to say
        result["classes"] = [row for row in result["classes"] if row["n"]]
    result |= {"split": split, "data": bundle.name, "samples": list(samples) if samples else None, "mirror": mirror,
               "weights": "best", "epoch": run.card["epoch"]}  # fmt: skip
    if labels is not None:
        result["labels"] = _labels_used(labels, run.class_names, bundle, split)
    result["last_error"] = None
    if run.folder.last.exists():
        try:
            last = load_run(path, device=device, weights="last").model
        except ValueError as error:  # the selected weights are in a file of their own, and whole
            result["last_unreadable"] = str(error)
        else:
            generator = torch.Generator(device=device).manual_seed(seed)  # the draws that the selected weights had
            again = predict(last, chosen, run.mean, run.std, **how, generator=generator)
            result["last_error"] = again.errors.double().mean().item()
    if has_map or found.rate is not None:
        result |= _attention_numbers(run, found, chosen, device, seed)
    own = "AIB" if isinstance(run.model, AttentiveClassifier) else str(run.card["name"])
    maps = {**({own: found.maps} if found.maps is not None else {}), **(other_maps or {})}
    if maps and (localization := _localization(maps, chosen, bundle.image_size, seed)) is not None:
        result["localization"] = {**localization, "own": own if found.maps is not None else None}
    name = split if data is None else f"{Path(data).stem}-{split}"
    if labels is not None:
        name += f"-{labels}"
    if samples is not None:  # beside the mean path's, which the report shows
        name += f"-{samples[0]}x{samples[1]}"
    if mirror:
        name += "-mirror"
    _save_arrays(run.folder, name, found)
    with naming(run.folder.path / "eval" / f"{name}-gallery"):
        _save_gallery(run.folder, name, found, chosen, class_names, other_maps or {})
    run.folder.write_json(f"eval/{name}.json", result)  # last: where it is, the evaluation is complete
    return result


def _numbers(found: Predictions, class_names: list[str]) -> dict[str, Any]:
    """Error, confusion, calibration and the entropy of the labels."""
    if not found.logits.isfinite().all():
        raise ValueError("the network's outputs are not all finite numbers; its weights are damaged")
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, predicted = found.labels.numpy(), found.logits.argmax(1).numpy()
    wrong, n = int((labels != predicted).sum()), len(labels)
    every = np.arange(len(class_names))
    precision, recall, _, counts = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0.0)
    confidence, _ = found.logits.softmax(1).max(1)
    bins = reliability_bins(confidence.clamp_max(1).numpy(), labels == predicted, CALIBRATION_BINS)
    shares = np.bincount(labels, minlength=len(every)) / n
    return {
        "n": n,
        "error": wrong / n,
        "error_interval": list(wilson_interval(wrong, n)),
        "cross_entropy": F.cross_entropy(found.logits, found.labels).item(),
        "ece": sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / n,
        "label_entropy_bits": float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum()),
        "classes": [
            {"name": name, "n": int(n_class), "error": 1 - float(r), "precision": float(p), "recall": float(r)}
            for name, n_class, p, r in zip(class_names, counts, precision, recall)
        ],
        "confusion": confusion_matrix(labels, predicted, labels=every).tolist(),
        "calibration": bins,
    }  # fmt: skip


def _labels_used(labels: Labels, own: list[str], bundle: DataBundle, split: str) -> dict[str, Any]:
    """How the labels came about: the convention, images left out and their classes, and the number of classes that can be right."""
    left_out = bundle.left_out.get(split, {})
    same = [name for name, shown in zip(own, bundle.class_names) if same_name(name, shown)]
    if labels == "by-name":
        counts = torch.bincount(bundle.split(split).labels, minlength=len(own)).tolist()
        same = [name for name, count in zip(own, counts) if count]
    return {"convention": labels, "left_out": sum(left_out.values()), "classes_left_out": sorted(left_out), "classes_shared": same}


def _attention_numbers(run: LoadedRun, found: Predictions, split: Split, device: str, seed: int) -> dict[str, Any]:
    """Rate, anchors and what the error becomes without the map."""
    numbers: dict[str, Any] = {"map_relative": run.model.relative_map} if run.model.has_map else {}
    if found.map_mean is not None:
        numbers |= {"map_mean": found.map_mean, "map_std": found.map_std}
    if found.rate is not None:
        numbers["rate_bits"] = nats_to_bits(found.rate.double().mean().item())
    if found.usage is not None and isinstance(run.model, AttentiveClassifier) and run.model.quantizer is not None:
        usage = found.usage
        numbers["anchors"] = {
            "values": run.model.quantizer.anchors.tolist(), "counts": usage.counts.tolist(), "used": usage.used,
            "perplexity": usage.perplexity, "smallest_gap": usage.smallest_gap,
        }  # fmt: skip
    count = min(len(split), ABLATION_IMAGES)
    # not sorted: the images of a folder lie class by class, and maps are shuffled within a batch
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
    batches = (
        (normalize(b.images.to(device), run.mean, run.std), b.labels.to(device)) for b in split.batches(batch_indices(chosen, 250))
    )
    if count > 1 and run.model.gated:
        numbers["map_ablation"] = map_ablation(run.model, batches, seed)
    return numbers


def _localization(maps: Mapping[str, Tensor], split: Split, size: tuple[int, int], seed: int) -> dict[str, Any] | None:
    """The maps beside their controls, of images at random where there are many pixels; None if the split has no masks."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    chosen = chosen[: max(2, LOCALIZATION_PIXELS // (size[0] * size[1]))].sort().values
    if split.select(chosen[:1]).masks is None or (masks := (some := split.select(chosen)).masks) is None:
        return None
    images = torch.cat([b.images.cpu() for b in some.batches(batch_indices(torch.arange(len(some)), 500))])
    return localize({name: one[chosen] for name, one in maps.items()}, masks, images, seed=seed)


def _save_arrays(folder: RunFolder, name: str, found: Predictions) -> None:
    confidence, predicted = found.logits.softmax(1).max(1)
    arrays = {"labels": found.labels, "predictions": predicted, "confidence": confidence, "logits": found.logits}
    if found.rate is not None:
        arrays["rate_bits"] = torch.tensor(nats_to_bits(1.0)) * found.rate
    content: dict[str, Any] = {k: v.numpy() for k, v in arrays.items()}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **content)

    target = folder.path / "eval" / f"{name}.npz"
    target.parent.mkdir(exist_ok=True)
    write_atomically(target, write)


def _save_gallery(
    folder: RunFolder,
    name: str,
    found: Predictions,
    split: Split,
    class_names: list[str],
    others: Mapping[str, Tensor],
) -> None:
    """Images with their maps for the report: right and wrong ones at random (fixed seed), the most and the least certain."""
    from PIL import Image

    confidence, predicted = found.logits.softmax(1).max(1)
    order = torch.randperm(len(found.labels), generator=torch.Generator().manual_seed(0))
    wrong = found.errors[order]
    by_confidence = confidence.argsort(descending=True, stable=True)
    groups = {
        "right": order[~wrong],
        "wrong": order[wrong],
        "most certain": by_confidence,
        "least certain": by_confidence.flip(0),
    }
    target = folder.emptied_gallery(f"eval/{name}")
    items: list[dict[str, Any]] = []
    for group, positions in groups.items():
        # one at a time keeps the memory of large photographs low
        for batch in split.batches([p.view(1) for p in positions[:GALLERY_PER_GROUP]]):
            i, stem = int(batch.positions[0]), f"{len(items):03d}"
            pixels = batch.images[0].permute(1, 2, 0).cpu().numpy()
            Image.fromarray(pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels).save(target / f"{stem}.png")
            item: dict[str, Any] = {
                "group": group, "image": f"{name}-gallery/{stem}.png", "map": None,
                "true": class_names[int(found.labels[i])], "predicted": class_names[int(predicted[i])],
                "confidence": float(confidence[i]), "name": split.names[i] if split.names is not None else None,
                "rate_bits": nats_to_bits(float(found.rate[i])) if found.rate is not None else None,
            }  # fmt: skip
            if found.maps is not None:
                item["map"] = f"{name}-gallery/{stem}.npy"
                np.save(target / f"{stem}.npy", found.maps[i, 0].float().numpy())
            for n, (explainer, other) in enumerate(others.items()):
                np.save(target / f"{stem}-{n}.npy", other[i, 0].float().cpu().numpy())
                item.setdefault("others", {})[explainer] = f"{name}-gallery/{stem}-{n}.npy"
            if (mask := split.select(batch.positions).masks) is not None:  # all at once are many where they are drawn from boxes
                item["mask"] = f"{name}-gallery/{stem}-mask.png"
                Image.fromarray(mask[0, 0].numpy()).save(target / f"{stem}-mask.png")
            items.append(item)
    folder.write_json(f"eval/{name}-gallery.json", items)
