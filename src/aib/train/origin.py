"""Where a run was started and on what data: ``origin.json``, so that it can be used from any folder and never on other data unseen.

A run's configuration keeps paths as they were typed. A relative one is looked up where the run was started, then in the working
directory; ``--root`` names another place. The data found there must be those of the run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from aib.data.bundle import DataBundle
from aib.data.fingerprint import fingerprint, is_fingerprint, other_split
from aib.data.open import DATA_NAMES, is_there
from aib.data.texts import printable, typed_path
from aib.train.config import DataConfig
from aib.train.run_folder import RunFolder

__all__ = ["RECIPE", "check_same_data", "keep_origin", "locate_data", "locate_root", "same_data"]

ORIGIN = "origin.json"
RECIPE = "recipe.toml"
"""The recipe as it was when the run began, where it was given as a path: that file may change or go."""


def keep_origin(folder: RunFolder, bundle: DataBundle | None) -> None:
    """Write ``origin.json`` of a new run: the working directory and the fingerprint of ``bundle``; and ``recipe.toml``."""
    content: dict[str, Any] = {"folder": str(Path.cwd())}
    if bundle is not None:
        content["data"] = fingerprint(bundle)
    folder.write_json(ORIGIN, content)
    recipe = folder.config.run.recipe or ""
    if recipe.endswith(".toml") and (path := Path(recipe)).is_file():
        folder.write_text(RECIPE, path.read_text(encoding="utf-8"))


def locate_data(folder: RunFolder, data: DataConfig, root: str | None = None) -> DataConfig:
    """``data`` of the run in ``folder`` with the place where they are now.

    Args:
        folder: of the run.
        data: of its configuration.
        root: the folder that holds them; by default they are looked for.

    Raises:
        ValueError: they are nowhere, and not to be downloaded.
    """
    if data.data in DATA_NAMES:
        found = locate_root(folder, data.data, root)
        if data.download or is_there(data.data, found):
            return replace(data, root=str(found))
        places = [str(place) for place in _places(folder, data.root, root)]
        way = f"say where with --root, or fetch it with --download{' into one of them' if len(places) > 1 else ''}"
    else:
        wanted = typed_path(data.data)
        tried = [typed_path(root).absolute() / wanted.name] if root is not None else _places(folder, data.data)
        for path in tried:
            if path.exists():
                return replace(data, data=str(path))
        places, way = [str(path) for path in tried], f"name the folder that holds {wanted.name} with --root"
    raise ValueError(printable(f"the run's data, {data.data}, are not in {' nor in '.join(places)}; {way}"))


def locate_root(folder: RunFolder, name: str, root: str | None = None) -> Path:
    """The folder of data sets that holds ``name``: ``root``, or else the run's own as it is where the run was started, or here."""
    places = _places(folder, folder.config.data.root, root)
    return next((place for place in places if is_there(name, place)), places[-1])


def _places(folder: RunFolder, typed: str, instead: str | None = None) -> list[Path]:
    """Absolute paths that ``typed`` may mean, the run's own first; of ``instead``, where it is given, the one from here."""
    if instead is not None:
        return [typed_path(instead).absolute()]
    path, began = typed_path(typed), _origin(folder).get("folder")
    places = [Path(began) / path] if isinstance(began, str) else []
    return list(dict.fromkeys([*places, path.absolute()]))


def same_data(folder: RunFolder, bundle: DataBundle) -> bool | None:
    """Whether ``bundle`` has the run's test images; None where the run does not know (it is older than ``origin.json``)."""
    kept = _origin(folder).get("data")
    return None if kept is None else other_split(kept, bundle) != "test"


def check_same_data(folder: RunFolder, bundle: DataBundle, source: str, advice: str) -> None:
    """Refuse other data than the run was trained on; a run that does not know its own takes any.

    Raises:
        ValueError: labels or images differ; ``source`` says where they are, ``advice`` what to do.
    """
    kept = _origin(folder).get("data")
    if kept is None or (split := other_split(kept, bundle)) is None:
        return
    then, now = sum(kept[split]["counts"]), len(bundle.split(split))
    how = f"{now} {split} images, not {then}" if now != then else f"other {split} images or labels"
    raise ValueError(f"{source} holds other data than {folder.path} was trained on ({how}); {advice}")


def _origin(folder: RunFolder) -> dict[str, Any]:
    found = folder.read_json(ORIGIN) if folder.has(ORIGIN) else {}
    if not isinstance(found, dict):
        raise ValueError(f"{folder.path / ORIGIN} is damaged: it holds no table")
    if found.get("data") is not None and not is_fingerprint(found["data"]):
        raise ValueError(f"{folder.path / ORIGIN} is damaged: its data are not what aib writes")
    return found
