"""Labelled Earth-observation chips: Veda releases as Zarr stores, and back byte for byte.

>>> import vedastore as vs
>>> sorted(vs.__all__)
['Batches', 'Collection', 'Limits', 'Sample', 'clean', 'convert', 'errors', 'open', 'repair']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vedastore import errors
    from vedastore.model import Limits
    from vedastore.views.batches import Batches
    from vedastore.views.collection import Collection
    from vedastore.views.sample import Sample
    from vedastore.views.stores import clean, convert, open, repair

__all__ = ["Batches", "Collection", "Limits", "Sample", "clean", "convert", "errors", "open", "repair"]

_HOMES = {
    "Batches": "vedastore.views.batches",
    "Collection": "vedastore.views.collection",
    "Limits": "vedastore.model",
    "Sample": "vedastore.views.sample",
    "clean": "vedastore.views.stores",
    "convert": "vedastore.views.stores",
    "open": "vedastore.views.stores",
    "repair": "vedastore.views.stores",
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use, so that the import itself costs next to nothing."""
    if name == "errors":
        return import_module("vedastore.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'vedastore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
