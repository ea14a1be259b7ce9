"""Columns that users add to the table ``samples``: which names, types and values they may have."""

from __future__ import annotations

import re
from typing import Final

from vedastore.spec.arrays import DIMENSIONS
from vedastore.spec.tables import SAMPLES

COLUMNS_LIMIT: Final = 64
TEXT_BYTES: Final = 4096
"""A text is not longer, as UTF-8: the texts of a row group are read together."""
KINDS: Final = ("bool", "int64", "double", "string")
"""Types, by their names in Arrow; of any of them a value may be missing."""
NAMES: Final = "a letter, then up to 62 letters, digits and underscores; no name of the format, no word of SQL"

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_DATASET: Final = frozenset(
    {*DIMENSIONS, "image", "mask", "affine", "class", "edge", "box", "boxes", "box_class", "box_count", "spatial_ref"}
)
"""What else is beside the columns of ``samples`` where they are coordinates."""
_TAKEN: Final = frozenset({*SAMPLES, *_DATASET, "samples"})


def is_column(name: object) -> bool:
    """Tell whether a column of users may have a name; case does not matter, as in SQL.

    >>> is_column("ndvi"), is_column("Ndvi_2"), is_column("ID"), is_column("a b")
    (True, True, False, False)
    """
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name.lower() not in _TAKEN
