"""The value that a TIFF calls nodata."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

_FLOAT_LIMIT: Final = 2**1023


def parse_nodata(text: str | None, dtype: str) -> Any:
    """Return a TIFF's nodata text as a value of the image's type, or as a float where that type has no such value."""
    if text is None:
        return None
    kind = np.dtype(dtype)
    try:
        number = int(text) if kind.kind in "iu" else float(text)
        if kind.kind in "iu" and not np.iinfo(kind).min <= number <= np.iinfo(kind).max:
            return float(number) if abs(number) < _FLOAT_LIMIT else None
        return kind.type(number) if kind.kind in "iuf" else number
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return None
        return None if math.isinf(value) and kind.kind in "iu" else value
