"""Tables 3 and 4 of the paper, computed on the spot from the networks: published values, ours, and why they differ."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn

from aib.classifier import Classifier
from aib.models import create_model
from aib.paper.tables import WHY, PaperTable, published
from aib.train.macs import count_macs

__all__ = ["table3", "table4"]

TOLERANCE = 0.0051
"""From which on a count is another number than a printed one of two decimals."""

PARAMETER_REASONS = {
    **dict.fromkeys(
        ("vgg_aib", "vgg_aib_qt"),
        "published: with the 10,511 running statistics of batch normalisation; its cifar_va.py adds up all of the state dict",
    ),
    **dict.fromkeys(
        ("wrn_aib_cub", "wrn_aib_qt_cub"),
        "published: with a copy of the third group, 20.736, that its CUB model_qt.py builds as self.tmp_layer and never runs",
    ),
}
MAC_REASONS = {
    **dict.fromkeys(
        ("wrn_aib", "wrn_aib_qt", "wrn_aib_cub", "wrn_aib_qt_cub"),
        "published: a profiler counted branch and last group, each registered under two names, four times",
    ),
    **dict.fromkeys(("vgg_aib_cub", "vgg_aib_qt_cub"), "published: with the additions of the biases, 0.014"),
}
"""A profiler that hangs a counter on a module for each of its names, and adds up the counts by name, counts it 2 x 2 times: 12.376
+ 3 (7.132 + 1.783) = 39.12 for wrn_aib, printed 39.14; 19.622 + 3 (8.224 + 2.209) = 50.92 for CUB, printed 50.97. The little that
is left is what it counts of normalisation."""


def table3() -> PaperTable:
    """Parameters in millions: published, counted, and why they differ."""
    rows = []
    for line in published("sizes"):
        count = sum(parameter.numel() for parameter in _on_meta(line).parameters()) / 1e6
        rows.append((
            _name(line), line["classes"], line["params_m_paper"] or "–", f"{count:.6f}",
            _reason(line, count, "params_m_paper", PARAMETER_REASONS),
        ))  # fmt: skip
    return PaperTable("Table 3. Parameters in millions", ("model", "classes", "published", "ours", WHY), tuple(rows))


def table4(latency: bool = True, repeats: int = 5, device: str = "cpu") -> PaperTable:
    """Multiply-accumulates of one image, thousand millions, and the time that one takes here on the mean path.

    Args:
        latency: whether to time, which needs the networks' memory (up to half a gigabyte) and some seconds each.
        repeats: timed passes after two to warm up; the median is shown.
        device: where to time.
    """
    rows = []
    for line in published("sizes"):
        size = int(line["input"])
        macs = count_macs(_on_meta(line), (3, size, size)) / 1e9
        rows.append((
            _name(line), line["input"], line["classes"], line["gflops_paper"] or "–", f"{macs:.6f}", line["ms_paper"] or "–",
            *([f"{1000 * _latency(line, size, repeats, device):.1f}"] if latency else []),
            _reason(line, macs, "gflops_paper", MAC_REASONS),
        ))  # fmt: skip
    where = f"{device}, {torch.get_num_threads()} threads" if device == "cpu" else device
    here = f"ours: one image at a time, mean path, median of {repeats}, {where}, torch {torch.__version__}; " if latency else ""
    return PaperTable(
        "Table 4. Multiply-accumulates of one image, thousand millions (the paper calls them FLOPs), and its time",
        ("model", "side", "classes", "published", "ours", "ms paper", *(["ms ours"] if latency else []), WHY),
        tuple(rows),
        (
            f"time: {here}paper: a frame on an NVIDIA TITAN Xp, other hardware than yours; of how many frames and draws at a time "
            "it does not say",
        ),
    )


def _name(line: Mapping[str, str]) -> str:
    """The model's name, with the data set of the networks of another one."""
    plain = line["model"].removesuffix("_cub")
    return plain if plain == line["model"] else f"{plain} (CUB)"


def _reason(line: Mapping[str, str], ours: float, column: str, reasons: Mapping[str, str]) -> str:
    """Why a printed number is another than ours; empty where it is not, or where none is printed."""
    if not line[column] or abs(ours - float(line[column])) <= TOLERANCE:
        return ""
    return reasons.get(line["model"], "unexplained")


def _on_meta(line: Mapping[str, str]) -> Classifier:
    with torch.device("meta"):
        return create_model(line["model"], int(line["classes"]))


def _latency(line: Mapping[str, str], size: int, repeats: int, device: str) -> float:
    """Seconds of a forward pass of one image."""
    model: nn.Module = create_model(line["model"], int(line["classes"])).eval().to(device)
    image = torch.rand(1, 3, size, size, device=device)
    times = []
    with torch.no_grad():
        for turn in range(repeats + 2):
            began = time.perf_counter()
            model(image)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times.append(time.perf_counter() - began)
    return statistics.median(times)
