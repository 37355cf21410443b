"""Splits, orders and hold-outs as properties, and the one entry point for every data set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aib.data import DATA_NAMES, open_data
from aib.data.bundle import DataBundle, Split, TensorSplit, batch_indices, check_classes, epoch_order, stratified_split

label_lists = st.lists(st.integers(2, 30), min_size=2, max_size=6).flatmap(
    lambda counts: st.permutations([label for label, count in enumerate(counts) for _ in range(count)])
)


@given(label_lists, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_stratified_split_partitions_every_class(labels: list[int], fraction: float, seed: int) -> None:
    every = torch.tensor(labels)
    kept, held = stratified_split(every, fraction, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    for label in set(labels):
        total = labels.count(label)
        count = int((every[held] == label).sum())
        assert 1 <= count <= total - 1
        assert abs(count - fraction * total) <= 1 or count in (1, total - 1)
    again = stratified_split(every, fraction, seed)
    assert torch.equal(kept, again[0])
    assert torch.equal(held, again[1])


def test_stratified_split_depends_on_the_seed() -> None:
    labels = torch.arange(2).repeat(100)
    assert not torch.equal(stratified_split(labels, 0.3, 0)[1], stratified_split(labels, 0.3, 1)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_stratified_split_refuses_a_fraction_outside_0_and_1(fraction: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        stratified_split(torch.tensor([0, 0, 1, 1]), fraction, 0)


@given(st.integers(0, 200), st.integers(0, 2**40), st.integers(0, 300))
def test_epoch_order_is_a_permutation_of_seed_and_epoch_alone(length: int, seed: int, epoch: int) -> None:
    order = epoch_order(length, seed, epoch)
    assert sorted(order.tolist()) == list(range(length))
    torch.manual_seed(epoch)
    assert torch.equal(order, epoch_order(length, seed, epoch))


def test_seeds_that_share_their_low_bits_give_other_orders() -> None:
    seeds = (0, 1, 255, 256, 257, 512, 1 << 24, (1 << 32) - 1)
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in seeds for epoch in (0, 1, 255)}
    assert len(orders) == 3 * len(seeds)


def test_epoch_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(20)}
    assert len(orders) == 200


@given(st.integers(1, 60), st.integers(1, 20))
def test_batches_cover_the_order_once(length: int, size: int) -> None:
    order = epoch_order(length, 0, 0)
    assert torch.equal(torch.cat(batch_indices(order, size)), order)
    dropped = batch_indices(order, size, drop_last=True)
    assert len(dropped) >= 1
    assert len(dropped) == 1 or {len(batch) for batch in dropped} == {size}


def test_tensor_split_yields_the_images_asked_for() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(6, 2, 1, 1)
    split = TensorSplit(images, torch.arange(6))
    assert isinstance(split, Split)
    (batch,) = split.batches([torch.tensor([4, 1])])
    assert batch.images[:, 0].flatten().tolist() == [8, 2]
    assert batch.labels.tolist() == batch.positions.tolist() == [4, 1]


def test_tensor_split_refuses_other_shapes_and_lengths() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\) uint8"):
        TensorSplit(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="2 images but 3 labels"):
        TensorSplit(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.long))


def test_check_classes_names_the_class_that_is_short() -> None:
    names = ("cat", "dog", "owl")
    labels = torch.tensor([0, 0, 1, 1, 0, 2])
    check_classes(labels, names, "train")
    with pytest.raises(ValueError, match=r"class 'owl' has 1 image in the train split; 2 are needed.*--val-fraction 0 "):
        check_classes(labels, names, "train", least=2)
    with pytest.raises(ValueError, match="class 'owl' has no image in the val split"):
        check_classes(labels[:5], names, "val")
    with pytest.raises(ValueError, match="one class, 'cat'"):
        check_classes(labels[:1], names[:1], "train")


def write_npz(path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 4
    np.savez(path, x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    return path


def test_open_data_opens_a_file_and_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    bundle = open_data(str(write_npz(tmp_path / "small.npz")), val_fraction=0.2, seed=3)
    assert isinstance(bundle, DataBundle)
    assert (bundle.name, bundle.num_classes, bundle.channels, bundle.image_size) == ("small", 4, 3, (8, 8))
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (32, 8, 8)
    assert bundle.split("val") is bundle.val
    for i in range(12):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    assert open_data(str(tmp_path / "photos"), image_size=16).image_size == (16, 16)


def test_open_data_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data set and no path 'cifar-10' in .*; did you mean 'cifar10'") as info:
        open_data("cifar-10")
    assert all(name in str(info.value) for name in DATA_NAMES)
    assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="no data set and no path 'photos/birds'"):
        open_data("photos/birds")
    with pytest.raises(ValueError, match=r"there is no file .*gone\.npz"):
        open_data(str(tmp_path / "gone.npz"))
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"photos\.zip is neither a folder"):
        open_data(str(tmp_path / "photos.zip"))
    with pytest.raises(ValueError, match=r"image_size is 224 but .* has 8x8 images"):
        open_data(str(write_npz(tmp_path / "small.npz")), image_size=224)
    with pytest.raises(ValueError, match="split is 'dev'"):
        open_data(str(tmp_path / "small.npz")).split("dev")


def test_asking_for_the_names_does_not_import_torch() -> None:
    code = "import sys, aib.data; aib.data.DATA_NAMES; aib.data.open_data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
