"""Figures 3, 4 and 5 from real runs, and the sentences under them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from aib.cli import main
from aib.paper.figures import figure4
from aib.train.loop import train
from aib.train.run_folder import RunFolder
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    data = write_npz(folder / "squares.npz")
    plain, quantized, baseline = (
        train(tiny_config(data, folder / model, model=model, anchors=anchors, epochs=epochs))
        for model, anchors, epochs in (("vgg_xs_aib", None, 1), ("vgg_xs_aib_qt", 8, 12), ("vgg_xs", None, 1))
    )
    return plain, quantized, baseline


def test_maps_of_original_and_edited_images(
    runs: tuple[RunFolder, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "three.png"
    assert main(["figure", "3", str(runs[0].path), str(runs[1].path), "--window", "3", "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"a window of 3 pixels in a random colour, drawn by seed 0 from the \d+ % whose prediction stays", said)
    with Image.open(out) as picture:
        assert picture.width > 800


def test_what_anchors_get_right(runs: tuple[RunFolder, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "five.pdf"
    assert main(["figure", "5", str(runs[0].path), str(runs[1].path), "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"Of 40 images, [1-9]\d* are wrong in vgg_xs_aib and right in vgg_xs_aib_qt, and \d+ the other way", said)
    assert out.read_bytes().startswith(b"%PDF")


def row(options: str, seed: int, error: float) -> dict[str, str]:
    recipe = "paper/cifar10/vgg_aib_qt"
    return {
        "data": "cifar10", "evaluated_on": "cifar10", "model": "vgg_aib_qt", "recipe": recipe, "seed": str(seed), "split": "test",
        "error": str(error), "rate_bits": "1", "command": f"aib train --recipe {recipe} {options} --seed {seed}",
    }  # fmt: skip


def test_error_over_one_option_at_a_time(tmp_path: Path) -> None:
    recorded = [row("", s, 0.05) for s in (0, 1)] + [row("--beta 0.0", s, 0.06) for s in (0, 1)]
    recorded += [row("--anchors 50", 0, 0.04), row("--anchors 5", 0, 0.07), row("--beta 1.0 --anchors 5", 0, 0.9)]
    said = figure4(recorded, "paper/cifar10/vgg_aib_qt", tmp_path / "four.svg")
    assert "mean of up to 2 seeds" in said
    drawn = (tmp_path / "four.svg").read_text()
    assert drawn.count('<g id="axes_') == 2  # beta and Q; K has one value
    with pytest.raises(ValueError, match="differ in beta, latent_dim, anchors alone; run aib sweep"):
        figure4(recorded[:2], "paper/cifar10/vgg_aib_qt", tmp_path / "none.png")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["3"], "figure 3 takes run folders; 0 were given"),
        (["5", "a"], "figure 5 takes two run folders, without and with anchors; 1 were given"),
        (["4", "a"], "figure 4 takes no run folder"),
        (["3", "a", "--out", "x.gif"], "it must end in .png, .pdf, .svg"),
        (["3", "a", "--rows", "0"], "rows is 0; it must be at least 1"),
        (["2"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_run_without_a_map_and_a_window_too_large(runs: tuple[RunFolder, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "3", str(runs[2].path), "--device", "cpu"]) == 2
    assert "has no map (vgg_xs is a plain classifier)" in capsys.readouterr().err
    assert main(["figure", "3", str(runs[1].path), "--window", "17", "--device", "cpu"]) == 2
    assert "it must be between 1 and 16" in capsys.readouterr().err
