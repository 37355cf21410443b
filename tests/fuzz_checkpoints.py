"""Hostile checkpoints and weights, of this package, of the published code and of timm; see `fuzzing`."""

from __future__ import annotations

import argparse
import collections
import io
import json
import math
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aib.backbones import create_backbone
from aib.data.augment import normalize
from aib.loss import LOSS_PARTS
from aib.train import loop
from aib.train.checkpoint import load_checkpoint
from aib.train.config import TrainConfig
from aib.train.convert import convert_checkpoint, read_published
from aib.train.loop import train
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
from fuzz_data import Trap, zip_flags, zipped
from fuzzing import NUMBERS, TEXTS, Case, Maker, misplace, nested, spoil, spoil_json, strange, weighted, write_json

WEIGHT_READERS: list[Callable[[Path], object]] = [
    load_checkpoint, read_published, lambda path: create_backbone("test_resnet", pretrained=path),
]  # fmt: skip
"""Every reader of files of torch.save."""


def copied(seeds: Path, name: str, folder: Path) -> RunFolder:
    """A run of the seeds, to be spoilt: without the checkpoint before the last, which would step in its place."""
    return RunFolder(Path(shutil.copytree(seeds / name, folder / "run", ignore=shutil.ignore_patterns("previous.ckpt"))))


def members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def odd_value(r: Random) -> Any:
    """What a checkpoint may hold and should not."""
    return weighted(
        r, (3, lambda: strange(r)), (1, lambda: torch.zeros(r.choice((0, 1, 5)))),
        (1, lambda: torch.zeros(1).expand(10**r.choice((3, 9, 12)))),
        (0.5, lambda: torch.full((2,), torch.nan)), (0.5, lambda: torch.eye(3).to_sparse()),
        (0.5, lambda: torch.zeros(10**12, device="meta")),
        (0.5,
            lambda: torch.zeros(2, dtype=r.choice((torch.complex64, torch.bool, torch.float8_e4m3fn, torch.bfloat16, torch.int8)))),
        (0.3, lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)),
        (0.5, lambda: argparse.Namespace(dataset=strange(r))),
        (0.3, lambda: torch.nn.Parameter(torch.zeros(2))), (0.5, lambda: collections.OrderedDict(a=1)),
        (0.3, lambda: {1: 2, (3,): 4}),
        (0.3, lambda: nested(100)), (0.3, lambda: {"a", "b"}), (0.3, lambda: b"bytes"), (0.3, lambda: np.float64(3)),
    )  # fmt: skip


