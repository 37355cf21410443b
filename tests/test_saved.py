"""Files of torch.save: what a few bytes of a pickle would make large is refused, what people save beside weights is not."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fuzz_data
from aib.saved import check_saved
from aib.train.checkpoint import FORMAT
from fuzz_checkpoints import WEIGHT_READERS


class Payload:
    """What a pickle runs when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("read", WEIGHT_READERS)
def test_no_payload_runs(read: Callable[[Path], object], zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"format": FORMAT, "model": {}, "state_dict": {"a": torch.zeros(1)}, "x": Payload(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("read", WEIGHT_READERS)
def test_sparse_weights_are_refused_and_spoil_no_later_file(read: Callable[[Path], object], zipped: bool, tmp_path: Path) -> None:
    path, good = tmp_path / "weights.pth", tmp_path / "good.pth"
    torch.save({"a": torch.zeros(1)}, good)
    lying = torch.sparse_coo_tensor(torch.tensor([[7]]), torch.ones(1), (3,), check_invariants=False)
    content = {"format": FORMAT, "model": {"a": lying}, "state_dict": {"a": lying}, "x": Payload(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert torch.load(good, weights_only=True).keys() == {"a"}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


ENCODE = b"c_codecs\nencode\n"

AMPLIFYING = {
    "bytearray": b"cbuiltins\nbytearray\n\x8a\x05" + (2_600_000_000).to_bytes(5, "little") + b"\x85R",
    "old bytearray": b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    "hex": ENCODE * 30 + text("aaaa") + text("latin1") + b"\x86R" + (text("hex_codec") + b"\x86R") * 29,
    "remembered": b"(" + text("hex_codec") + b"q\x01" + ENCODE + b"q\x00" + text("aaaa") + text("latin1") + b"\x86Rq\x02"
    + b"h\x00h\x02h\x01\x86Rq\x02" * 29 + b"t",
    "aside": ENCODE + b"q\x000" + b"h\x00(" + text("aaaa") + text("utf-7") + b"tR",
    "texts in the place of operations": ENCODE + b"".join(map(text, ("a", "latin1", "TUPLE2", "REDUCE"))) + text("hex") + b"\x86R",
    "again and again": b"(" + text("a" * 5000) + b"q\x00" + (ENCODE + b"h\x00" + text("latin1") + b"\x86R") * 100 + b"t",
    **{
        name: b"(](" + b"K\x01" * 5000 + b"e" + b"q\x00" + piece * 100 + b"t"
        for name, piece in {
            "set": b"c__builtin__\nset\nh\x00\x85R",
            "counter": b"ccollections\nCounter\nh\x00\x85R",
            "size": b"ctorch\nSize\nh\x00\x85R",
            "size, new": b"ctorch\nSize\nh\x00\x85\x81",
            "tensor": b"ctorch\nTensor\nh\x00\x85R",
            "tensor of lists": b"ctorch\nTensor\n](h\x00h\x00e\x85R",
            "remembered arguments": b"ctorch\nSize\nh\x00\x85q\x010ctorch\nSize\nh\x01R",
            "arguments in a list": b"ctorch\nSize\n]h\x00aR",
            "through another": b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nctorch\nSize\nh\x00\x85}tR",
            "attributes": b"ccollections\nOrderedDict\n)Rh\x00b",
            "device": b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n(h\x00Ntq\x02R",
        }.items()
    },
    "copies of copies": b"(](" + b"K\x01" * 5000 + b"e" + b"q\x000" + b"ctorch\nSize\n" * 30 + b"(" + b"K\x01" * 5000 + b"t\x85"
    + b"R\x85" * 29 + b"Rt",
}  # fmt: skip
"""Pickles of what torch takes for safe that are made larger, and larger, by a few bytes each."""


@pytest.mark.parametrize("kind", AMPLIFYING)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_expand_are_refused(zipped: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hostile = tmp_path / "weights.pth", b"\x80\x02" + AMPLIFYING[kind] + b"."
    if zipped:
        path.write_bytes(fuzz_data.zipped([("a/data.pkl", hostile), ("a/version", b"3\n"), ("a/byteorder", b"little")],
                                          zipfile.ZIP_STORED))  # fmt: skip
    else:
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(head + hostile + pickle.dumps([], 2))
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("it is unpickled"))
    with pytest.raises(ValueError, match=r"bytearray, of|as no weights are|same text again|has no name"):
        check_saved(path)
    for read in WEIGHT_READERS:
        with pytest.raises(ValueError, match=r"weights\.pth"):
            read(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_people_save_beside_weights_is_still_read(zipped: bool, tmp_path: Path) -> None:
    path, numbers = tmp_path / "päth.pth", [np.float64(value) for value in (1, 2, 2.5)]
    twice, layers = torch.randn(3), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(layers.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    layers(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    content = {
        "bytes": bytes(range(256)) * 9, "latin1": "latin1", "numbers": numbers, "again": numbers[0], "none": b"",
        "tensors": [twice, twice, twice.view(3, 1), twice.shape, nn.Parameter(twice)], "network": layers.state_dict(),
        "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "set": {1, "latin1"}, "device": twice.device,
        "settings": argparse.Namespace(lr=0.1, steps=[1, 2], nested={"a": (1, 2)}), "kind": torch.float16, "complex": 1j,
    }  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    check_saved(path)


def test_an_archive_behind_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    check_saved(path)
    path.write_bytes(b"PK\x03\x04 something else" + path.read_bytes())
    with pytest.raises(ValueError, match="before its first member"):
        check_saved(path)
