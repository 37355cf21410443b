"""Pictures for the report of a scored run: images, the same images edited, and every explainer's map of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aib.data.augment import normalize
from aib.data.bundle import Split
from aib.interpret.explainers import Explainer
from aib.interpret.named_edits import Edit
from aib.train.run_folder import RunFolder
from aib.train.weights import LoadedRun

__all__ = ["save_edited_gallery"]

IMAGES = 6


def save_edited_gallery(
    folder: RunFolder, name: str, run: LoadedRun, split: Split, edits: Sequence[Edit], explainers: Mapping[str, Explainer],
    *, seed: int = 0, device: str = "cpu",
) -> None:  # fmt: skip
    """Write ``score/NAME-gallery.json`` and its files: six images drawn by ``seed``, as they are and under the edits.

    Maps are raw values (.npy) at the explainer's own resolution, of the class predicted for the original. Edits whose pixels leave
    0 to 255 (frequencies without their mean) are shown shifted and scaled to that range, which the JSON says (``"rescaled"``).

    Args:
        folder: of the run.
        name: of the gallery, that of the scores.
        run: the run.
        split: where the images come from.
        edits: to show.
        explainers: by the name of the source.
        seed: of the images and the edits.
        device: where the model is.
    """
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    (batch,) = split.batches([chosen])
    pixels = batch.images.cpu().float()
    target = folder.emptied_gallery(f"score/{name}")
    versions: list[tuple[str, float | None, Tensor]] = [("original", None, pixels)]
    versions += [(edit.name, edit.size, edit.apply(pixels, torch.Generator().manual_seed(seed))) for edit in edits]
    classes: Tensor | None = None
    items: list[dict[str, Any]] = [{"true": run.class_names[int(label)], "versions": []} for label in batch.labels]
    for number, (edit, size, shown) in enumerate(versions):
        images = normalize(shown.to(device), run.mean, run.std)
        with torch.no_grad():
            confidence, predicted = run.model(images).float().softmax(1).max(1)
        classes = predicted if classes is None else classes
        maps = {source: explainer.attribute(images, classes).float().cpu() for source, explainer in explainers.items()}
        for i, item in enumerate(items):
            stem = f"{i}-{number}"
            rescaled = _save_picture(target / f"{stem}.png", shown[i])
            files = {}
            for n, (source, some) in enumerate(maps.items()):
                np.save(target / f"{stem}-{n}.npy", some[i, 0].numpy())
                files[source] = f"{name}-gallery/{stem}-{n}.npy"
            item["versions"].append({
                "edit": edit, "size": size, "image": f"{name}-gallery/{stem}.png", "rescaled": rescaled,
                "predicted": run.class_names[int(predicted[i])], "confidence": float(confidence[i]), "maps": files,
            })  # fmt: skip
    folder.write_json(f"score/{name}-gallery.json", items)


def _save_picture(path: Path, pixels: Tensor) -> bool:
    """Write (C, H, W) pixels as a PNG file; whether they had to be rescaled to fit."""
    rescaled = bool(pixels.min() < -1 or pixels.max() > 256)
    if rescaled:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
    shown = pixels.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(shown.repeat(3, 2) if shown.shape[2] == 1 else shown).save(path)
    return rescaled
