"""JSON from strangers: bytes in, values out, and nothing that means two things.

Source: https://www.rfc-editor.org/rfc/rfc8259 and https://www.rfc-editor.org/rfc/rfc7493 (I-JSON).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import numpy as np

from vedastore.errors import LabelError
from vedastore.model import DEFAULT_LIMITS, Limits

# What a number beyond double precision must have: a long exponent, or many digits (with at most "e99" behind them).
_HUGE = re.compile(r"[0-9.][eE]\+?[0-9]{3}|(?<![0-9])[0-9]{200}")

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_OPEN, _CLOSE = b"[{", b"]}"


def parse_json(data: bytes, where: str, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Parse one JSON document, UTF-8 with or without a byte order mark.

    Raises
    ------
    LabelError
        For what is not JSON, and for what JSON parsers read differently: NaN, infinities, numbers beyond double
        precision's range, a key twice in one object, nesting beyond the limit.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"not UTF-8 text at byte {error.start}", where=where) from None
    if _depth(data) > limits.json_depth and _depth(_STRING.sub(b"", data)) > limits.json_depth:
        raise LabelError(
            f"JSON nested too deeply: more than {limits.json_depth} levels", where=where, rule="json-limit"
        )
    parse_float = _finite if _HUGE.search(text) else None
    try:
        return json.loads(text, parse_constant=_constant, parse_float=parse_float, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        message = error.msg.removesuffix(" at")  # some of json's messages end so
        raise LabelError(f"not JSON: {message} at line {error.lineno}, column {error.colno}", where=where) from None
    except ValueError as error:
        raise LabelError(str(error), where=where) from None


def _depth(data: bytes) -> int:
    """Return how deep brackets nest, those in strings included."""
    signs = np.frombuffer(data, np.uint8)
    opening, closing = (signs == _OPEN[0]) | (signs == _OPEN[1]), (signs == _CLOSE[0]) | (signs == _CLOSE[1])
    return int(np.cumsum(opening.astype(np.int64) - closing, dtype=np.int64).max(initial=0))


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return found
