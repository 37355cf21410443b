"""Hostile images and folders of them; see `fuzzing`."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from torch import arange

from aib.data import open_data
from aib.data.bundle import DataBundle
from aib.data.images import decode_image, read_image, upright_size
from fuzzing import Case, Maker, misplace, spoil, weighted


def used(bundle: DataBundle) -> None:
    """What training does first with a data set."""
    for split in (bundle.train, bundle.val, bundle.test):
        for batch in split.batches([arange(min(2, len(split)))]) if len(split) else ():
            assert batch.images.ndim == 4
            split.select(batch.positions)


def picture(r: Random) -> bytes:
    """A valid file of any format and mode that Pillow writes: one of some hundreds."""
    return encoded(r.randrange(600))


@cache
def photograph() -> tuple[Image.Image, bytes]:
    """A photograph, and the file that it comes from."""
    package = importlib.util.find_spec("sklearn")  # found, not imported: it takes a second
    assert package is not None
    assert package.origin is not None
    content = (Path(package.origin).parent / "datasets" / "images" / "flower.jpg").read_bytes()
    return Image.open(io.BytesIO(content)).convert("RGB"), content


@cache
def encoded(number: int) -> bytes:
    """A small part of a photograph as a file; the first few are whole files of a camera."""
    r = Random(number)
    if number < 6:
        return photograph()[1]
    kind, modes = r.choice((
        ("png", "1 L LA P RGB RGBA I;16 I"), ("jpeg", "L RGB CMYK"), ("webp", "RGB RGBA"), ("gif", "P L RGB"),
        ("bmp", "1 L P RGB RGBA"), ("tiff", "1 L LA P RGB RGBA CMYK I;16 I F YCbCr"), ("ppm", "1 L RGB I;16"),
        ("ico", "RGB RGBA"), ("tga", "L RGB RGBA"), ("pcx", "1 L P RGB"), ("dds", "L RGB RGBA"), ("jpeg2000", "L RGB RGBA"),
        ("avif", "RGB RGBA"), ("sgi", "L RGB RGBA"), ("im", "L RGB F"), ("msp", "1"), ("xbm", "1"), ("icns", "RGB RGBA"),
        ("eps", "L RGB"), ("qoi", "RGB RGBA"), ("spider", "F"), ("mpo", "RGB"), ("blp", "P"),
    ))  # fmt: skip
    mode, (width, height) = r.choice(modes.split()), r.choice(((16, 16), (16, 16), (33, 20), (1, 1), (200, 3)))
    left, top = r.randrange(300), r.randrange(300)
    base = photograph()[0].crop((left, top, left + width, top + height)).convert({"I;16": "I"}.get(mode, mode))
    image = Image.fromarray(np.asarray(base).astype(np.uint16)) if mode == "I;16" else base
    options: dict[str, Any] = {}
    if kind in ("gif", "webp", "png", "tiff", "mpo", "avif") and r.random() < 0.3:
        options = {"save_all": True, "append_images": [image] * 2}
    if kind in ("jpeg", "png", "webp", "tiff") and r.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = r.choice((0, 3, 6, 8, 9, 70000))
        options["exif"] = exif
    if kind == "tiff":
        options["compression"] = r.choice(("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"))
    if mode == "P" and kind in ("png", "gif") and r.random() < 0.5:
        options["transparency"] = r.choice((0, 5, b"\x00\x80\xff"))
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except Exception:  # a pair that this Pillow does not write
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "png")
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, *, data: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG file of any width, height, bit depth and colour type."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def packed_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(count >> 20)), packer.flush()])


def odd_png(r: Random) -> bytes:
    """A PNG file with a wrong header or with chunks that expand."""
    width, height = (r.choice((1, 16, 16, 1000, 20_000, 2**16, 2**31 - 1, 2**31, 0)) for _ in range(2))
    if r.random() < 0.003:  # so many pixels that every limit matters, from a file of less than a megabyte
        width, height = r.choice(((11_000, 9_500), (16_000, 11_000), (12_000, 12_000)))
        return png(width, height, r.choice((1, 8)), r.choice((0, 2, 3, 4, 6)), data=packed_zeros(1 << 29))
    bomb = packed_zeros(1 << 25)
    made = weighted(
        r, (2, lambda: b""), (1, lambda: chunk(b"iCCP", b"x\0\0" + bomb)), (1, lambda: chunk(b"zTXt", b"a\0\0" + bomb) * 3),
        (1, lambda: chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), (1, lambda: chunk(b"tEXt", b"a\0" + b"b" * 2**21)),
        (1, lambda: chunk(b"eXIf", r.randbytes(60))), (1, lambda: chunk(b"tRNS", r.randbytes(r.choice((1, 6, 300))))),
        (1, lambda: chunk(b"PLTE", r.randbytes(r.choice((0, 1, 3, 1000))))), (1, lambda: chunk(b"fcTL", r.randbytes(26))),
        (1, lambda: chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))),
        (1, lambda: chunk(r.choice((b"gAMA", b"sRGB", b"cHRM", b"pHYs")), r.choice((b"", b"\0")))),
    )  # fmt: skip
    return png(width, height, r.choice((1, 8, 16, 3)), r.choice((0, 2, 3, 4, 6, 7)), data=zlib.compress(bytes(2000)), more=made)


def odd_image(r: Random) -> bytes:
    """The content of a file that looks like an image."""
    whole = picture(r)
    return weighted(
        r, (8, lambda: spoil(whole, r)), (2, lambda: odd_png(r)), (1, lambda: whole),
        (0.3, lambda: r.randbytes(r.choice((0, 3, 500)))),
        (0.5, lambda: spoil(whole, r, 40)), (0.3, lambda: whole[: r.randrange(40)] + picture(r)), (0.2, lambda: eps(r)),
    )  # fmt: skip


def eps(r: Random) -> bytes:
    """PostScript is a program, not a picture."""
    box = r.choice(("0 0 16 16", "0 0 999999 999999", "a b c d", "0 0 -5 -5"))
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: {box}\n%%EndComments\n(/tmp/owned) (w) file closefile\n".encode()


def image_case(r: Random, folder: Path, seeds: Path) -> Case:
    path = folder / r.choice(("a.png", "a.jpg", "a", "a.gif", "ü\u202e.webp"))
    path.write_bytes(odd_image(r))
    if r.random() < 0.01:
        misplace(path, r)
    size = (r.choice((1, 16, 40)), r.choice((1, 16, 40)))

    def act() -> None:
        upright_size(path)
        assert decode_image(path, size).shape == (*size, 3)
        if r.random() < 0.3:
            decode_image(path, size, np.random.default_rng(0))
            decode_image(path, size, region=r.choice(((0, 0, 5, 5), (-9, -9, 1, 1), (0, 0, float("inf"), 1e30))))
            read_image(path, size, channels=1)

    return Case(act, path)


def folder_case(r: Random, folder: Path, seeds: Path) -> Case:
    """A folder of class folders with something wrong in it."""
    root = folder / "photos"
    known = ("cat", "dog", "ü", "train", "val", "a b", "x\ny", "\x1b[2J", "\udcff", "~", "-x", "CON", "z" * 200)
    names = r.sample(known, r.choice((1, 2, 2, 3)))
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(r.choice((0, 3, 5, 5, 6))):
            (root / name / f"{i}.png").write_bytes(picture(r) if r.random() < 0.8 else odd_image(r))
    where = root / r.choice(names)
    match r.randrange(10):
        case 0:
            (where / "loop").symlink_to(root)
        case 1:
            os.mkfifo(where / "pipe.png")
        case 2:
            (where / "link.png").symlink_to(r.choice(("/etc/passwd", "/dev/zero", "nowhere", "link.png", str(where))))
        case 3:
            (root / "self").symlink_to(root)
        case 4:
            (where / "a" / "b" / "c").mkdir(parents=True)
            (where / "a" / "b" / "c" / "deep.png").write_bytes(picture(r))
        case 5:
            (where / "\udcfe\n.png").write_bytes(odd_image(r))
        case 6:
            (root / "file").write_bytes(b"x")
    skip, size = r.random() < 0.5, r.choice((None, 8, 8, (3, 70), 0, -1, 10**6, 2**31))
    return Case(lambda: used(open_data(str(root), skip_bad=skip, image_size=size, workers=0)))


MAKERS: dict[str, Maker] = {"image": image_case, "folder": folder_case}
