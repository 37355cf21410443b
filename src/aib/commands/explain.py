"""``aib explain``: where a trained run looks in images of yours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from aib.commands.options import parse_options


@dataclass(frozen=True)
class ExplainOptions:
    """Predict and show the attention map: raw values (.npy), overlay with a colour bar (.png) and the prediction (.json)."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files or folders of them."""
    out: Path = Path("explained")
    """Folder for the results."""
    scale: Literal["fixed", "image"] = "fixed"
    """Colours from 0 to 1 (fixed), or from each map's least to its greatest value (image)."""
    skip_bad: bool = False
    """Leave unreadable files out, count and list them, instead of stopping."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, explain every image and say where the files are."""
    options = parse_options(ExplainOptions, "explain", arguments)
    files = list_images(options.images)

    import numpy as np
    import torch
    from rich.console import Console

    from aib.data.augment import normalize
    from aib.data.images import ImageError, read_image
    from aib.data.texts import printable
    from aib.functional import nats_to_bits
    from aib.report.overlay import save_overlay
    from aib.train.checkpoint import naming
    from aib.train.device import choose_device
    from aib.train.weights import load_run

    device = choose_device(options.device)
    trained = load_run(options.run, device=device)
    if not trained.model.has_map:
        raise ValueError(f"{options.run} has no attention ({trained.card['name']} is a plain classifier): there is no map to show")
    quantizer = getattr(trained.model, "quantizer", None)
    anchors = quantizer.anchors.tolist() if quantizer is not None else None
    relative = trained.model.relative_map
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True, highlight=False)
    skipped = []
    stems = output_stems(files)
    for file, stem in zip(files, stems):
        try:
            pixels = read_image(file, trained.image_size, channels=trained.card["channels"])
        except ImageError as error:
            if not options.skip_bad:
                raise ValueError(f"{error}; leave such files out with --skip-bad") from error
            skipped.append(str(error))
            continue
        with torch.no_grad():
            details = trained.model.forward_details(normalize(pixels[None].to(device), trained.mean, trained.std))
        if details.map is None:
            raise ValueError(f"{options.run} gives no map")
        probabilities = details.logits.float().softmax(1)[0].cpu()
        if not probabilities.isfinite().all():
            raise ValueError(f"{options.run} gives outputs for {file} that are not finite numbers; its weights are damaged")
        raw = details.map[0, 0].float().cpu().numpy()
        best = int(probabilities.argmax())
        name, confidence = trained.class_names[best], float(probabilities[best])
        shown = pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()
        record = {
            "image": str(file), "prediction": name, "confidence": confidence,
            "probabilities": dict(zip(trained.class_names, probabilities.tolist())),
            "rate_bits": nats_to_bits(float(details.rate[0])) if details.rate is not None else None,
            "map": {"file": f"{stem}.npy", "height": raw.shape[0], "width": raw.shape[1], "least": float(raw.min()),
                    "greatest": float(raw.max()), "relative": relative, "anchors": anchors},
        }  # fmt: skip
        with naming(options.out / stem):
            np.save(options.out / f"{stem}.npy", raw)
            save_overlay(options.out / f"{stem}.png", shown, raw, name, confidence, anchors, scale=options.scale, relative=relative)
            (options.out / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print(f"{printable(file)}  {printable(name)}  {100 * confidence:.1f} %", markup=False)
    if skipped:
        console.print(f"left out {len(skipped)} of {len(files)} files:\n  " + "\n  ".join(skipped), markup=False)
    console.print(f"maps (.npy), overlays (.png) and predictions (.json) are in {options.out}", markup=False)


def list_images(given: Sequence[Path]) -> list[Path]:
    """Files named by the user, whatever their name, and inside folders those that Pillow knows by their ending, in natural order.

    Raises:
        ValueError: nothing given, a path is absent, or a folder holds no image.
    """
    from natsort import natsorted
    from PIL import Image

    if not given:
        raise ValueError("no image given; name image files or a folder of them")
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            known = Image.registered_extensions()
            inside = [p for p in path.rglob("*") if p.suffix.lower() in known and p.is_file() and not p.name.startswith(".")]
            if not inside:
                raise ValueError(f"{path} holds no image file")
            files += natsorted(inside, key=str)
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"no file at {path}")
    return files


def output_stems(files: Sequence[Path]) -> list[str]:
    """A name for every file's results: its own, numbered where several files share it."""
    stems: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem, number = file.stem, 1
        while stem in taken:
            number += 1
            stem = f"{file.stem}-{number}"
        taken.add(stem)
        stems.append(stem)
    return stems
