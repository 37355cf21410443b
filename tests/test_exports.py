"""The top of the package: light to import, and every name there is what its home defines, in whatever order things are imported."""

from __future__ import annotations

import importlib
import importlib.resources
import pkgutil
import subprocess
import sys

import pytest

import aib

NAMES = [name for name in aib.__all__ if name != "__version__"]


def run_python(code: str) -> str:
    """Standard output of ``code`` in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("code", ["import aib; dir(aib)", "import aib.cli; aib.cli.main(['--help'])"])
def test_the_package_and_its_help_are_light(code: str) -> None:
    heavy = "{'torch', 'numpy', 'timm', 'sklearn', 'skimage', 'matplotlib', 'captum', 'tyro', 'rich', 'PIL'}"
    assert run_python(f"{code}; import sys; print(sorted({heavy} & set(sys.modules)))").splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_its_home(name: str) -> None:
    value = getattr(aib, name)
    assert callable(value)
    assert value.__name__ == name
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_no_name_is_hidden_by_a_module_of_the_package() -> None:
    # importing aib.x sets the attribute x of the package: a function of that name would be gone from then on
    modules = {module.name for module in pkgutil.iter_modules(aib.__path__)}
    assert {"attaching", "loss", "models"} <= modules  # the list is not empty
    assert modules & set(aib.__all__) == set()


@pytest.mark.parametrize(
    "imports", ["import aib.attaching, aib.loss, aib.models.build", "from aib import attach, objective; import aib.loss"]
)
def test_functions_stay_functions_whatever_was_imported_before(imports: str) -> None:
    code = f"{imports}; import aib; print([callable(getattr(aib, name)) for name in ('attach', 'objective', 'list_sites')])"
    assert run_python(code) == "[True, True, True]"


def test_all_names_are_listed_and_typed() -> None:
    source = (importlib.resources.files("aib") / "__init__.py").read_text(encoding="utf-8")
    assert dir(aib) == sorted(aib.__all__)
    for name in NAMES:
        assert f" import {name} as {name}\n" in source  # for type checkers and editors, which do not run __getattr__


def test_an_unknown_name_is_an_attribute_error_that_knows_the_near_one() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat_model'") as caught:
        _ = aib.creat_model
    assert caught.value.name == "creat_model"
    assert caught.value.obj is aib
    assert not hasattr(aib, "train_everything")
