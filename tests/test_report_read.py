"""The report reads run folders alone, and says in one line which of their files is malformed and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aib.report import build_report, read_run
from report_folder import _json, make_run
from test_report_page import page_of


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "run"))
    assert (record.name, record.split, len(record.epochs), len(record.gallery)) == ("run", "test", 6, 16)
    assert record.config["optim"]["lr"] == 0.1
    assert record.labels is not None
    assert record.predictions is not None
    assert (record.labels != record.predictions).mean() == pytest.approx(record.evaluation["error"])  # type: ignore[index]
    assert record.gallery[0].map is not None
    assert record.gallery[0].map.shape == (16, 16)
    assert record.gallery[0].others["Grad-CAM"].shape == (8, 8)


def test_only_the_model_file_is_needed(tmp_path: Path) -> None:
    _json(tmp_path / "model.json", {"name": "vgg", "num_classes": 2, "class_names": ["a", "b"]})
    record = read_run(tmp_path)
    assert (record.epochs, record.evaluation, record.gallery) == ([], None, [])
    page_of(build_report([tmp_path], tmp_path / "report.html"))


def test_a_repeated_epoch_takes_its_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 6, "train": {"loss": 9.0}}) + "\n")
    record = read_run(run)
    assert len(record.epochs) == 6
    assert record.epochs[-1]["train"]["loss"] == 9.0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", b'{"epoch": 1}\n{"epoch": 2, "tra\n{"epoch": 3}\n', r"metrics\.jsonl, line 2: not valid JSON"),
        ("metrics.jsonl", b'{"epoch": 1}\n[1]\n', r"metrics\.jsonl, line 2: expected a JSON object, found list"),
        ("metrics.jsonl", b'{"epoch": "one"}\n', r"line 1, 'epoch': expected a whole number, found 'one'"),
        ("model.json", b'{\n"name": "x",\n', r"model\.json, line 3: not valid JSON"),
        ("model.json", b'{"name": "x"}', r"model\.json, line 1: lacks 'num_classes', 'class_names'"),
        ("model.json", b"\xff\xfe\x00", r"model\.json cannot be read as text"),
        ("config.toml", b"[data\nx = 1", r"config\.toml: not valid TOML.*line 1"),
        ("config.toml", b"a = 1" + b"0" * 5000, r"config\.toml: not valid TOML: Exceeds the limit"),
        ("eval/test.json", b'{"n": 3}', r"test\.json, line 1: lacks 'error'"),
        ("eval/test.npz", b"PK\x03\x04cut", r"test\.npz cannot be read"),
        ("eval/test-gallery.json", b'[{"group": "right"}]', r"gallery\.json, entry 1: lacks 'image'"),
        ("eval/test-gallery/000.npy", b"\x93NUMPY", r"000\.npy cannot be read"),
    ],
)
def test_malformed_files_are_one_line_that_names_them(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    run = make_run(tmp_path / "run")
    (run / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_not_a_run_folder_names_the_way_out(tmp_path: Path) -> None:
    make_run(tmp_path / "clutter")
    with pytest.raises(ValueError, match=r"does not exist; did you mean .*clutter\?"):
        read_run(tmp_path / "cluter")
    with pytest.raises(ValueError, match="it holds the runs clutter"):
        read_run(tmp_path)


def test_half_a_last_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 7, "trai')
    assert len(read_run(run).epochs) == 6
