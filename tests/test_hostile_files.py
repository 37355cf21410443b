"""The famous files: what expands, what leads elsewhere, what would run, what lies and what is no file, each refused in one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

import fuzz_data
import fuzz_images
import fuzz_runs
import fuzzing
from aib.backbones import create_backbone
from aib.cli import main
from aib.data import images, open_data
from aib.data.checksums import md5_of, unpack
from aib.data.images import decode_image, read_image
from aib.data.texts import read_text
from aib.models.build import build_model
from aib.paper.tables import read_runs
from aib.report import build_report
from aib.train.checkpoint import FORMAT, load_checkpoint
from aib.train.config import read_config
from aib.train.convert import read_published
from aib.train.origin import locate_data
from aib.train.results_table import update_table
from aib.train.run_folder import RunFolder
from aib.train.score_record import SCORE_COLUMNS
from aib.train.weights import load_run, selected_epoch
from fuzz_checkpoints import WEIGHT_READERS, copied
from fuzz_data import ARRAYS, npy, npy_header, zeros, zipped
from fuzz_images import packed_zeros, png
from fuzzing import judged

SMALL = 300
"""Megabytes that a refusal may take."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz_runs.make_seeds(tmp_path_factory.mktemp("seeds"))


# --- images and arrays that expand


def gif(width: int, height: int) -> bytes:
    image = struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + image + b";"


EXPANDING: dict[str, tuple[bytes, str]] = {
    "huge.png": (png(2**31 - 1, 2**31 - 1, 8, 2, data=packed_zeros(1 << 20)), "more pixels than Pillow's limit"),
    "large.png": (png(16_000, 11_000, 8, 6, data=packed_zeros(1 << 20)), "16000x11000 pixels; at most 110,000,000"),
    "huge.gif": (gif(65_535, 65_535), "more pixels than Pillow's limit"),
    "large.gif": (gif(16_000, 11_000), "at most 110,000,000"),
    "text.png": (png(16, 16, 8, 2, more=fuzz_images.chunk(b"zTXt", b"a\0\0" + packed_zeros(1 << 27))), "too large"),
    "program.eps": (fuzz_images.eps(Random(0)), "EPS, which is not decoded|not an image"),
}


@pytest.mark.parametrize("name", EXPANDING)
def test_images_that_expand_are_refused(name: str, tmp_path: Path, seeds: Path) -> None:
    content, reason = EXPANDING[name]
    path = tmp_path / name
    path.write_bytes(content)
    verdict = judged(tmp_path / "cases", {"it": lambda folder: decode_image(path, (32, 32))}, seeds, path)["it"]
    assert verdict.outcome == "refused", verdict
    assert verdict.megabytes < SMALL
    with pytest.raises(images.ImageError, match=reason):
        read_image(path, 32)


def test_an_image_below_the_limit_is_refused_without_a_warning_of_pillow(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(png(10_400, 10_000, 8, 2, data=packed_zeros(1 << 20)))
    with warnings.catch_warnings(action="error"), pytest.raises(images.ImageError) as caught:
        read_image(path, 32)
    assert "\n" not in str(caught.value)


def test_costly_formats_have_half_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 300)
    for kind in ("png", "webp", "jp2"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"a.{kind}")
    assert read_image(tmp_path / "a.png", 8).shape == (3, 8, 8)
    for kind in ("webp", "jp2"):
        with pytest.raises(images.ImageError, match="it has 16x16 pixels; at most 150 are decoded"):
            read_image(tmp_path / f"a.{kind}", 8)


def test_arrays_that_expand_or_lie_are_refused(tmp_path: Path, seeds: Path) -> None:
    whole = [(f"{name}.npy", npy(array)) for name, array in ARRAYS.items()]
    shape = npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000, 64, 64, 3), }")
    long = npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775808, 3), }")
    traps = npy(np.array([fuzz_data.Trap()] * 24, object))
    contents = {
        "would unpack to": zeros(300), "in a way that numpy does not write": zipped(whole, zipfile.ZIP_BZIP2),
        "x_train cannot be read": zipped([("x_train.npy", shape), *whole[1:]]),
        "y_train cannot be read": zipped([whole[0], ("y_train.npy", long), *whole[2:]]),
        "x_train holds Python objects": zipped([("x_train.npy", traps), *whole[1:]]),
    }  # fmt: skip
    acts: dict[str, Callable[[Path], object]] = {}
    for number, (reason, content) in enumerate(contents.items()):
        (tmp_path / f"{number}.npz").write_bytes(content)
        acts[reason] = lambda folder, number=number: open_data(str(tmp_path / f"{number}.npz"))  # type: ignore[misc]
    for reason, verdict in judged(tmp_path / "cases", acts, seeds).items():
        assert (verdict.outcome, reason in verdict.said) == ("refused", True), verdict
        assert verdict.megabytes < SMALL, verdict
    assert not Path("/tmp/owned").exists()


