"""The README's pictures, from the runs that `make demo` leaves:  python docs/make_pictures.py runs/demo/seed-0/aib_qt"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aib.report.overlay import blend

CELL, GAP, COLUMNS = 88, 6, 12
PAPER, INK, WRONG = "#ffffff", "#1f2328", "#c4302b"


def gallery_picture(run: Path) -> Image.Image:
    """Images of the run's gallery above their attention maps, right predictions first."""
    folder = run / "eval"
    items = json.loads((folder / "test-gallery.json").read_text(encoding="utf-8"))
    chosen = [i for i in items if i["group"] in ("right", "least certain")][:COLUMNS]
    right = [i for i in chosen if i["true"] == i["predicted"]]
    chosen = right + [i for i in chosen if i["true"] != i["predicted"]]
    width = len(chosen) * (CELL + GAP) + GAP
    canvas = Image.new("RGB", (width, 2 * (CELL + GAP) + 28), PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for column, item in enumerate(chosen):
        left = GAP + column * (CELL + GAP)
        image = np.asarray(Image.open(folder / item["image"]).convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST))
        seen = blend(image, np.load(folder / item["map"]))
        canvas.paste(Image.fromarray(image), (left, GAP))
        canvas.paste(Image.fromarray(seen), (left, 2 * GAP + CELL))
        wrong = item["true"] != item["predicted"]
        if wrong:
            draw.rectangle((left - 2, GAP - 2, left + CELL + 1, 2 * GAP + 2 * CELL + 1), outline=WRONG, width=3)
        text = f"{item['predicted']}  {100 * item['confidence']:.0f} %"
        draw.text((left + CELL / 2, 2 * (CELL + GAP) + 6), text, fill=WRONG if wrong else INK, font=font, anchor="ma")
    return canvas


def main() -> None:
    """Write docs/images from the run folder named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    target = Path(__file__).parent / "images"
    target.mkdir(exist_ok=True)
    gallery_picture(Path(sys.argv[1])).save(target / "gallery.png", optimize=True)
    print(target / "gallery.png")


if __name__ == "__main__":
    main()
