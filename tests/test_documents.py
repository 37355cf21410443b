"""The documents speak of files, floors and packages that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from aib.classifier import AttentiveClassifier
from aib.data.clutter import PHOTOGRAPHS
from aib.models import create_model
from test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "THIRD_PARTY.md",
    "docs/log.md",
    "docs/many_machines.md",
    "docs/performance.md",
)
PLACES = ("", "src/aib", "tests")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)")
FILE = re.compile(r"`([\w./*-]+\.(?:py|toml|txt|md|cff))`")
NOT_HERE = {"config.toml", "skipped.txt", "commands/VERB.py"}  # of a run, of a verb to come


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def missing_links(text: str, folder: Path) -> list[str]:
    """Relative links and pictures that lead nowhere."""
    targets = [first or second for first, second in LINK.findall(text)]
    return [t for t in targets if "://" not in t and not t.startswith("mailto:") and not (folder / t).exists()]


def missing_files(text: str) -> list[str]:
    """Files named in backticks that are neither at the top, in the package nor among the tests."""
    return [name for name in FILE.findall(text) if name not in NOT_HERE and not any(any((ROOT / p).glob(name)) for p in PLACES)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    assert missing_links(read(name), (ROOT / name).parent) == []


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name: str) -> None:
    assert missing_files(read(name)) == []


def test_what_is_missing_would_be_seen() -> None:
    text = 'see [a](docs/none.md), [b](LICENSE), <img src="docs/none.png">, `train/none.py`, `test_none_*.py` and `loss.py`'
    assert missing_links(text, ROOT) == ["docs/none.md", "docs/none.png"]
    assert missing_files(text) == ["train/none.py", "test_none_*.py"]


def test_every_module_stands_on_its_floor_in_the_architecture() -> None:
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", read("ARCHITECTURE.md"), re.MULTILINE)
    told = {name.removesuffix(".py").rstrip("/"): int(floor) for floor, names in rows for name in re.findall(r"`([^`]+)`", names)}
    present = {path.stem for path in (ROOT / "src/aib").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert told == {name: int(FLOORS[name]) for name in present - {"__init__"}}


def test_the_shapes_in_the_architecture_are_those_of_the_networks() -> None:
    rows = re.findall(r"`(\w+_aib_qt)` \| (\d+)×(\d+)×(\d+) \| (\d+) \| (\d+) \| (\d+) \|", read("ARCHITECTURE.md"))
    assert len(rows) >= 3
    for name, *told in rows:
        with torch.device("meta"):
            model = create_model(name, num_classes=10).eval()
            details = model.forward_details(torch.zeros(2, 3, 32, 32))
        assert isinstance(model, AttentiveClassifier)
        assert details.features is not None
        assert model.quantizer is not None
        bottleneck = model.bottleneck
        numbers = [*details.features.shape[1:], bottleneck.linear.in_features, bottleneck.latent_dim, model.quantizer.num_anchors]
        assert numbers == [int(number) for number in told], name


def test_the_architecture_stays_on_one_page() -> None:
    assert read("ARCHITECTURE.md").count("\n") <= 110


def test_every_package_and_picture_of_others_is_credited() -> None:
    text = read("THIRD_PARTY.md")
    project = tomllib.loads(read("pyproject.toml"))["project"]
    packages = [Requirement(line).name for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    libraries = text[text.index("## Libraries") :]
    assert [name for name in packages if not re.search(rf"\b{name}\b", libraries)] == []
    assert [name for names in PHOTOGRAPHS.values() for name in names if f"`{name}`" not in text] == []