def odd_tensor(value: Tensor, r: Random) -> Tensor:
    """What could be taken for ``value``: of its shape, its numbers or its type."""
    return weighted(
        r, (1, lambda: value.to(r.choice((torch.float64, torch.float16, torch.complex64, torch.int64, torch.bool)))),
        (1, lambda: torch.full_like(value, r.choice((-1, 0, 1, 3)))), (1, lambda: value * torch.nan),
        (1, lambda: value.reshape(-1)[:1].expand(value.shape) if value.ndim else value[None].expand(4)),
        (1, lambda: value.reshape(-1)), (1, lambda: value[None]), (1, lambda: value.mT if value.ndim > 1 else value * 1e30),
        (1, lambda: value.reshape(-1)[: value.numel() // 2]),
    )  # fmt: skip


def spoil_state(value: Any, r: Random) -> Any:
    """A copy of a checkpoint's content with one thing in it replaced or removed."""
    # one that was spoilt before may be otherwise: of a layout or a type that torch cannot multiply
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized and value.numel() < 10**7
    plain = plain and value.dtype != torch.float8_e4m3fn
    if plain and r.random() < 0.7:
        return odd_tensor(value, r)
    if not isinstance(value, dict | list) or not value or r.random() < 0.1:
        return odd_value(r)
    at = r.choice(list(value) if isinstance(value, dict) else range(len(value)))
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    if r.random() < 0.15:
        del changed[at]
    elif r.random() < 0.1 and isinstance(changed, dict):
        changed[r.choice(TEXTS)] = odd_value(r)
    else:
        changed[at] = spoil_state(value[at], r)
    return changed


def saved(value: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    except RecursionError:  # more deeply nested than torch can write
        return saved({"nested": 1}, zipped)
    return buffer.getvalue()


GLOBALS = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"ctorch\nload\n", b"ccollections\nOrderedDict\n",
    b"cargparse\nNamespace\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\nscalar\n",
    b"ctorch\nSize\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch\ndevice\n",
    b"ctorch.serialization\n_get_layout\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cposix\nsystem\n", b"csubprocess\nPopen\n", b"c__builtin__\ngetattr\n",
    b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n",
)  # fmt: skip


def odd_pickle(r: Random) -> bytes:
    """A pickle of random operations."""
    parts = [b"\x80\x02"] if r.random() < 0.9 else [r.randbytes(2)]
    for _ in range(r.randrange(1, 25)):
        part = r.choice((
            r.choice(GLOBALS), r.choice(GLOBALS), b"(", b")", b"]", b"}", b"N", b"K\x05", b"J\xff\xff\xff\x7f", b"U\x02ab",
            b"X\x02\0\0\0ab", b"R", b"b",
            b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"e", b"a", b"s", b"u", b"0", b"2", b"q\x00", b"h\x00",
            b"r\xff\xff\xff\x7f", b"Q",
            b"\x81", b"\x88", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\xffa", b"B\xff\xff\xff\x7f",
            b"\x95\xff\xff\xff\xff\0\0\0\0", b"o", b"I99\n",
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x05tQ", b"(U\x0btouch owned", b"\x82\x01",
            b"P0\n", b"i", b"c",
        ))  # fmt: skip
        parts.append(part)
    return b"".join(parts) + (b"." if r.random() < 0.9 else b"")


def odd_archive(r: Random, whole: bytes) -> bytes:
    """A checkpoint of torch with something wrong in its zip file or its pickle."""

    def changed() -> bytes:
        inside = members(whole)
        at = (
            next(i for i, (name, _) in enumerate(inside) if name.endswith("data.pkl"))
            if r.random() < 0.7
            else r.randrange(len(inside))
        )
        name, data = inside[at]
        new = odd_pickle(r) if name.endswith("pkl") and r.random() < 0.5 else spoil(data, r)
        inside[at] = (name if r.random() < 0.9 else r.choice(TEXTS[1:]), new)
        return zipped(inside * r.choice((1, 1, 1, 2)), r.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))

    def bomb() -> bytes:
        size = r.choice((10**6, 10**6, 10**6, 5 * 10**8))
        return zipped([(name, bytes(size) if name.endswith("/0") else data) for name, data in members(whole)], zipfile.ZIP_DEFLATED)

    return weighted(
        r, (4, lambda: spoil(whole, r)), (4, changed), (1, lambda: zip_flags(whole, r)), (0.1, bomb),
        (0.5, lambda: pickle.dumps(Trap())),
        (0.5, lambda: saved(Trap())), (0.3, lambda: saved({"format": 1, "model": Trap()})), (0.3, lambda: saved(strange(r))),
    )  # fmt: skip


def checkpoint_case(r: Random, folder: Path, seeds: Path) -> Case:
    run = copied(seeds, r.choice(("begun", "halfway", "halfway-adam")), folder)
    whole = run.last.read_bytes()
    if r.random() < 0.5:
        run.last.write_bytes(saved(spoil_state(torch.load(run.last, weights_only=True), r)))
    else:
        run.last.write_bytes(odd_archive(r, whole))

    def act() -> None:
        before = torch.load(io.BytesIO(whole), weights_only=True)["model"]
        if r.random() < 0.3:
            load_checkpoint(run.last)
            assert load_run(run.path, weights="last").model.state_dict().keys() == before.keys()
        else:
            assert resume(run).keys() == before.keys()

    return Case(act, run.path)


def resume(run: RunFolder) -> Mapping[str, Tensor]:
    """Go on with a run to its end, an epoch at most; the weights that it goes on from. What it logs must be possible."""
    found: dict[str, Tensor] = {}

    def keep(self: Any) -> RunFolder:
        found.update(self.model.state_dict())
        return original(self)

    original, loop._Fit.run = loop._Fit.run, keep  # type: ignore[method-assign]
    try:
        train(TrainConfig(), resume=run.path)
    finally:
        loop._Fit.run = original  # type: ignore[method-assign]
    logged = run.log()[-1]["train"]
    assert 0 <= logged["error"] <= 1
    assert math.isclose(logged["loss"], sum(logged.get(part, 0.0) for part in LOSS_PARTS), rel_tol=1e-3, abs_tol=1e-3), logged
    return found


PUBLISHED: dict[str, Any] = {
    "state_dict": {"module.conv1.weight": torch.zeros(4), "block1.layer.0.bn1.weight": torch.zeros(2)}, "epoch": 3,
    "args": argparse.Namespace(dataset="CIFAR10", lr=np.float64(0.1)),
}  # fmt: skip


def published_case(r: Random, folder: Path, seeds: Path) -> Case:
    path = folder / "best.tar"
    legacy = r.random() < 0.3
    content: dict[str, Any] = dict(PUBLISHED)
    if r.random() < 0.3:
        content = {"model_states": {"net": {"features.0.op.0.weight": torch.zeros(64, 3, 3, 3), "emb.weight": odd_value(r)}}}
    content = spoil_state(content, r) if r.random() < 0.6 else content
    try:
        whole = saved(content, not legacy)
    except Exception:  # what torch cannot write
        whole = saved(PUBLISHED)
    if r.random() < 0.5:
        whole = spoil(whole, r) if legacy or not whole.startswith(b"PK") else odd_archive(r, whole)
    path.write_bytes(whole)

    def act() -> None:
        if r.random() < 0.5:
            read_published(path)
        else:
            convert_checkpoint(path, folder / "out", root=str(folder))

    return Case(act, path)


def odd_safetensors(r: Random, whole: bytes) -> bytes:
    size = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    name = r.choice([key for key in header if key != "__metadata__"])

    def written(value: Any, length: int | None = None) -> bytes:
        text = (value if isinstance(value, str) else write_json(value)).encode("utf-8", "surrogatepass")
        return (len(text) if length is None else length % 2**64).to_bytes(8, "little") + text + data

    entry = header[name]
    offsets = r.choice(([0, 10**12], [5, 1], [-1, 4], [0, 0], [0], "0", None, [0, len(data)], [len(data), len(data) + 4]))
    return weighted(
        r, (3, lambda: spoil(whole, r)), (3, lambda: written(spoil_json(header, r))),
        (1, lambda: written(header, r.choice(NUMBERS))),
        (1, lambda: written({**header, name: {**entry, "data_offsets": offsets}})), (1, lambda: written({**header, "x": entry})),
        (1, lambda: written({**header, name: {**entry, "dtype": r.choice(("F64", "I8", "BF16", "F8_E4M3", "U64", "O", "BOOL"))}})),
        (1, lambda: written({**header, name: {**entry, "shape": r.choice(([], [0], [10**12], [-1], [2**63, 2], ["a"], None))}})),
        (0.5, lambda: written("[" * 10_000)), (0.3, lambda: written('{"a":' * 5000 + "1" + "}" * 5000)),
        (0.3, lambda: written("{}")),
        (0.5, lambda: whole[: 8 + size] + np.full(len(data) // 4, r.choice((np.nan, np.inf, 1e30)), np.float32).tobytes()),
    )  # fmt: skip


def looked_at(run: RunFolder) -> None:
    """What evaluation does first with a run."""
    loaded = load_run(run.path)
    if loaded.image_size != (16, 16):  # images of another size than the network takes are told when they are met
        return
    images = torch.zeros(1, loaded.card["channels"], 16, 16, dtype=torch.uint8)
    with torch.no_grad():
        details = loaded.model.forward_details(normalize(images, loaded.mean, loaded.std))
    probabilities = details.logits.softmax(1)[0]
    if not probabilities.isfinite().all():  # of weights too large to be multiplied: eval and explain tell it
        return
    assert isinstance(loaded.class_names[int(probabilities.argmax())], str)
    assert len(loaded.class_names) == len(probabilities)


def safetensors_case(r: Random, folder: Path, seeds: Path) -> Case:
    run = copied(seeds, "run", folder)
    run.weights.write_bytes(odd_safetensors(r, run.weights.read_bytes()))
    return Case(lambda: looked_at(run), run.path)


def pretrained_case(r: Random, folder: Path, seeds: Path) -> Case:
    """A file of weights for a network of timm."""
    path = folder / r.choice(("weights.safetensors", "weights.pth", "weights.pt", "weights.bin"))
    whole = (seeds / f"pretrained{'.safetensors' if path.suffix == '.safetensors' else '.pth'}").read_bytes()
    if path.suffix == ".safetensors":
        path.write_bytes(odd_safetensors(r, whole))
    elif r.random() < 0.3:
        path.write_bytes(saved(spoil_state(torch.load(io.BytesIO(whole), weights_only=True), r)))
    else:
        path.write_bytes(odd_archive(r, whole))
    if r.random() < 0.01:
        misplace(path, r)
    return Case(lambda: create_backbone(PRETRAINED, pretrained=path), path)


PRETRAINED = "test_resnet"
"""A network of timm, small enough to be built thousands of times."""

MAKERS: dict[str, Maker] = {
    "checkpoint": checkpoint_case, "published": published_case, "safetensors": safetensors_case, "pretrained": pretrained_case,
}  # fmt: skip
