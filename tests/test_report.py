"""The report reads run folders alone, says what is in them, loads nothing, and draws maps where they belong."""

from __future__ import annotations

import base64
import io
import itertools
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from aib.report import build_report, overlay_figure, read_run, save_overlay
from aib.report.compare import comparison_table, paired_difference
from aib.report.confusion import confusion_figure, worst_pairs
from aib.report.figures import ablation_bars, anchor_bars, colour_bar, curves, information_plane, interval_bars, reliability
from aib.report.gallery import outline_path
from aib.report.overlay import ALPHA, GAP, MARGIN, PANEL, blend, cell_index
from aib.report.style import colour_map, compact, percent, thin_labels
from aib.report.svg import element, nice_ticks

SCRIPT = "<script>alert('x')</script>"
TEN = [str(digit) for digit in range(10)]


# ---------------------------------------------------------------------------------------------------------------- run folders


def make_run(
    root: Path,
    kind: str = "aib-qt",
    *,
    names: list[str] = TEN,
    evaluated: bool = True,
    shuffled: float = 0.31,
    seed: int = 0,
    size: int = 32,
) -> Path:
    """A run folder as training and evaluation leave it; ``kind`` is "plain", "aib" or "aib-qt"."""
    rng = np.random.default_rng(seed)
    classes, attentive, count = len(names), kind != "plain", 500
    (root / "eval" / "test-gallery").mkdir(parents=True)
    (root / "config.toml").write_text('[data]\nname = "clutter"\n[optim]\nlr = 0.1\nepochs = 6\n')
    _json(root / "environment.json", {"python": "3.11.2", "aib": "0.1.0", "device": "cpu", "threads": 2})
    model = {
        "format": 1,
        "name": f"vgg_s_{kind}",
        "num_classes": classes,
        "class_names": names,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    model |= {
        "image_size": [32, 32],
        "data": "clutter",
        "parameters": 412_356,
        "macs": 7_123_456,
        "site": None,
        "options": {},
        "epoch": 5,
    }
    _json(root / "model.json", model)
    lines = []
    for epoch in range(1, 7):
        fading = float(np.exp(-epoch / 3))
        train = {"loss": 0.2 + 2.2 * fading, "cross_entropy": 0.15 + 2.1 * fading, "error": 0.05 + 0.8 * fading}
        val = {"error": 0.06 + 0.7 * fading, "cross_entropy": 0.2 + 1.9 * fading}
        if attentive:
            train |= {"rate_loss": 0.01 * fading, "rate_bits": 8 + 6 * fading}
            val |= {"rate_bits": 8 + 6 * fading, "map_mean": 0.3, "map_std": 0.2}
        if kind == "aib-qt":
            train |= {"anchor_loss": 0.001 * fading, "commitment_loss": 0.0003 * fading}
            val |= {"anchors_used": 17, "anchor_perplexity": 6.3}
        lines.append(json.dumps({"epoch": epoch, "step": 62 * epoch, "lr": 0.1, "seconds": 8.1, "train": train, "val": val}))
    (root / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if evaluated:
        _evaluate(root, kind, names, shuffled, rng, count, size)
    return root


def _json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


def _evaluate(root: Path, kind: str, names: list[str], shuffled: float, rng: np.random.Generator, count: int, size: int) -> None:
    classes = len(names)
    labels = np.arange(count) % classes
    wrong = rng.random(count) < 0.08
    predictions = np.where(wrong, (labels + rng.integers(1, classes, count)) % classes, labels)
    confidence = np.where(wrong, rng.beta(4, 3, count), rng.beta(12, 1, count))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predictions), 1)
    error = float(wrong.mean())
    bins = []
    for index in range(15):
        inside = (confidence >= index / 15) & (confidence < (index + 1) / 15)
        bin_ = {"low": index / 15, "high": (index + 1) / 15, "count": int(inside.sum())}
        mean = float(confidence[inside].mean()) if inside.any() else 0.0
        bins.append(bin_ | {"confidence": mean, "accuracy": float((~wrong[inside]).mean()) if inside.any() else 0.0})
    rows = [{"name": n, "n": int(c.sum()), "error": float(1 - c[i] / c.sum())} for i, (n, c) in enumerate(zip(names, confusion))]
    rows = [row | {"precision": 0.9, "recall": 1 - row["error"]} for row in rows]
    made = {
        "split": "test",
        "n": count,
        "error": error,
        "error_interval": [error - 0.02, error + 0.03],
        "cross_entropy": 0.21,
        "ece": 0.02,
    }
    made |= {"weights": "best", "last_error": error + 0.01, "label_entropy_bits": float(np.log2(classes)), "classes": rows}
    made |= {"confusion": confusion.tolist(), "calibration": bins}
    maps = {"Grad-CAM (block 4)": _scores(0.79), "centre": _scores(0.21), "uniform": _scores(0.115), "chance": _scores(0.115)}
    if kind != "plain":
        maps = {"AIB": _scores(0.883)} | maps
        made |= {
            "rate_bits": 8.3,
            "map_ablation": {"original": error, "shuffled_images": shuffled, "shuffled_positions": 0.4, "mean": 0.2},
        }
    if kind == "aib-qt":
        counts = [1000 // (anchor + 1) for anchor in range(17)] + [0, 0, 0]
        made["anchors"] = {
            "values": np.linspace(0, 1, 20).tolist(),
            "counts": counts,
            "used": 17,
            "perplexity": 9.9,
            "smallest_gap": 0.05,
        }
    made["localization"] = {"n": count, "excluded": 3, "maps": maps}
    _json(root / "eval" / "test.json", made)
    np.savez(root / "eval" / "test.npz", labels=labels, predictions=predictions, confidence=confidence)
    _gallery(root / "eval", kind, names, rng, size)


def _scores(pointing: float) -> dict[str, list[float]]:
    return {"pointing_game": [pointing, pointing - 0.02, pointing + 0.02], "energy": [0.3, 0.28, 0.32], "iou": [0.2, 0.19, 0.21]}


def _gallery(folder: Path, kind: str, names: list[str], rng: np.random.Generator, size: int) -> None:
    entries = []
    for index in range(16):
        group = ("right", "wrong", "most certain", "least certain")[index % 4]
        label = index % len(names)
        image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        mask = Image.new("L", (size, size))
        ImageDraw.Draw(mask).rectangle((size // 4, size // 4, size // 2, size // 2), fill=255)
        image.paste((250, 240, 90), mask=mask)
        image.save(folder / "test-gallery" / f"{index:03}.png")
        mask.save(folder / "test-gallery" / f"{index:03}-mask.png")
        entry = {
            "group": group,
            "image": f"test-gallery/{index:03}.png",
            "map": None,
            "true": names[label],
            "rate_bits": None,
            "name": None,
        }
        entry |= {"predicted": names[label if index % 2 == 0 else (label + 1) % len(names)], "confidence": 0.93}
        if kind != "plain":
            np.save(folder / "test-gallery" / f"{index:03}.npy", rng.random((16, 16), dtype=np.float32))
            np.save(folder / "test-gallery" / f"{index:03}-cam.npy", rng.random((8, 8), dtype=np.float32))
            entry |= {"map": f"test-gallery/{index:03}.npy", "rate_bits": 7.1, "mask": f"test-gallery/{index:03}-mask.png"}
            entry["others"] = {"Grad-CAM": f"test-gallery/{index:03}-cam.npy"}
        entries.append(entry)
    _json(folder / "test-gallery.json", entries)


class Page(HTMLParser):
    """What a page loads, names and nests."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> stays open" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data", "poster", "action")
        ]
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag == "img" and "alt" not in given:
            self.faults.append("an image without alt")
        if tag == "th" and given.get("scope") not in ("row", "col"):
            self.faults.append("a header without scope")
        if tag == "svg" and not (given.get("aria-label") or given.get("aria-hidden")):
            self.faults.append("a figure without a label")
        self.faults += [f"handler {name}" for name in given if name.startswith("on")]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def page_of(out: Path) -> Page:
    """The page, after checks that hold for every report."""
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.faults == []
    assert [load[:60] for load in page.loads if not load.startswith(("data:", "#"))] == []
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    return page


# ---------------------------------------------------------------------------------------------------------------- the page


def test_a_full_report_shows_its_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluation = json.loads((run / "eval" / "test.json").read_text())
    start = time.perf_counter()
    out = build_report([run], tmp_path / "deep" / "report.html", title="A title")
    assert time.perf_counter() - start < 6
    page = page_of(out)
    assert out.stat().st_size < 700_000
    low, high = evaluation["error_interval"]
    expected = [
        f"{100 * evaluation['error']:.1f} %",
        f"{100 * low:.1f}–{100 * high:.1f} %",
        "8.3 bits",
        "412 k",
        "412,356",
        "7.12 M",
    ]
    expected += [
        "17 of 20 anchors are in use",
        "88.3 % of the images",
        "the best control, “centre”, reaches 21.0 %",
        "3 images with an empty mask",
    ]
    expected += [f"Shuffling the maps across images costs {100 * (0.31 - evaluation['error']):.1f} points of accuracy"]
    expected += ["commitment loss", "rate in bits", "label entropy 3.32", "3.11.2", "lr", "Most certain", "✗", "Grad-CAM (block 4)"]
    assert [text for text in expected if text not in page.text] == []
    order = [
        page.text.index(word) for word in ("Where it looks", "test error", "Does it look", "Is the map used", "Where does it err")
    ]
    assert order == sorted(order)


def test_pictures_are_the_images_and_the_colours_of_the_raw_maps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = page_of(build_report([run], tmp_path / "report.html"))
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in page.loads if "image/" in uri]
    shown = {picture.tobytes() for picture in pictures}
    for index in range(16):
        assert np.asarray(Image.open(run / "eval" / "test-gallery" / f"{index:03}.png")).tobytes() in shown
        assert colour_map(np.load(run / "eval" / "test-gallery" / f"{index:03}.npy")).tobytes() in shown


@pytest.mark.parametrize("kind", ["plain", "aib", "aib-qt"])
def test_sections_follow_the_model(tmp_path: Path, kind: str) -> None:
    text = page_of(build_report([make_run(tmp_path / "run", kind)], tmp_path / "report.html")).text
    assert "Where does it err?" in text
    assert "Can its confidence be trusted?" in text
    assert ("Is the map used?" in text) == (kind != "plain")
    assert ("How much information does it keep?" in text) == (kind != "plain")
    assert ("Which attention values does it use?" in text) == (kind == "aib-qt")
    assert ("anchor loss" in text) == (kind == "aib-qt")


def test_an_unevaluated_run_names_the_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=False)
    text = page_of(build_report([run], tmp_path / "report.html")).text
    assert f"aib eval {run}" in text
    assert "validation error" in text
    assert "How did training go?" in text
    assert "Where does it err?" not in text


def test_a_hardly_used_map_is_called_so(tmp_path: Path) -> None:
    text = page_of(build_report([make_run(tmp_path / "run", shuffled=0.1)], tmp_path / "report.html")).text
    assert "The map is hardly used" in text


def test_a_map_below_a_control_is_called_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluation = json.loads((run / "eval" / "test.json").read_text())
    evaluation["localization"]["maps"]["centre"] = _scores(0.95)
    _json(run / "eval" / "test.json", evaluation)
    text = page_of(build_report([run], tmp_path / "report.html")).text
    assert "reaches 95.0 %. It does worse than that." in text


def test_several_runs_and_a_comparison(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", "plain", seed=1)]
    comparison = {
        "title": "Found",
        "sentences": ["One & two."],
        "table": {"columns": ["", "x"], "rows": [["row", 0.25], ["none", None]]},
    }
    page = page_of(build_report(runs, tmp_path / "report.html", comparison=comparison))
    places = [
        page.text.index(word) for word in ("Where it looks", "One & two.", "The runs side by side.", "vgg_s_plain with 10 classes")
    ]
    assert places == sorted(places)
    assert "a/run" in page.text
    assert "b/run" in page.text
    assert "0.25" in page.text
    with pytest.raises(ValueError, match="sentence'"):
        build_report(runs, tmp_path / "report.html", comparison={"sentence": []})
    with pytest.raises(ValueError, match="2 cells"):
        build_report(runs, tmp_path / "report.html", comparison={"table": {"columns": ["", "x"], "rows": [["a"]]}})


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    names = [SCRIPT, 'a"b', "c&d", "<img src=http://evil/x onerror=alert(1)>"]
    run = make_run(tmp_path / "run <b>", names=names)
    evaluation = json.loads((run / "eval" / "test.json").read_text())
    evaluation["localization"]["maps"][SCRIPT] = _scores(0.5)
    evaluation["map_ablation"][SCRIPT] = 0.3
    _json(run / "eval" / "test.json", evaluation)
    out = build_report([run], tmp_path / "report.html", title=SCRIPT, comparison={"title": SCRIPT, "sentences": [SCRIPT]})
    assert "<script>alert" not in out.read_text()
    page = page_of(out)
    assert "<img src=http" not in out.read_text()
    for name in names:
        assert name in page.text


def test_a_hundred_classes_and_large_photographs_stay_bounded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=[f"class {index}" for index in range(100)], size=500)
    out = build_report([run], tmp_path / "report.html")
    page_of(out)
    assert out.stat().st_size < 2_000_000


def test_an_error_leaves_the_older_report(tmp_path: Path) -> None:
    out = build_report([make_run(tmp_path / "run")], tmp_path / "report.html")
    before = out.read_bytes()
    (tmp_path / "run" / "eval" / "test-gallery" / "003.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"003\.png cannot be read as an image"):
        build_report([tmp_path / "run"], out)
    assert out.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "run"]
    with pytest.raises(ValueError, match="at least one"):
        build_report([], out)


def test_no_torch_and_no_matplotlib_are_imported() -> None:
    code = "import sys, aib; assert 'numpy' not in sys.modules; import aib.report\n"
    code += "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# ---------------------------------------------------------------------------------------------------------------- reading


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "run"))
    assert (record.name, record.split, record.attentive, len(record.epochs), len(record.gallery)) == ("run", "test", True, 6, 16)
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
    assert (record.epochs, record.evaluation, record.gallery, record.attentive) == ([], None, [], False)
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
        ("metrics.jsonl", b'{"epoch": 1}\n{"epoch": 2, "tra', r"metrics\.jsonl, line 2: not valid JSON"),
        ("metrics.jsonl", b'{"epoch": 1}\n[1]\n', r"metrics\.jsonl, line 2: expected a JSON object, found list"),
        ("metrics.jsonl", b'{"epoch": "one"}\n', r"line 1: 'epoch' is 'one'"),
        ("model.json", b'{\n"name": "x",\n', r"model\.json, line 3: not valid JSON"),
        ("model.json", b'{"name": "x"}', r"model\.json, line 1: lacks 'num_classes', 'class_names'"),
        ("model.json", b"\xff\xfe\x00", r"model\.json cannot be read as text"),
        ("config.toml", b"[data\nx = 1", r"config\.toml: not valid TOML.*line 1"),
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


# ---------------------------------------------------------------------------------------------------------------- overlay


@given(pixels=st.integers(1, 300), cells=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_pixel_takes_the_cell_over_its_centre(pixels: int, cells: int) -> None:
    index = cell_index(pixels, cells)
    for pixel, cell in enumerate(index):
        assert cell / cells <= (pixel + 0.5) / pixels + 1e-12
        assert (pixel + 0.5) / pixels < (cell + 1) / cells + 1e-12
    on_an_edge = any((2 * pixel + 1) * cells % (2 * pixels) == 0 for pixel in range(pixels))
    if not on_an_edge:
        assert (index[::-1] == cells - 1 - index).all()


@pytest.mark.parametrize(("image", "cells"), [((32, 32), (16, 16)), ((30, 50), (7, 9)), ((224, 150), (14, 14))])
def test_one_hot_cell_lights_its_own_pixels(image: tuple[int, int], cells: tuple[int, int]) -> None:
    hot = (cells[0] // 3, cells[1] - 2)
    map = np.zeros(cells, np.float32)
    map[hot] = 1
    lit = (blend(np.zeros((*image, 3), np.uint8), map, alpha=1.0) == colour_map(np.ones(()))).all(-1)
    expected = np.zeros(image, bool)
    for y in range(image[0]):
        for x in range(image[1]):
            centre = ((y + 0.5) * cells[0] / image[0], (x + 0.5) * cells[1] / image[1])
            expected[y, x] = hot[0] <= centre[0] < hot[0] + 1 and hot[1] <= centre[1] < hot[1] + 1
    assert expected.any()
    assert (lit == expected).all()


def test_the_figure_holds_the_image_and_the_blend_on_a_fixed_scale() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    map = (0.5 * rng.random((16, 16))).astype(np.float32)
    canvas = np.asarray(Image.open(io.BytesIO(overlay_figure(image, map, anchors=np.linspace(0, 1, 20).tolist()))))
    side = PANEL // 32 * 32
    left = canvas[MARGIN : MARGIN + side, MARGIN : MARGIN + side]
    assert (left == image.repeat(PANEL // 32, 0).repeat(PANEL // 32, 1)).all()
    start = MARGIN + side + GAP
    over = canvas[MARGIN : MARGIN + side, start : start + side][7::14, 7::14]
    cell = map.repeat(2, 0).repeat(2, 1)
    expected = ALPHA * colour_map(cell) + (1 - ALPHA) * (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    assert np.abs(over - expected).max() <= 0.5 + 1e-6
    own = np.asarray(Image.open(io.BytesIO(overlay_figure(image, map, scale="image"))))[
        MARGIN : MARGIN + side, start : start + side
    ]
    assert np.abs(own[7::14, 7::14].astype(int) - over).max() > 20  # rescaled only when asked


def test_anchors_of_the_map_are_marked_on_the_bar() -> None:
    image, map = np.full((32, 32, 3), 90, np.uint8), np.full((8, 8), 0.5, np.float32)
    map[0, 0] = 1.0
    anchors = [0.0, 0.25, 0.5, 0.75, 1.0]
    canvas = np.asarray(Image.open(io.BytesIO(overlay_figure(image, map, anchors=anchors))).convert("L")).astype(int)
    beside_the_bar = MARGIN + 2 * PANEL + 2 * GAP + 18 + 3
    ticks = np.flatnonzero(canvas[MARGIN : MARGIN + PANEL, beside_the_bar] < 128)
    assert ticks.tolist() == [0, round(0.5 * (PANEL - 1))]


@pytest.mark.parametrize("shape", [(32, 32), (17, 301), (1200, 800), (1, 1)])
def test_overlays_of_any_size(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    path = save_overlay(
        tmp_path / "o.png", image, np.full((3, 3), 0.4, np.float32), "a long name " * 30 + "\n<b>", 0.934, scale="image"
    )
    with Image.open(path) as opened:
        assert max(opened.size) < 1400


def test_bad_overlays_are_refused() -> None:
    image, map = np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="expected \\(H, W, 3\\) uint8"):
        overlay_figure(image.astype(np.float32), map)
    with pytest.raises(ValueError, match="expected \\(h, w\\)"):
        overlay_figure(image, map[None])
    with pytest.raises(ValueError, match="1 values that are not finite"):
        overlay_figure(image, np.array([[0.0, np.nan]], np.float32))
    with pytest.raises(ValueError, match="'fixed' or 'image'"):
        overlay_figure(image, map, scale="auto")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vmax must be above vmin"):
        overlay_figure(image, map, vmin=1.0, vmax=1.0)


def test_the_colour_map_grows_lighter_all_the_way() -> None:
    luma = colour_map(np.linspace(0, 1, 200)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma) > -0.6).all()
    assert luma[-1] > luma[0] + 200
    assert (colour_map(np.array([-3.0, 7.0])) == colour_map(np.array([0.0, 1.0]))).all()


# ---------------------------------------------------------------------------------------------------------------- figures


def svg_text(svg: str) -> list[str]:
    """Texts of a figure; parsing it also proves it well-formed."""
    return [node.text or "" for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_figures_are_well_formed_and_say_their_numbers() -> None:
    assert "loss (nats)" in svg_text(curves("loss", {"train": [(1, 2.0), (2, 1.0)]}, unit="nats"))
    assert any("log scale" in text for text in svg_text(curves("rate", {"train": [(1, 5000.0), (2, 3.0)]})))
    for points in ([], [(1, 0.0)], [(1, float("nan")), (2, -1.0)], [(1, 1e-9), (2, 1e9)]):
        svg_text(curves("odd", {"train": points}))
        svg_text(information_plane([(epoch, rate, 0.3) for epoch, rate in points], 3.3))
    assert "label entropy 3.32" in svg_text(information_plane([(1, 20.0, 2.0), (2, 8.0, 0.5)], 3.32))
    svg = anchor_bars([0.0, 0.5, 1.1], [3, 0, 1])
    assert svg.count("<rect") == 2
    assert "2 of them in use" in svg
    assert "75.00 %" in svg.replace("\u00a0", " ")
    assert svg_text(ablation_bars({"mean": 0.2, "original": 0.05, "<new>": 0.3}))[0] == "the map as it is"
    assert "&lt;new&gt;" in ablation_bars({"original": 0.05, "<new>": 0.3})
    assert "88.3\u00a0%" in svg_text(interval_bars("Pointing", [("AIB", "#0072b2", (0.883, 0.87, 0.9))]))
    svg_text(reliability([{"low": 0.0, "high": 1.0, "count": 0, "confidence": 0.0, "accuracy": 0.0}]))
    assert svg_text(colour_bar([-0.1, 0.0, 0.3, 1.0]))[1] == "0.3"


def test_loss_curve_points_lie_where_they_should() -> None:
    root = ElementTree.fromstring(curves("error", {"train": [(1, 0.5), (3, 0.25)]}, share=True))
    line = next(root.iter("{http://www.w3.org/2000/svg}polyline")).get("points", "")
    (x1, y1), (x2, y2) = ([float(v) for v in pair.split(",")] for pair in line.split())
    zero = 200 - 42
    assert x2 > x1
    assert (zero - y1) / (zero - y2) == pytest.approx(2.0, rel=0.01)


def test_confusion_is_readable_at_ten_and_at_a_hundred() -> None:
    ten = np.diag(np.full(10, 7)) + np.eye(10, k=1, dtype=int) * 3
    svg = confusion_figure(ten.tolist(), [f"class <{index}>" for index in range(10)])
    assert svg_text(svg).count("7") == 10
    assert svg_text(svg).count("3") == 9
    assert "class &lt;0&gt; taken for class &lt;1&gt;: 3" in svg
    hundred = np.random.default_rng(0).integers(0, 9, (100, 100))
    svg = confusion_figure(hundred.tolist(), [str(index) for index in range(100)])
    assert "data:image/png" in svg
    assert len(svg) < 60_000
    assert svg_text(svg).count("90") == 2


def test_worst_pairs_are_the_most_frequent_mistakes() -> None:
    assert worst_pairs([[9, 1, 0], [4, 5, 1], [0, 0, 3]], ["a", "b", "c"], limit=2) == [("b", "a", 4, 0.4), ("a", "b", 1, 0.1)]
    assert worst_pairs([[9, 0], [0, 9]], ["a", "b"]) == []


def test_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    assert sorted(outline_path(mask).replace("M", "|M").split("|")[1:]) == ["M2 1H4", "M2 1V3", "M2 3H4", "M4 1V3"]
    assert outline_path(np.zeros((3, 3), bool)) == ""


def test_paired_difference_agrees_with_the_bootstrap(tmp_path: Path) -> None:
    first, second = read_run(make_run(tmp_path / "a")), read_run(make_run(tmp_path / "b", "plain", seed=3))
    found = paired_difference(first, second)
    assert found is not None
    assert first.labels is not None
    assert first.predictions is not None
    assert second.predictions is not None
    errors = np.stack([(run.predictions != run.labels).astype(float) for run in (first, second)])
    rng = np.random.default_rng(0)
    draws = [np.subtract(*errors[::-1, rng.integers(0, 500, 500)].mean(1)) for _ in range(2000)]
    assert found[0] == pytest.approx(errors[1].mean() - errors[0].mean())
    assert found[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.005)
    np.savez(tmp_path / "b" / "eval" / "test.npz", labels=(first.labels + 1) % 10, predictions=second.predictions)
    assert paired_difference(first, read_run(tmp_path / "b")) is None  # other images


def test_comparison_table_names_what_each_run_is_compared_by(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a")),
        read_run(make_run(tmp_path / "b", "plain")),
        read_run(make_run(tmp_path / "c", evaluated=False)),
    ]
    rows = {row[0]: [cell.replace("\u00a0", " ") for cell in row[1:]] for row in comparison_table(runs).rows}
    assert rows["Pointing game"] == ["88.3 % (86.3–90.3 %), AIB", "79.0 % (77.0–81.0 %), Grad-CAM (block 4)", "–"]
    assert rows["Evaluated on"] == ["500 test images", "500 test images", "not evaluated yet"]
    assert rows["Rate, bits"] == ["8.3", "–", "–"]
    assert rows["Error less that of a, in points"] == ["–", "+0.0 (+0.0 to +0.0)", "–"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(412_356, "412 k"), (19_712_345, "19.7 M"), (999_960, "1.00 M"), (12_380_000_000, "12.4 G"), (7, "7"), (0, "0"), (None, "–")],
)
def test_counts_are_written_to_three_digits(number: float | None, text: str) -> None:
    assert compact(number).replace("\u00a0", " ") == text


def test_small_helpers() -> None:
    assert percent(float("nan")) == percent(None) == "–"
    assert nice_ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(3, 3) == [3]
    assert (
        element("a", "x", class_="k", stroke_width=1.5, none=None, v='"<') == '<a class="k" stroke-width="1.5" v="&quot;&lt;">x</a>'
    )


@given(values=st.lists(st.floats(-1, 2), max_size=60), limit=st.integers(2, 8))
@settings(max_examples=80, deadline=None)
def test_labels_are_few_apart_and_keep_the_ends(values: list[float], limit: int) -> None:
    kept = thin_labels(values, limit, 0.05)
    assert len(kept) <= limit
    assert set(kept) <= set(values)
    assert all(b - a >= 0.0499 for a, b in itertools.pairwise(kept))
    if values and max(values) - min(values) > 0.05:
        assert (kept[0], kept[-1]) == (min(values), max(values))


def test_a_post_hoc_map_of_tiny_values_is_shown_on_its_own_scale() -> None:
    from aib.report.gallery import _own_scale

    map = np.array([[0.0, 1e-6], [2e-6, 4e-6]], np.float32)
    np.testing.assert_allclose(_own_scale(map), [[0, 0.25], [0.5, 1]])
    np.testing.assert_array_equal(_own_scale(np.zeros((2, 2), np.float32)), np.zeros((2, 2)))  # Grad-CAM found nothing: stays dark
