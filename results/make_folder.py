"""A folder of PNG files in class folders from an .npz of images, to train on as a user would:

python results/make_folder.py data/cifar10.npz data/cifar10-png --train 10000 --test 2000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Write the first images of each split, class by class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2_000)
    options = parser.parse_args()
    with np.load(options.source, allow_pickle=False) as archive:
        names = archive["class_names"]
        for split, count in (("train", options.train), ("test", options.test)):
            images, labels = archive[f"x_{split}"][:count], archive[f"y_{split}"][:count]
            for number, (image, label) in enumerate(zip(images, labels)):
                folder = options.target / split / str(names[label])
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{number}.png")


if __name__ == "__main__":
    main()
