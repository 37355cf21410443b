"""Data sets: one bundle type, and `open_data` for all of them.

Names are resolved on first use, so that asking which data sets there are does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aib.data.bundle import Batch as Batch
    from aib.data.bundle import DataBundle as DataBundle
    from aib.data.bundle import Split as Split
    from aib.data.bundle import TensorSplit as TensorSplit
    from aib.data.classes import match_classes as match_classes
    from aib.data.folder import FileSplit as FileSplit
    from aib.data.images import read_image as read_image
    from aib.data.open import DATA_NAMES as DATA_NAMES
    from aib.data.open import open_data as open_data

_HOMES = {
    "Batch": "bundle",
    "DataBundle": "bundle",
    "Split": "bundle",
    "TensorSplit": "bundle",
    "match_classes": "classes",
    "FileSplit": "folder",
    "read_image": "images",
    "DATA_NAMES": "open",
    "open_data": "open",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aib.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"aib.data.{_HOMES[name]}"), name)
