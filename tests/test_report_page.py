"""The report is one page that loads nothing, shows the numbers of its runs, and sets several runs side by side."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aib.report import build_report, read_run
from aib.report.compare import comparison_table, paired_difference
from aib.report.style import colour_map
from report_folder import _json, _scores, make_run

SCRIPT = "<script>alert('x')</script>"


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


@pytest.mark.parametrize("relative", [False, True, None])
def test_the_page_says_what_the_values_of_a_map_are(relative: bool | None, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluation = json.loads((run / "eval" / "test.json").read_text())
    _json(run / "eval" / "test.json", {**evaluation, **({} if relative is None else {"map_relative": relative})})
    text = page_of(build_report([run], tmp_path / "report.html")).text
    assert ("divided by its own greatest value, image by image" in text) == (relative is True)
    assert ("the scores that the network attends with" in text) == (relative is False)
    assert "nothing is stretched" not in text


def test_explainers_scales_are_spoken_of_where_there_are_any(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Post-hoc maps" in page_of(build_report([run], tmp_path / "report.html")).text
    file = run / "eval" / "test-gallery.json"
    _json(file, [{key: value for key, value in item.items() if key != "others"} for item in json.loads(file.read_text())])
    assert "Post-hoc maps" not in page_of(build_report([run], tmp_path / "report.html")).text


def test_images_without_a_mask_are_not_counted_as_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    n = json.loads((run / "eval" / "test.json").read_text())["localization"]["n"]
    text = page_of(build_report([run], tmp_path / "report.html")).text
    assert f"Measured on {n - 3:,} images; 3 images with an empty mask are left out." in text


def test_only_long_tables_scroll_up_and_down(tmp_path: Path) -> None:
    ten = build_report([make_run(tmp_path / "ten")], tmp_path / "ten.html").read_text()
    many = build_report([make_run(tmp_path / "many", names=[f"class {i}" for i in range(40)])], tmp_path / "many.html").read_text()
    assert ten.count('class="scroll long"') == 0
    assert many.count('class="scroll long"') == 1  # that of the classes


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
