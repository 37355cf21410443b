"""Figures 3, 4 and 5 from real runs, and the sentences under them."""

from __future__ import annotations

import itertools
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from aib.cli import main
from aib.paper.figures import _own_sizes, figure3, figure4
from aib.report.style import COLOUR_MAP
from aib.train.config import config_from_dict
from aib.train.loop import train
from aib.train.run_data import open_run_data
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
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
    assert re.search(
        r"window of 3 by 3 pixels in a random colour, drawn by seed 0 from the \d+ % of 40 test images whose prediction stays", said
    )
    with Image.open(out) as picture:
        assert picture.width > 800


def test_what_anchors_get_right(runs: tuple[RunFolder, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "five.pdf"
    assert main(["figure", "5", str(runs[0].path), str(runs[1].path), "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"Of 40 images, [1-9]\d* are wrong in vgg_xs_aib and right in vgg_xs_aib_qt, and \d+ the other way", said)
    assert out.read_bytes().startswith(b"%PDF")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures in the place of files, with everything in its place."""
    drawn: list[Figure] = []

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        figure.draw_without_rendering()
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def legible(figure: Figure) -> list[str]:
    """The texts of a figure, which lie in it and do not cover each other."""
    written = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [text.get_window_extent() for text in written]
    for text, box in zip(written, boxes):
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (text, first), (other, second) in itertools.combinations(zip(written, boxes), 2):
        across, upright = min(first.x1, second.x1) - max(first.x0, second.x0), min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, upright) < 2, (text, other)
    return [text.get_text() for text in written]


def test_the_figure_shows_cells_as_they_are_and_says_what_it_shows(
    runs: tuple[RunFolder, ...], kept: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(runs[1].path), str(runs[0].path)]  # with anchors first
    assert main(["figure", "5", *paths, "--rows", "2", "--out", str(tmp_path / "five.png"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.split(": ", 1)[1].strip()
    texts = legible(kept[0])
    assert said in [" ".join(text.split()) for text in texts]
    assert "they do not show that anchors help" in said
    assert [text for text in texts if text.startswith("vgg_xs")] == ["vgg_xs_aib\nscores", "vgg_xs_aib_qt\nscores"]
    assert sum(text.startswith("true: ") for text in texts) == sum(text.startswith("✗") for text in texts) == 2
    assert sum(text.startswith("✓") for text in texts) == 2
    shown = [image for axis in kept[0].axes for image in axis.images if image.get_cmap().name == COLOUR_MAP]
    assert {image.get_interpolation() for image in shown} == {"nearest"}
    anchors = load_run(runs[1].path).model.quantizer.anchors.detach()
    values = torch.tensor(np.asarray(shown[1].get_array()))
    assert (values.flatten()[:, None] - anchors).abs().min(1).values.max() < 1e-6


@pytest.mark.parametrize(("pair", "have"), [((0, 0), "neither has"), ((1, 1), "both have")])
def test_two_runs_of_one_kind_are_refused(
    pair: tuple[int, int], have: str, runs: tuple[RunFolder, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", "5", *(str(runs[i].path) for i in pair), "--device", "cpu"]) == 2
    assert f"{have} anchors; figure 5 takes one run of each kind" in capsys.readouterr().err


def test_maps_on_scales_of_their_own_are_called_so(runs: tuple[RunFolder, ...], kept: list[Figure], tmp_path: Path) -> None:
    run = load_run(runs[0].path)
    other = replace(run, model=deepcopy(run.model))
    other.model.relative_map = True
    said = figure3([run, other], open_run_data(run, None), tmp_path / "three.png", size=3)
    texts = legible(kept[0])
    assert "divided by their own maximum where the title says so" in said
    assert {text.split("\n")[-1] for text in texts if text.startswith("vgg_xs")} == {"scores", "÷ own maximum"}


def test_runs_of_one_sweep_are_told_apart(runs: tuple[RunFolder, ...], kept: list[Figure], tmp_path: Path) -> None:
    run = load_run(runs[0].path)

    def titles(*folders: str) -> list[str]:
        several = [replace(run, folder=RunFolder(tmp_path / folder)) for folder in folders]
        figure3(several, open_run_data(run, None), tmp_path / "three.png", size=3)
        return [text for text in legible(kept.pop()) if text.startswith("vgg_xs")][: len(folders)]

    def named(*endings: str) -> list[str]:
        return [f"vgg_xs_aib\n{ending}\nscores" for ending in endings]

    assert titles("sw/beta=0/seed-0", "sw/beta=0.001/seed-0") == named("beta=0/seed-0", "beta=0.001/seed-0")
    assert titles("sw/beta=0/seed-0", "sw/beta=0/seed-1") == named("seed-0", "seed-1")
    long = "model=vgg_aib_qt,kl=reference"
    assert titles(f"sw/{long},beta=0/seed-0", f"sw/{long},beta=1/seed-0") == named(
        *(f"model=vgg_aib_qt,\nkl=reference,beta\n={beta}/seed-0" for beta in (0, 1))
    )


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
    assert "means of 1–2 seeds" in said
    assert "Points with one seed have no interval" in said
    drawn = (tmp_path / "four.svg").read_text()
    assert drawn.count('<g id="axes_') == 2  # beta and Q; K has one value
    with pytest.raises(ValueError, match=r"no two recorded runs of .* differ in beta, latent_dim, anchors alone; run aib sweep"):
        figure4([*recorded[:2], row("--beta 0.0 --epochs 2", 0, 0.9)], "paper/cifar10/vgg_aib_qt", tmp_path / "none.png")


def test_a_sweep_that_changes_the_recipe_is_shown_with_its_changes(kept: list[Figure], tmp_path: Path) -> None:
    recipe, short = "paper/cifar10/vgg_aib_qt", "--width 0.0625 --no-channels-first --epochs 2"
    sweep = [row(f"--beta {beta} {short}", 0, error) for beta, error in ((0.0, 0.3), (0.1, 0.2))] + [row(short, 1, 0.1)]
    others = [row("", 0, 0.05), row("--beta 0.0 --epochs 9", 0, 0.9), row("--beta 1.0 --epochs 9", 0, 0.9)]
    said = figure4([*others, *sweep], recipe, tmp_path / "four.png")
    assert f"Test error of {recipe}, all with epochs 2, no-channels-first, width 0.0625, with one option changed at a time" in said
    (axis,) = kept[0].axes
    assert [list(axis.lines[0].get_ydata()), axis.get_xlabel()[:4]] == [[30.0, 10.0, 20.0], "beta"]
    assert said in [" ".join(text.get_text().split()) for text in kept.pop().findobj(Text)]
    said = figure4([*others, *sweep, row("--anchors 50", 0, 0.04)], recipe, tmp_path / "four.png")
    assert "all with" not in said  # the unchanged recipe goes before a larger group
    assert kept[0].axes[0].get_xlabel()[:1] == "Q"
    both = [row(f"--beta 0.0 --anchors {anchors}", 0, 0.1) for anchors in (5, 50)]
    assert "all with beta 0.0, with one" in figure4(both, recipe, tmp_path / "four.png")


def test_a_recipe_that_leaves_k_and_q_to_the_model_has_a_point_there(kept: list[Figure], tmp_path: Path) -> None:
    recipe = "cifar10/narrow_aib_qt"
    recorded = [{**row(options, 0, 0.05), "recipe": recipe} for options in ("", "--anchors 50", "--latent-dim 64")]
    figure4(recorded, recipe, tmp_path / "four.png")
    assert {"20", "50", "64", "256"} <= set(legible(kept[0]))


def test_a_seed_counts_once_however_the_machine_computed_it(kept: list[Figure], tmp_path: Path) -> None:
    recorded = [
        row("", 0, 0.05), row("--precision bf16-mixed", 0, 0.07), row("--devices 2", 0, 0.09),
        row("--beta 0.0", 0, 0.06), row("--beta 0.0 --compile", 0, 0.5),
    ]  # fmt: skip
    said = figure4(recorded, "paper/cifar10/vgg_aib_qt", tmp_path / "four.png")
    assert "one seed: no interval" in said
    (line,) = kept[0].axes[0].lines[:1]
    assert list(line.get_ydata()) == [6.0, 5.0]


def test_the_papers_own_q_goes_by_the_classes_of_the_data() -> None:
    def q(data: str, model: str = "vgg_aib_qt") -> int | None:
        return _own_sizes(config_from_dict({"data": {"data": data}, "model": {"model": model}}))["anchors"]

    assert [q("cifar10"), q("cifar100"), q("cub200"), q("svhn")] == [20, 50, 50, 20]
    assert [q("cifar10", "wrn_aib_qt"), q("cifar100", "wrn_aib_qt")] == [50, 20]
    assert (q("photos"), q("photos", "vgg_aib_qt_cub")) == (None, 20)  # unknown, and the same for any number of classes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["3"], "figure 3 takes run folders; 0 were given"),
        (["5", "a"], "figure 5 takes two run folders, without and with anchors; 1 were given"),
        (["4", "a"], "figure 4 takes no run folder"),
        (["3", "a", "--out", "x.gif"], "it must end in .png, .pdf, .svg"),
        (["3", "a", "--rows", "0"], "rows is 0; it must be at least 1"),
        (["2"], "invalid choice"),
        (["4", "--rows", "2"], "--rows is for figures 3 and 5"),
        (["5", "a", "b", "--window", "4"], "--window is for figure 3"),
        (["3", "a", "--record", "other.csv"], "--record is for figure 4"),
        (["4", "--record", "nowhere.csv"], "there is no file nowhere.csv"),
        (["3", "a", "--seed", "-1"], "seed is -1; it must lie between 0 and"),
        (["3", "a", "--out", f"{__file__}/x.png"], f"{__file__} is a file; it must be a folder"),
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
