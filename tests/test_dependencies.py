"""pyproject.toml and constraints.txt against what the code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
INTEROP = [Requirement(line) for line in PROJECT["optional-dependencies"]["interop"]]
BENCH = [Requirement(line) for line in PROJECT["optional-dependencies"]["bench"]]
PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)")


def imported_packages(folder: Path) -> set[str]:
    """Distributions that the files under ``folder`` import, lazily or not; the standard library and the package itself left out."""
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    homes = packages_distributions()
    own = {"aib", *(path.stem for path in folder.glob("*.py"))}
    outside = modules - set(sys.stdlib_module_names) - own - {"__main__"}
    return {canonicalize_name(homes[module][0]) if module in homes else module for module in outside}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pins() -> dict[str, str]:
    """Name to version of every line of constraints.txt that is not a comment."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = PIN.fullmatch(line)
            assert pin, f"not a plain pin: {line}"  # an address, a hash, a local version such as +cu130, an extra
            found[pin[1]] = pin[2]
    return found


def test_every_import_of_the_package_is_declared_and_nothing_else() -> None:
    assert imported_packages(ROOT / "src") == names(RUNTIME)


def test_every_import_of_the_tests_is_declared() -> None:
    others = {"huggingface-hub", "pytorch-grad-cam"}  # the one comes with timm, the other is a module of grad-cam
    assert imported_packages(ROOT / "tests") - names(RUNTIME) - names(DEV) - names(INTEROP) <= others


@pytest.mark.parametrize("requirement", [*RUNTIME, *DEV, *INTEROP, *BENCH], ids=lambda requirement: requirement.name)
def test_the_pinned_version_is_an_allowed_one(requirement: Requirement) -> None:
    pinned = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier, f"{requirement.name} has no lower bound"
    assert requirement.specifier.contains(pinned)


def test_malicious_uploads_are_excluded() -> None:
    fabric = next(r for r in RUNTIME if r.name == "lightning-fabric")
    assert not any(fabric.specifier.contains(version) for version in ("2.6.2", "2.6.3"))


def test_what_torch_pins_itself_is_left_to_it() -> None:
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]