# --- archives that lead elsewhere


def test_archives_unpack_only_what_is_wanted(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    with tarfile.open(box / "set.tar.gz", "w:gz") as packed:
        for name in ("wanted/a.txt", "wanted/../../up.txt", "../up.txt", f"{tmp_path}/absolute.txt", "other/b.txt"):
            packed.addfile(tarfile.TarInfo(name), io.BytesIO())
        for name, kind, target in (
            ("wanted/link", tarfile.SYMTYPE, str(tmp_path)), ("wanted/hard", tarfile.LNKTYPE, "/etc/passwd"),
            ("wanted/pipe", tarfile.FIFOTYPE, ""), ("wanted/device", tarfile.CHRTYPE, ""),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            packed.addfile(member)
        packed.addfile(tarfile.TarInfo("wanted/link/through.txt"), io.BytesIO())
    unpack(box / "set.tar.gz", md5_of(box / "set.tar.gz"), "wanted")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert found == {"box/set.tar.gz", "box/wanted/a.txt", "box/wanted/link/through.txt"}
    assert not (box / "wanted" / "link").is_symlink()


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"", b"\x1f\x8b\x08cut"])
def test_what_is_no_archive_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.tar\.gz cannot be unpacked"):
        unpack(path, md5_of(path), "wanted")
    assert [inside.name for inside in tmp_path.iterdir()] == ["set.tar.gz"]


# --- checkpoints and weights


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("model.json", {"epoch": 3})
    os.mkfifo(folder.weights)
    assert selected_epoch(folder) is None


@pytest.mark.parametrize("read", [lambda path: create_backbone("test_resnet", pretrained=path),
                                  lambda path: build_model("vgg_gap_cub", 5, pretrained=str(path))])  # fmt: skip
def test_complex_weights_are_not_made_real(read: Callable[[Path], object], tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1, dtype=torch.complex64)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth' \(.*the numbers of 'conv1.weight' are complex"):
        read(tmp_path / "weights.pth")


def test_weights_that_expand_are_refused(tmp_path: Path, seeds: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"format": FORMAT, "state_dict": {"a": torch.zeros(20_000_000)}}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    acts = {str(number): lambda folder, read=read: read(path) for number, read in enumerate(WEIGHT_READERS)}
    for verdict in judged(tmp_path / "cases", acts, seeds, path).values():
        assert verdict.outcome == "refused", verdict
        assert verdict.megabytes < 40, verdict


@pytest.mark.parametrize(
    "change", [lambda h, d: (2**62).to_bytes(8, "little") + h + d, lambda h, d: len(h).to_bytes(8, "little") + h + d[:-4],
               lambda h, d: len(h).to_bytes(8, "little") + h.replace(b'"F32"', b'"F64"', 1) + d, lambda h, d: b""],
)  # fmt: skip
def test_lying_safetensors_are_refused(change: Callable[[bytes, bytes], bytes], tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "run", tmp_path)
    whole = run.weights.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    run.weights.write_bytes(change(whole[8:length], whole[length:]))
    with pytest.raises(ValueError, match=r"model\.safetensors is cut or damaged"):
        load_run(run.path)


def test_an_archive_of_several_disks_is_cut(tmp_path: Path, seeds: Path) -> None:
    for name, read in (("squares.npz", open_data), ("pretrained.pth", load_checkpoint), ("pretrained.pth", read_published)):
        content = bytearray((seeds / name).read_bytes())
        end = content.rfind(b"PK\x05\x06")
        content[end - 20 : end] = struct.pack("<IIQI", 0x07064B50, 0, 0, 7)  # the locator of a zip file of 7 disks
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is cut"):
            read(str(tmp_path / name) if read is open_data else tmp_path / name)  # type: ignore[operator]


