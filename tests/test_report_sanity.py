"""The sanity check in the report: what it says of networks with random weights goes by every draw of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aib.report import build_report
from test_report_page import page_of
from test_report_scores import page_with, scored


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"untrained": -0.17, "last 75 % randomised": 0.18}, "Yes: with random weights the map is another map. The most alike is "
         "that of the network with its last 75 % random, rank correlation +0.18"),
        ({"untrained": -0.9, "last 75 % randomised": 0.18}, "Hardly: the network with random weights gives the map much as it is "
         "but upside down, rank correlation −0.90 (−0.93 to −0.87). Its places show the image and the architecture then; only "
         "which of them are bright was learned."),
        ({"untrained": 0.1, "last 75 % randomised": -0.6}, "In part: the network with its last 75 % random gives the map much as "
         "it is but upside down, rank correlation −0.60 (−0.63 to −0.57); with all weights random it is another."),
        ({"untrained": -0.27, "last 75 % randomised": 0.57}, "In part: the network with its last 75 % random gives the map much as "
         "it is"),
        ({"untrained": 0.8, "last 75 % randomised": 0.57}, "Hardly: the network with random weights gives the map much as it is"),
        ({"attention randomised@gradcam": 0.7, "untrained@gradcam": 0.1}, "In part: the network with random attention gives"),
        ({"untrained": 0.1, "untrained@gradcam": 0.7}, "Hardly: the network with random weights gives Grad-CAM much as it is"),
    ],
)  # fmt: skip
def test_the_sanity_check_speaks_of_the_cascade_too(tmp_path: Path, values: dict[str, float], said: str) -> None:
    def change(scores: dict[str, Any]) -> None:
        scores["randomized"] = {name: {"n": 40, "spearman": [value, value - 0.03, value + 0.03]} for name, value in values.items()}
        scores["beside_controls"]["same_map"] = []

    assert said in page_with(tmp_path, change).text


@pytest.mark.parametrize(
    ("untrained", "attention", "said"),
    [
        ([0.1, 0.05, -0.02], [0.02, -0.13, 0.46], "Yes: with random weights the map is another map. The most alike is that of the "
         "network with random attention, rank correlation +0.12 (+0.09 to +0.15) on average, −0.13 to +0.46 over three draws of "
         "its weights."),
        ([0.3, 0.3, 0.3], [0.7, -0.1, 0.0], "Hardly: the network with random attention gives the map much as it is in 1 of 3 draws "
         "of its weights, rank correlation +0.20 (+0.17 to +0.23) on average, −0.10 to +0.70. It shows the image"),
        ([0.8, -0.7, 0.0], [0.2, None, 0.2], "Hardly: the network with random weights gives the map much as it is or upside down "
         "in 2 of 3 draws of its weights, rank correlation +0.03 (0.00 to +0.06) on average, −0.70 to +0.80. Its places show"),
        ([-0.1, -0.1, -0.6], [0.2, None, 0.2], "gives the map much as it is but upside down in 1 of 3 draws of its weights"),
    ],
)  # fmt: skip
def test_the_sanity_check_goes_by_the_draw_that_is_most_alike(
    tmp_path: Path, untrained: list[float], attention: list[float | None], said: str
) -> None:
    def change(scores: dict[str, Any]) -> None:
        for name, draws in (("untrained", untrained), ("attention randomised", attention)):
            known = [value for value in draws if value is not None]
            mean = sum(known) / len(known)
            scores["randomized"][name] |= {"draws": draws, "spearman": [mean, mean - 0.03, mean + 0.03]}

    run = scored(tmp_path / "run", change)
    out = build_report([run], tmp_path / "r.html")
    assert said in page_of(out).text
    rings = [line for line in out.read_text().split("<title>") if line.startswith("own map, one of ")]
    assert len(rings) == sum(value is not None for value in [*untrained, *attention]) + 3
    assert "for three draws of the weights (the rings) and on average (the dot" in page_of(out).text


def test_files_without_draws_of_the_weights_are_read(tmp_path: Path) -> None:
    def change(scores: dict[str, Any]) -> None:
        for numbers in scores["randomized"].values():
            del numbers["draws"]

    text = page_with(tmp_path, change).text
    assert "Yes: with random weights the map is another map. The most alike is that of the network with random attention" in text
    assert "draws of the" not in text
