"""The value that a TIFF calls nodata."""

from __future__ import annotations

from typing import Any

import numpy as np


def parse_nodata(text: str | None, dtype: str) -> Any:
    """Return a TIFF's nodata text as a value of the image's type; None where that type has no such value.

    >>> parse_nodata("255.0", "uint8"), parse_nodata("-9999", "uint8"), parse_nodata("nan", "float32")
    (np.uint8(255), None, np.float32(nan))
    """
    if text is None:
        return None
    kind = np.dtype(dtype)
    try:
        if kind.kind in "iu":
            number = _parse_whole(text)
            within = number is not None and np.iinfo(kind).min <= number <= np.iinfo(kind).max
            return kind.type(number) if within else None
        with np.errstate(over="ignore"):
            return kind.type(float(text))
    except ValueError:
        return None


def _parse_whole(text: str) -> int | None:
    try:
        return int(text)  # no double has all numbers of 64 bits
    except ValueError:
        number = float(text)
        return int(number) if number.is_integer() else None
