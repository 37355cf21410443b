"""The built wheel holds the whole package, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest

import aib

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, built with what is installed."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture
def outside(wheel: Path, tmp_path: Path) -> Callable[..., str]:
    """Run Python with the unpacked wheel instead of the checkout, in another folder; its standard output."""
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(unpacked), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import aib; print(aib.__file__)").strip() == str(unpacked / "aib" / "__init__.py")
    return run


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    wanted = {
        path.relative_to(SOURCE).as_posix() for path in (SOURCE / "aib").rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == wanted
    for needed in ("aib/py.typed", "aib/recipes/clutter/vgg_s_aib_qt.toml"):
        assert needed in found
    assert any(name.startswith("aib/report/templates/") for name in found)


def test_its_metadata_are_those_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"aib-{aib.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        assert "aib = aib.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert b"The AIB authors" in archive.read(f"{info}/licenses/LICENSE")
    assert metadata["Version"] == aib.__version__
    assert metadata["License-Expression"] == "MIT"
    assert not [line for line in metadata.get_all("Requires-Dist", []) if "@" in line or "://" in line]


def test_version_is_the_same_everywhere() -> None:
    assert f"\nversion: {aib.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{aib.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_recipes_work_from_the_wheel(outside: Callable[..., str]) -> None:
    listed = outside("-m", "aib", "recipes")
    names = [path.relative_to(SOURCE / "aib/recipes").with_suffix("").as_posix() for path in SOURCE.rglob("*.toml")]
    assert names
    assert [name for name in names if name not in listed] == []
    assert "[optim]" in outside("-m", "aib", "recipes", "clutter/vgg_s_aib_qt")


def test_the_report_finds_its_templates_in_the_wheel(outside: Callable[..., str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    card = {
        "format": 1, "name": "vgg_s", "data": "clutter", "num_classes": 2, "class_names": ["cat", "dog"], "mean": [0.5] * 3,
        "std": [0.2] * 3, "image_size": [32, 32], "channels": 3, "site": None, "parameters": 1000, "macs": 2000, "options": {},
        "epoch": 1,
    }  # fmt: skip
    epoch = {
        "epoch": 1, "step": 1, "lr": 0.1, "beta": 0.0, "seconds": 1.0, "images_per_second": 10.0,
        "train": {"loss": 0.7, "cross_entropy": 0.7, "error": 0.5}, "val": {"error": 0.5, "cross_entropy": 0.7},
    }  # fmt: skip
    (run / "config.toml").write_text('[data]\ndata = "clutter"\n', encoding="utf-8")
    (run / "model.json").write_text(json.dumps(card), encoding="utf-8")
    (run / "metrics.jsonl").write_text(json.dumps(epoch) + "\n", encoding="utf-8")
    page = tmp_path / "page.html"
    outside("-m", "aib", "report", str(run), "--out", str(page))
    text = page.read_text(encoding="utf-8")
    assert "</html>" in text
    assert "vgg_s" in text
