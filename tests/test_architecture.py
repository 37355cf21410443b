"""The house: a file imports only from the floors below it, wherever in the file the import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aib

ROOT = Path(aib.__file__).parent
PACKAGE = "aib"

FLOORS: dict[str, float] = {
    "errors": 0,
    "functional": 1,
    "saved": 1,
    "anchors": 2,
    "attention": 2,
    "bottleneck": 2,
    "backbones": 3.0,  # within floor 3: classifier and backbones, then loss and sites, then attaching
    "classifier": 3.0,
    "folding": 3.1,
    "loss": 3.1,
    "sites": 3.1,
    "attaching": 3.2,
    "models": 4,
    "data": 5,
    "interpret": 6,
    "train": 7.0,
    "recipes": 7.1,  # read into the configuration of a training run
    "report": 8,
    "paper": 8.1,
    "bench": 8.2,
    "commands": 9.0,  # one file a verb; cli finds them by name
    "cli": 9.1,
    "__main__": 9.2,
}
"""Floor of each module and subpackage of `aib`. A new one is placed here, and in ARCHITECTURE.md."""

ONLY: dict[str, set[str]] = {
    "data": {"errors", "functional", "data"},  # knows no model
    "report": {"errors", "report"},  # works from the files of a run folder
}
"""Subpackages that see less than everything below them."""

NO_TORCH = {"report"}
TORCH_USERS = {"torch", "torchvision", "torchmetrics", "timm", "captum", "lightning", "lightning_fabric", "safetensors"}
"""Packages that import torch; of safetensors only its ``torch`` module does."""


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name below `aib`, as in ``models.vgg``; packages end in ``.__init__``."""
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imported(source: str, module: str) -> Iterator[str]:
    """Absolute dotted names that ``source`` imports, lazily or not, as the file of the package's ``module``."""
    parents = [PACKAGE, *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # ``from aib import x`` may mean the module x; deeper names are told by their module already
            yield from (f"{name}.{alias.name}" for alias in node.names) if name == PACKAGE else [name]


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports of ``source``, were it the file of ``module``."""
    top = module.split(".")[0]
    if top not in FLOORS:
        return [f"{module} stands on no floor: place {top!r} in FLOORS of {Path(__file__).name}"]
    found = []
    for name in imported(source, module):
        package, *rest = name.split(".")
        if package != PACKAGE:
            if top in NO_TORCH and package in TORCH_USERS and name not in ("safetensors", "safetensors.numpy"):
                found.append(f"{module} imports {name}, which imports torch")
            continue
        target = rest[0] if rest else ""
        if target == "__version__":
            continue
        if target not in FLOORS:
            found.append(f"{module} imports {name}: name the module on its floor, not the top of the package")
        elif target != top and FLOORS[target] >= FLOORS[top]:
            found.append(f"{module} (floor {FLOORS[top]}) imports {name} (floor {FLOORS[target]})")
        elif top in ONLY and target not in ONLY[top]:
            found.append(f"{module} imports {name}; {top} may import {', '.join(sorted(ONLY[top]))} only")
    return found


@pytest.mark.parametrize("module", [module for module in modules() if module != "__init__"])
def test_a_file_imports_only_from_the_floors_below(module: str) -> None:
    assert violations(modules()[module].read_text(encoding="utf-8"), module) == []


def test_no_module_imports_itself_through_others() -> None:
    # floors forbid circles between them; this finds those inside a subpackage
    files = modules()
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # a lazy import may close a circle
            for name in imported(ast.unparse(node), module) if isinstance(node, ast.Import | ast.ImportFrom) else ():
                below = name.removeprefix(f"{PACKAGE}.")
                if below in files:
                    graph[module].add(below)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert "anchors" in graph["classifier"]  # the graph is not empty


@pytest.mark.parametrize("module", ["models.vgg", "models.registry", "classifier", "interpret.scores", "data.folder"])
def test_models_and_data_know_no_configuration(module: str) -> None:
    assert violations("from aib.train.config import TrainConfig", module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("functional", "from aib.anchors import AnchorQuantizer"),
        ("anchors", "from aib.attention import SpatialAttention"),  # the same floor
        ("classifier", "def later():\n    from aib.loss import objective"),  # lazily
        ("loss", "from aib.attaching import attach"),
        ("loss", "from .models import vgg"),
        ("models.vgg", "from ..data import bundle"),
        ("models.vgg", "if TYPE_CHECKING:\n    import aib.train.loop"),
        ("data.folder", "from aib.classifier import Details"),
        ("data.folder", "from aib.models import create_model"),
        ("interpret.edits", "from aib.train import evaluate"),
        ("interpret.edits", "from aib import create_model"),  # hides which module it means
        ("interpret.edits", "import aib"),
        ("report.html", "from aib.functional import nats_to_bits"),
        ("report.html", "def later():\n    import torch"),
        ("report.html", "from safetensors.torch import load_file"),
        ("train.loop", "from aib.report import write_report"),
        ("train.loop", "from aib.cli import main"),
        ("novelty", "import math"),
        ("errors", "from aib.functional import modulate"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attaching", "from aib.sites import list_sites\nfrom aib.classifier import Details\nimport aib.errors"),
        ("models.vgg", "from aib.models.registry import register\nfrom . import wrn\nfrom .registry import register"),
        ("data.folder", "import torch\nfrom aib.data.bundle import Bundle\nfrom ..functional import resize_maps"),
        ("interpret.edits", "import captum\nfrom aib.data import bundle\nfrom aib import __version__"),
        ("report.html", "import numpy\nfrom safetensors.numpy import load_file\nfrom . import plots"),
        ("cli", "from aib.report import write_report\nfrom aib import errors"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_a_file_on_no_floor_is_told_where_to_go() -> None:
    assert violations("", "novelty") == ["novelty stands on no floor: place 'novelty' in FLOORS of test_architecture.py"]


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
"""What builds any object that a file asks for."""


def unsafe(source: str) -> list[str]:
    """What in ``source`` would run code of a file, or unpack an archive wherever the archive says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"line {node.lineno} imports {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        wanted = {
            "torch.load": ("weights_only", "True"), "load_state_dict": ("weights_only", "True"),
            "np.load": ("allow_pickle", "False"),
        }.get(called)  # fmt: skip
        if wanted is not None and given.get(wanted[0]) != wanted[1]:
            found.append(f"line {node.lineno} calls {called} without {'='.join(wanted)}")
        if called in ("eval", "exec", "__import__", "os.system", "shutil.unpack_archive", "extract_archive"):
            found.append(f"line {node.lineno} calls {called}")
        if called.endswith((".extractall", ".extract")) or given.get("shell", "False") != "False":
            found.append(f"line {node.lineno} calls {called} unsafely")
    return found


@pytest.mark.parametrize("module", modules())
def test_nothing_runs_code_of_a_file(module: str) -> None:
    assert unsafe(modules()[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load_state_dict(path, device='cpu')",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "def later():\n    import pickle",
        "from yaml import load",
        "eval('1')",
        "exec(text)",
        "archive.extractall(folder)",
        "extract_archive(a, b)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_runs_code_of_a_file_is_seen(source: str) -> None:
    assert len(unsafe(source)) == 1


def test_weights_are_read_somewhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in modules().values())
    assert min(text.count(call) for call in ("torch.load(", "np.load(", "load_state_dict(str(")) > 0
