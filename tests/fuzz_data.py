"""Hostile arrays, archives, lists and benchmarks; see `fuzzing`."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from aib.data import open_data
from aib.data.checksums import md5_of, unpack
from fuzz_images import picture, used
from fuzzing import NUMBERS, TEXTS, Case, Maker, misplace, spoil, weighted


class Trap:
    """Something that a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/owned",)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(header: str, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """An array file with a header of one's own, whose length may lie."""
    text = header.encode("utf-8", "surrogatepass") + b"\n"
    size = (len(text) if length is None else length) % (1 << (16 if version == 1 else 32))
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + text + data


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file; names may repeat or be no names at all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name.replace("\ud83d", "?")), content, method)
    return buffer.getvalue()


def zip_flags(data: bytes, r: Random) -> bytes:
    """A zip file that says that it is encrypted, compressed in another way, newer, or of other sizes."""
    at = data.rfind(b"PK\x01\x02")
    field, width = r.choice(((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
    for place in [at] if r.random() < 0.5 else [i for i in range(len(data) - 4) if data[i : i + 4] == b"PK\x01\x02"]:
        value = r.choice((0, 1, 8, 9, 12, 14, 63, 99, 255, 0xFFFF, 0xFFFFFFFF)) % (1 << (8 * width))
        data = data[: place + field] + value.to_bytes(width, "little") + data[place + field + width :]
    return data


@cache
def zeros(megabytes: int) -> bytes:
    """A valid data set of black images that takes ``megabytes`` once unpacked, and a thousandth of that in its file."""
    count = megabytes * 1_000_000 // (64 * 64 * 3)
    pixels = npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 64, 64, 3), }}")
    labels = (np.arange(count) % 2).astype(np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("x_train.npy", "w", force_zip64=True) as member:
            member.write(pixels)
            for _ in range(count):
                member.write(bytes(64 * 64 * 3))
        for name, array in (("y_train", labels), ("x_test", np.zeros((4, 64, 64, 3), np.uint8)), ("y_test", labels[:4])):
            file.writestr(f"{name}.npy", npy(array))
    return buffer.getvalue()


ARRAYS: dict[str, Any] = {
    "x_train": np.arange(24 * 8 * 8 * 3, dtype=np.uint8).reshape(24, 8, 8, 3), "y_train": np.arange(24) % 3,
    "x_test": np.zeros((6, 8, 8, 3), np.uint8), "y_test": np.arange(6) % 3, "masks_train": np.ones((24, 8, 8), bool),
    "class_names": np.array(["a", "b", "c"]),
}  # fmt: skip


def odd_array(r: Random, like: np.ndarray) -> np.ndarray:
    """An array of another type or shape than ``like``."""
    kinds = ("<f4", ">i8", ">u2", "f2", "f8", "g", "c8", "?", "U3", "S3", "M8[s]", "m8[s]", "V4", "i1", "u8", "i4,f4", "O")
    if like.dtype.kind == "U" or r.random() < 0.6:
        kind = r.choice(kinds)
        plain = like.dtype.kind != "U" and kind not in ("V4", "i4,f4", "M8[s]")
        made = like.astype(kind) if plain else np.zeros(like.shape, kind)
    else:
        made = like.copy()
    match r.randrange(6):
        case 0:
            made = made.reshape(r.choice(((-1,), (1, -1), (-1, 1), (*like.shape, 1))))
        case 1:
            made = made[:0] if r.random() < 0.5 else made[:1]
        case 2:
            made = made.reshape(-1)[:1].reshape(())
        case 3 if made.dtype.kind == "f":
            made.flat[r.randrange(made.size)] = r.choice((np.nan, np.inf, -np.inf, 300.0, -5.0))
        case 4 if made.dtype.kind in "iu":
            made.flat[r.randrange(made.size)] = r.choice((0, -1, 100, 2**62)) % (2 ** (8 * made.itemsize - 1))
        case 5:
            made = np.asfortranarray(np.repeat(made, 2, 0)) if made.ndim else made
    return made


def odd_header(r: Random) -> bytes:
    """An array file with a lying or malformed header."""
    shape = r.choice((
        "(24, 8, 8, 3)", "(10000000, 64, 64, 3)", "(-1,)", f"({10**30},)", "(2.5,)", "('a',)", "(True, False)", "()", "24", "[24]",
        f"({2**62}, 8)", f"({2**63}, 1)", f"({2**32}, {2**32})", "((((24,),),),)", "(None,)", f"({'1,' * 70})", f"(0, {10**18})",
    ))  # fmt: skip
    descr = r.choice((
        "'|u1'", "'|O'", "'<f8'", "'<U1000000000'", "'|V2147483647'", "[('a', '<i4')]", "[('a', '|O')]", "'zzz'", "3", "None", "''",
        "[]", "[('', '<i4'), ('', '<i4')]", "('|u1', (1000000000,))", "[('a', '<i4', (2, 2))]", "'<M8[fs]'", "{'names': ['a']}",
    ))  # fmt: skip
    header = f"{{'descr': {descr}, 'fortran_order': {r.choice(('False', 'True', '1', 'None'))}, 'shape': {shape}, }}"
    header = r.choice((
        header, header, header, header[: r.randrange(len(header))], "{" * r.choice((5, 90, 3000)), "(" * 500, "[" * 9000, "",
        "{}", "1",
        header + " " * r.choice((1, 100_000)), f"{{'x': {header}}}", "__import__('os').system('touch /tmp/owned')", "{**a}",
        "{1j: 2}",
        "{'descr': '|u1', 'shape': (24,)}", "\u2028ü\ud83d", "-" * 4000 + "1", "{'a': b'\\xff'}", "1" * 6000, "'" * 3, "{'a':\\\n",
    ))  # fmt: skip
    return npy_header(header, bytes(r.choice((0, 24 * 8 * 8 * 3))), r.choice((1, 1, 2, 3, 9)), r.choice((None, None, 0, 5, 2**31)))


def npz_case(r: Random, folder: Path, seeds: Path) -> Case:
    members = {f"{name}.npy": npy(array) for name, array in ARRAYS.items() if name.startswith(("x", "y")) or r.random() < 0.5}
    method = r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    victim = r.choice(list(members))
    listed = list(members.items())

    def replaced(content: bytes) -> bytes:
        return zipped([(name, content if name == victim else old) for name, old in listed], method)

    def renamed() -> bytes:
        new = r.choice(("../x_train.npy", "/tmp/x.npy", "x_train", "x_train.npy/", "a/b.npy", "masks_val.npy", *TEXTS))
        return zipped(listed + [(r.choice((new, victim)), members[victim])] * r.choice((1, 3)), method)

    content = weighted(
        r, (4, lambda: spoil(zipped(listed, method), r)), (3, lambda: replaced(odd_header(r))),
        (4, lambda: replaced(npy(odd_array(r, ARRAYS[victim[:-4]])))), (2, lambda: replaced(spoil(members[victim], r))),
        (1, renamed), (2, lambda: zip_flags(zipped(listed, r.choice((method, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))), r)),
        (1, lambda: zipped([(name, data) for name, data in listed if r.random() < 0.8], method)),
        (0.5, lambda: replaced(npy(np.array([Trap()] * 24, object)))), (0.5, lambda: pickle.dumps(Trap())),
        (0.1, lambda: zipped([(f"k{i}.npy", b"") for i in range(20_000)])), (0.02, lambda: zeros(r.choice((100, 600)))),
    )  # fmt: skip
    path = folder / "set.npz"
    path.write_bytes(content)
    if r.random() < 0.01:
        misplace(path, r)
    val_fraction = r.choice((0.1, 0.5, None))
    return Case(lambda: used(open_data(str(path), val_fraction=val_fraction)), path)


def archive_case(r: Random, folder: Path, seeds: Path) -> Case:
    """An archive whose checksum is right and whose members are not."""
    path, buffer = folder / "set.tar.gz", io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=r.choice(("w", "w:gz", "w:bz2", "w:xz"))) as file:
        for name in ["wanted/a.txt"] * (r.random() < 0.8) + [odd_name(r) for _ in range(r.randrange(1, 4))]:
            info = tarfile.TarInfo(name)
            info.type = r.choice(
                (*(tarfile.REGTYPE,) * 3, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
            )
            info.linkname = r.choice(("/etc/passwd", "../../out", "..", "wanted/a.txt", "nowhere"))
            info.mode, info.uid = r.choice((0o644, 0o7777, 0)), r.choice((0, 12345))
            content = r.randbytes(r.choice((0, 10, 600)))
            info.size = len(content) if info.isreg() else 0
            file.addfile(info, io.BytesIO(content) if info.isreg() else None)
    path.write_bytes(spoil(buffer.getvalue(), r) if r.random() < 0.4 else buffer.getvalue())

    def act() -> None:
        target = unpack(path, md5_of(path), "wanted")
        assert target == folder / "wanted"
        assert all(p.is_dir() or p.is_file() for p in target.rglob("*"))
        assert not any(p.is_symlink() for p in [target, *target.rglob("*")])

    return Case(act)


def odd_name(r: Random) -> str:
    paths = ("wanted/b.txt", "wanted/../../out.txt", "../out.txt", "/tmp/owned", "wanted/link/x", "wanted/link", "wanted")
    return r.choice((*paths, *TEXTS[:12]))


def lists_case(r: Random, folder: Path, seeds: Path) -> Case:
    """CUB's lists with something wrong in one of them."""
    root = folder / "CUB_200_2011"
    numbers = range(1, 9)
    names = {i: f"{'ab'[i % 2]}/{i}.png" for i in numbers}
    lists = {
        "classes": "1 a\n2 b\n", "images": "".join(f"{i} {name}\n" for i, name in names.items()),
        "image_class_labels": "".join(f"{i} {2 - i % 2}\n" for i in numbers),
        "train_test_split": "".join(f"{i} {int(i < 7)}\n" for i in numbers),
        "bounding_boxes": "".join(f"{i} 1 2.0 9 8\n" for i in numbers),
    }  # fmt: skip
    for name in names.values():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(picture(r) if r.random() < 0.02 else (seeds / "picture.png").read_bytes())
    victim = r.choice(list(lists))
    lines = lists[victim].splitlines()
    at = r.randrange(len(lines))
    first = lines[at].split()[0]
    values = (
        "../../../../etc/passwd", "/etc/passwd", "1 2 3 4", "1e308 1 1e308 1", "nan", "-5 -5 1 1", "1" * 5000, *TEXTS,
        *map(str, NUMBERS),
    )  # fmt: skip
    value, second = r.choice(values), lines[at].split()[1]
    line = r.choice((f"{first} {value}", f"{value} {second}", value, "\x0b".join(lines)))
    text = "\n".join([*lines[:at], line, *lines[at + 1 :]]).encode("utf-8", "surrogatepass")
    lists[victim] = ""
    for name, content in lists.items():
        (root / f"{name}.txt").write_text(content, encoding="utf-8")
    (root / f"{victim}.txt").write_bytes(spoil(text, r, 2) if r.random() < 0.3 else text)
    if r.random() < 0.03:
        misplace(root / f"{victim}.txt", r)
    boxes = r.choice(("keep", "crop", None))

    def act() -> None:
        bundle = open_data("cub200", root=folder, image_size=8, boxes=boxes, workers=0, val_fraction=r.choice((0.2, None)))
        used(bundle)
        assert bundle.test.masks is None or bundle.test.masks.shape[2:] == (8, 8)
        for split in (bundle.train, bundle.val, bundle.test):
            inside = [(root / "images" / name).resolve().is_relative_to(root.resolve()) for name in split.names or ()]
            assert all(inside), "an image outside the folder was read"

    return Case(act)


def benchmark_case(r: Random, folder: Path, seeds: Path) -> Case:
    """What is laid out as a benchmark and is none: nothing of it may be unpickled."""
    name = r.choice(("cifar10", "cifar100", "svhn", "stl10"))
    plain = {"data": np.zeros((5, 3072), np.uint8), "labels": [0] * 5}
    content = r.choice((pickle.dumps(Trap()), pickle.dumps(plain), b"", r.randbytes(999)))
    files = {
        "cifar10": [f"cifar-10-batches-py/{f}" for f in ("data_batch_1", "data_batch_2", "test_batch", "batches.meta")],
        "cifar100": [f"cifar-100-python/{f}" for f in ("train", "test", "meta")], "svhn": ["train_32x32.mat", "test_32x32.mat"],
        "stl10": [f"stl10_binary/{f}.bin" for f in ("train_X", "train_y", "test_X", "test_y")],
    }[name]  # fmt: skip
    archive = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz", "stl10": "stl10_binary.tar.gz"}
    match r.randrange(4):
        case 0 if name in archive:
            (folder / archive[name]).write_bytes(content)
        case 1:
            side = {"stl10": 96}.get(name, 32)
            labels = np.arange(30) % r.choice((10, 10, 100, 3))
            array = npy(np.zeros((30, side, side, 3), np.uint8))
            arrays = {"x_train": array, "y_train": npy(labels), "x_test": array, "y_test": npy(labels)}
            whole = zipped([(f"{name}.npy", content) for name, content in arrays.items()])
            (folder / f"{name}.npz").write_bytes(spoil(whole, r) if r.random() < 0.5 else whole)
        case _:
            for file in files:
                (folder / file).parent.mkdir(exist_ok=True)
                if r.random() < 0.9:
                    (folder / file).write_bytes(spoil(content, r) if r.random() < 0.3 else content)
    return Case(lambda: used(open_data(name, root=folder, image_size=r.choice((None, None, 32)))))


MAKERS: dict[str, Maker] = {"npz": npz_case, "archive": archive_case, "lists": lists_case, "benchmark": benchmark_case}