def test_what_a_library_says_in_lines_is_told_in_one(tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "run", tmp_path)
    run.weights.write_bytes(run.weights.read_bytes().replace(b'"F32"', b'"\\n2"', 1))
    with pytest.raises(ValueError, match=r"model\.safetensors is cut or damaged") as caught:
        load_run(run.path)
    assert "\n" not in str(caught.value)


def test_names_of_several_lines_are_told_in_one(tmp_path: Path, seeds: Path) -> None:
    from safetensors.torch import save_file

    run, path = copied(seeds, "run", tmp_path), tmp_path / "weights.safetensors"
    save_file({**create_backbone("resnet10t").state_dict(), "a\nb": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"has the unknown 'a\\nb'"):
        create_backbone("resnet10t", pretrained=str(path))
    data = replace(run.config.data, data="a\nb")
    with pytest.raises(ValueError, match=r"the run's data, a\\nb, are not in \S+; name the folder") as caught:
        locate_data(run, data)
    assert "\n" not in str(caught.value)


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = Path("/proc/self/mem")  # a regular file of no bytes, whose first ones nobody may read
    if not path.exists():
        pytest.skip("needs Linux's /proc")
    with pytest.raises(OSError, match="/proc/self/mem"):
        read_text(path)


def test_half_a_character_becomes_a_question_mark_in_a_report(tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "shown", tmp_path).path
    card = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**card, "class_names": ["\ud83d", *card["class_names"][1:]]}))
    build_report([run], tmp_path / "report.html")
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_weights_too_large_to_multiply_are_told(tmp_path: Path, seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    run = copied(seeds, "run", tmp_path)
    save_file({name: value * 0 + 3e38 if value.is_floating_point() else value for name, value in load_file(run.weights).items()},
              run.weights)  # fmt: skip
    assert main(["explain", str(run.path), str(seeds / "picture.png"), "--out", str(tmp_path / "maps")]) == 2
    assert main(["eval", str(run.path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("finite" in line for line in lines)


# --- texts nobody writes


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000 + "]" * 5000, "a." * 5000 + "a = 1", "[optim]\nlr = " + "9" * 5000, "\x00", '[data]\ndata = "a\\u0000b"'],
)
def test_absurd_recipes_are_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml"):
        read_config(path)


def test_a_recipe_too_long_to_be_one_is_not_parsed(tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(seeds, "shown", tmp_path).path
    (run / "config.toml").write_text("a." * 16_400 + "a = 1")
    monkeypatch.setattr("tomllib.loads", lambda text: pytest.fail("it is parsed"))
    for read in (lambda: read_config(run / "config.toml"), lambda: build_report([run], tmp_path / "report.html")):
        with pytest.raises(ValueError, match=r"config\.toml .*it has 32,805 bytes; at most 32,768 are read"):
            read()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000, "NaN", '{"format": 1e999}', '{"n": -0}']
)
@pytest.mark.parametrize("name", ["model.json", "eval/test.json", "score/test.json", "metrics.jsonl"])
def test_absurd_json_is_one_line(name: str, text: str, tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "shown", tmp_path).path
    (run / name).write_text(text + "\n" + text + "\n" if name == "metrics.jsonl" else text)
    acts: dict[str, Callable[[Path], object]] = {
        "run": lambda folder: load_run(run), "report": lambda folder: build_report([run], folder / "report.html")
    }  # fmt: skip
    found = judged(tmp_path / "cases", acts, seeds, run)
    assert [verdict for verdict in found.values() if verdict.outcome == "BUG"] == []
    assert (found["report"].outcome, name in found["report"].said) == ("refused", True)


def test_a_damaged_fingerprint_is_one_line(tmp_path: Path, seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(seeds, "begun", tmp_path)
    whole = run.read_json("origin.json")
    data, test = whole["data"], whole["data"]["test"]
    damaged: list[object] = [
        [1], "x", 3, {}, {"test": test}, {**data, "val": None}, {**data, "test": {**test, "counts": ["1"]}},
        {**data, "test": {**test, "quarters": [["1"] * 4]}}, {**data, "test": {**test, "quarters": [[float("nan")] * 4]}},
        {**data, "test": {**test, "quarters": [[1.0]]}}, {**data, "test": {**test, "labels": 3}},
    ]  # fmt: skip
    for value in damaged:
        run.write_json("origin.json", {**whole, "data": value})
        for words in (["eval", str(run.path)], ["train", "--quiet", "--resume", str(run.path)]):
            assert main(words) == 2, value
            (line,) = capsys.readouterr().err.splitlines()
            assert "origin.json is damaged" in line


@pytest.mark.parametrize("column", ["seed", "split", "error", "rate_bits", "command"])
def test_a_table_without_a_column_or_with_odd_cells_is_one_line(column: str, tmp_path: Path, seeds: Path) -> None:
    path, lines = tmp_path / "runs.csv", (seeds / "runs.csv").read_text().splitlines()
    path.write_text("\n".join(lines).replace(f"{column},", "other,").replace(f",{column}", ",other"))
    with pytest.raises(ValueError, match=f"runs.csv is not a table of runs: it has no column {column}"):
        read_runs(path)
    where = lines[0].split(",").index(column)
    cells = lines[1].split(",")
    cells[where] = "'"
    path.write_text("\n".join([lines[0], ",".join(cells)]))
    if column != "split":
        with pytest.raises(ValueError, match=f"runs.csv is not a table of runs: the {column} of row 1 is"):
            read_runs(path)


# --- places

SHOWN = (
    "model.json", "metrics.jsonl", "config.toml", "environment.json", "eval/test.json", "eval/test.npz", "eval/test-gallery.json",
    "score/test.json", "eval/test-gallery/000.png", "eval/test-gallery/000.npy", "eval/test-gallery/000-mask.png",
)  # fmt: skip


def readers(folder: Path, seeds: Path) -> dict[Path, Callable[[], object]]:
    """Every file that is read, in a folder of copies, and what reads it."""
    run, shown = copied(seeds, "run", folder).path, folder / "shown"
    copied(seeds, "shown", folder / "copy").path.rename(shown)
    for name in ("squares.npz", "runs.csv", "scores.csv", "pretrained.pth"):
        (folder / name).write_bytes((seeds / name).read_bytes())
    return {
        **{shown / name: lambda: build_report([shown], folder / "report.html") for name in SHOWN},
        **{run / name: lambda: load_run(run) for name in ("model.json", "model.safetensors", "config.toml")},
        run / "checkpoints/last.ckpt": lambda: load_checkpoint(run / "checkpoints/last.ckpt"),
        run / "checkpoints/best.ckpt": lambda: read_published(run / "checkpoints/best.ckpt"),
        folder / "squares.npz": lambda: open_data(str(folder / "squares.npz")),
        folder / "runs.csv": lambda: read_runs(folder / "runs.csv"),
        folder / "scores.csv": lambda: update_table(folder / "scores.csv", SCORE_COLUMNS, SCORE_COLUMNS, SCORE_COLUMNS, []),
        folder / "pretrained.pth": lambda: create_backbone("test_resnet", pretrained=folder / "pretrained.pth"),
    }


PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo, "folder": Path.mkdir, "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/null"), "endless": lambda path: path.symlink_to("/dev/zero"),
    "elsewhere": lambda path: path.symlink_to("/etc/passwd"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_no_file_is_not_read(kind: str, tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "WAIT", 10)

    def misplaced(path: Path, read: Callable[[], object]) -> Callable[[Path], object]:
        def act(folder: Path) -> object:
            aside = path.rename(path.with_name("aside"))
            PLACES[kind](path)
            try:
                return read()
            finally:
                path.rmdir() if path.is_dir() else path.unlink()
                aside.rename(path)

        return act

    acts = {str(path.relative_to(tmp_path)): misplaced(path, read) for path, read in readers(tmp_path, seeds).items()}
    verdicts = judged(tmp_path, acts, seeds)
    assert [verdict for verdict in verdicts.values() if verdict.outcome == "BUG"] == []
    assert all(verdict.megabytes < SMALL for verdict in verdicts.values())
    # a report does without some of the files, and a table may be nowhere yet
    needed = {verdict.outcome for name, verdict in verdicts.items() if not name.startswith("shown") and ".csv" not in name}
    assert needed == {"refused"}


@pytest.mark.parametrize("words", [
    ["train", "--data", "~nosuchuser/photos"], ["train", "--data", "~nosuchuser/a.npz", "--out", "new"],
    ["train", "--data", "cifar10", "--root", "~nosuchuser/d"], ["train", "--data", "cub200", "--root", "~nosuchuser/d"],
    ["train", "--resume", "RUN", "--root", "~nosuchuser/d"], ["eval", "RUN", "--root", "~nosuchuser/d"],
    ["eval", "RUN", "--data", "~nosuchuser/d"], ["eval", "RUN"],
])  # fmt: skip
def test_the_home_of_nobody_is_one_line(
    words: list[str], tmp_path: Path, seeds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(seeds, "begun", tmp_path)
    if words == ["eval", "RUN"]:
        config = run.path / "config.toml"
        config.write_text(config.read_text().replace(f'data = "{seeds}', 'data = "~nosuchuser'))
    monkeypatch.chdir(tmp_path)
    assert main([str(run.path) if word == "RUN" else word for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "~nosuchuser" in line
    assert "begins with the home folder of a user that is not there" in line


def test_a_report_shows_nothing_from_outside(tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "shown", tmp_path).path
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    gallery = json.loads((run / "eval/test-gallery.json").read_text())
    for name in ("../../secret.png", str(tmp_path / "secret.png")):
        (run / "eval/test-gallery.json").write_text(json.dumps([{**gallery[0], "image": name}]))
        with pytest.raises(ValueError, match=r"test-gallery\.json, entry 1: .*secret\.png' lies outside"):
            build_report([run], tmp_path / "report.html")
    (run / "eval/test-gallery.json").write_text(json.dumps([{**gallery[0], "true": "<script>alert(1)</script>"}]))
    assert "<script>alert" not in build_report([run], tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["eval", "score", "eval/test-gallery", "score/test-gallery"])
def test_nothing_outside_a_run_is_deleted_or_written_through_its_links(
    name: str, tmp_path: Path, seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mine = copied(seeds, "run", tmp_path).path, tmp_path / "mine"
    (mine / "test-gallery").mkdir(parents=True)
    for file in (mine / "000.png", mine / "test-gallery" / "0-0.png"):
        file.write_text("dear to me")
    link = run / name
    shutil.rmtree(link, ignore_errors=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(mine)
    assert main([link.relative_to(run).parts[0], str(run)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"{name} is a link" in said[0]
    assert {file.read_text() for file in mine.rglob("*") if file.is_file()} == {"dear to me"}
    assert sorted(file.name for file in mine.rglob("*")) == ["0-0.png", "000.png", "test-gallery"]


def test_a_run_folder_and_its_checkpoints_may_be_links(tmp_path: Path, seeds: Path) -> None:
    run, disk = copied(seeds, "begun", tmp_path).path, tmp_path / "disk"
    (run / "checkpoints").rename(disk)
    (run / "checkpoints").symlink_to(disk)
    (disk / ".mine.tmp").write_text("dear to me")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(run)
    assert main(["train", "--resume", str(tmp_path / "link"), "--quiet"]) == 0
    assert load_checkpoint(disk / "last.ckpt")["state"]["epoch"] == 2
    assert (disk / ".mine.tmp").exists()
    assert not (tmp_path / "elsewhere").exists()


def test_a_new_gallery_deletes_only_what_galleries_hold(tmp_path: Path, seeds: Path) -> None:
    run = copied(seeds, "run", tmp_path)
    gallery = run.path / "eval" / "test-gallery"
    gallery.mkdir()
    old, mine = ["999.png", "999-3.npy", "999-mask.png", "5-0-1.npy"], ["mine.png", "notes.txt", "999.png.bak"]
    for name in (*old, *mine):
        (gallery / name).write_text("x")
    assert main(["eval", str(run.path)]) == 0
    left = {path.name for path in gallery.iterdir()}
    assert left.isdisjoint(old)
    assert left > set(mine)


def test_a_file_is_not_written_through_a_link_in_the_place_of_its_temporary_one(tmp_path: Path, seeds: Path) -> None:
    run, mine = copied(seeds, "run", tmp_path), tmp_path / "mine"
    mine.write_text("dear to me")
    (run.path / f".model.json.{os.getpid()}.tmp").symlink_to(mine)
    run.write_json("model.json", {})
    assert (mine.read_text(), run.read_json("model.json")) == ("dear to me", {})
