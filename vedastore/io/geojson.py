"""JSON from strangers: bytes in, values out, and nothing that means two things.

Source: https://www.rfc-editor.org/rfc/rfc8259 and https://www.rfc-editor.org/rfc/rfc7493 (I-JSON).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from vedastore.errors import LabelError

# What a number beyond double precision must have: a long exponent, or many digits (with at most "e99" behind them).
_HUGE = re.compile(r"[0-9.][eE]\+?[0-9]{3}|(?<![0-9])[0-9]{200}")


def parse_json(data: bytes, where: str) -> Any:
    """Parse one JSON document, UTF-8 with or without a byte order mark.

    Raises
    ------
    LabelError
        For what is not JSON, and for what JSON parsers read differently: NaN, infinities, numbers beyond double
        precision's range, a key twice in one object, nesting beyond the parser's depth.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"not UTF-8 text at byte {error.start}", where=where) from None
    parse_float = _finite if _HUGE.search(text) else None
    try:
        return json.loads(text, parse_constant=_constant, parse_float=parse_float, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        message = error.msg.removesuffix(" at")  # some of json's messages end so
        raise LabelError(f"not JSON: {message} at line {error.lineno}, column {error.colno}", where=where) from None
    except RecursionError:
        raise LabelError("JSON nested too deeply", where=where) from None
    except ValueError as error:
        raise LabelError(str(error), where=where) from None


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
