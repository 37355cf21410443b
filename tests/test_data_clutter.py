"""The embedded data: exact masks, classes that only the handwriting tells, splits that share nothing, a cache that cannot lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from aib.data import clutter
from aib.data.bundle import DataBundle
from aib.data.clutter import PHOTOGRAPHS, SHARE, make_clutter, open_clutter
from aib.data.open import open_data

COUNTS = {"num_train": 600, "num_val": 60, "num_test": 200}


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_clutter(**COUNTS)


def arrays(bundle: DataBundle) -> list[Tensor]:
    found = []
    for split in (bundle.train, bundle.val, bundle.test):
        assert split.masks is not None
        found += [split.images, split.labels, split.masks]  # type: ignore[attr-defined]
    return found


def upright(masks: Tensor) -> np.ndarray:
    """(n, 64): the masks cut out along their bounding boxes and brought to 8x8."""
    cut = []
    for mask in masks[:, 0].float():
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cut.append(torch.nn.functional.adaptive_avg_pool2d(box[None], 8).flatten())
    return torch.stack(cut).numpy()


def test_every_class_is_as_frequent_and_every_image_has_its_digit(bundle: DataBundle) -> None:
    for split, count in zip((bundle.train, bundle.val, bundle.test), COUNTS.values(), strict=True):
        assert torch.bincount(split.labels, minlength=10).tolist() == [count // 10] * 10
        assert split.masks is not None
        share = split.masks.float().mean((1, 2, 3))
        assert split.masks.shape == (count, 1, 32, 32)
        assert share.min() > 0.02
        assert share.max() < 0.35


def test_the_masks_are_of_the_digits_and_the_rest_tells_nothing(bundle: DataBundle) -> None:
    assert bundle.train.masks is not None
    assert bundle.test.masks is not None
    train, test = bundle.train.labels.numpy(), bundle.test.labels.numpy()
    shapes = LogisticRegression(max_iter=500).fit(upright(bundle.train.masks), train)
    assert shapes.score(upright(bundle.test.masks), test) > 0.75  # of 10 classes, from 600 masks alone

    def surroundings(images: Tensor, masks: Tensor) -> np.ndarray:
        blanked = images.float() * ~torch.nn.functional.max_pool2d(masks.float(), 15, 1, 7).bool()
        return (torch.nn.functional.avg_pool2d(blanked, 4).flatten(1) / 255).numpy()

    around = LogisticRegression(max_iter=500).fit(surroundings(bundle.train.images, bundle.train.masks), train)  # type: ignore[attr-defined]
    assert around.score(surroundings(bundle.test.images, bundle.test.masks), test) < 0.25  # type: ignore[attr-defined]


def test_the_ink_differs_in_brightness_from_what_is_around_it(bundle: DataBundle) -> None:
    images, masks = bundle.test.images.float() / 255, bundle.test.masks  # type: ignore[attr-defined]
    near = (
        torch.nn.functional.max_pool2d(masks.float(), 5, 1, 2).bool()
        & ~torch.nn.functional.max_pool2d(masks.float(), 3, 1, 1).bool()
    )
    grey = images.mean(1, keepdim=True)
    ink, beside = (grey * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3)), (grey * near).sum((1, 2, 3)) / near.sum((1, 2, 3))
    assert (ink - beside).abs().median() > 0.25


def test_the_splits_share_neither_handwriting_nor_photographs() -> None:
    labels = torch.from_numpy(load_digits(return_X_y=True)[1])
    mine = [set(clutter._scan_positions(labels, name).tolist()) for name in SHARE]
    assert not mine[0] & mine[1] | mine[0] & mine[2] | mine[1] & mine[2]
    assert len(mine[0] | mine[1] | mine[2]) == len(labels)
    pictures = [name for names in PHOTOGRAPHS.values() for name in names]
    assert len(pictures) == len(set(pictures))


def test_images_are_a_function_of_the_seed(bundle: DataBundle) -> None:
    state = torch.get_rng_state()
    again, other = make_clutter(**COUNTS), make_clutter(seed=1, **COUNTS)
    assert all(torch.equal(one, two) for one, two in zip(arrays(bundle), arrays(again), strict=True))
    assert not torch.equal(bundle.test.images, other.test.images)  # type: ignore[attr-defined]
    assert torch.equal(state, torch.get_rng_state())


def test_too_few_images_for_ten_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="clutter's val split has 9 images; it needs at least 10"):
        make_clutter(num_val=9)


def composed(monkeypatch: pytest.MonkeyPatch, bundle: DataBundle) -> list[int]:
    """Have `open_clutter` compose ``bundle``, and count how often it does."""
    times: list[int] = []

    def make() -> DataBundle:
        times.append(1)
        return bundle

    monkeypatch.setattr(clutter, "make_clutter", make)
    return times


def test_a_second_opening_reads_what_the_first_composed(
    bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = composed(monkeypatch, bundle)
    (tmp_path / "clutter-0123456789abcdef.npz").write_bytes(b"of another version")
    first, second = open_clutter(tmp_path), open_clutter(tmp_path)
    assert len(times) == 1
    assert all(torch.equal(one, two) and one.dtype == two.dtype for one, two in zip(arrays(first), arrays(second), strict=True))
    assert (first.mean, first.std, first.class_names) == (second.mean, second.std, second.class_names)
    (kept,) = tmp_path.iterdir()  # neither the other version nor a temporary file
    assert kept.suffix == ".npz"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "nonsense", "folder"])
def test_a_damaged_file_is_made_anew(damage: str, bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = composed(monkeypatch, bundle)
    open_clutter(tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.unlink()
    if damage == "folder":
        kept.mkdir()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        kept.write_bytes({"cut": whole[:-1000], "flipped": flipped, "empty": b"", "nonsense": b"PK nonsense"}[damage])
    again = open_clutter(tmp_path)
    assert len(times) == 2
    assert all(torch.equal(one, two) for one, two in zip(arrays(bundle), arrays(again), strict=True))
    if damage != "folder":
        assert kept.read_bytes() == whole


def test_without_a_place_to_keep_it_clutter_is_composed(
    bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = composed(monkeypatch, bundle)
    (tmp_path / "file").touch()
    assert open_clutter(tmp_path / "file" / "cache") is open_clutter(tmp_path / "file" / "cache") is bundle
    assert len(times) == 2


def test_the_cache_of_the_user_is_where_the_name_opens(bundle: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *names, **_: tmp_path.joinpath(*names))
    composed(monkeypatch, bundle)
    assert torch.equal(open_data("clutter").test.images, bundle.test.images)  # type: ignore[attr-defined]
    assert [path.suffix for path in (tmp_path / "aib").iterdir()] == [".npz"]
