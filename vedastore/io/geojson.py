"""JSON from strangers: bytes in, values out, and nothing that means two things.

Source: https://www.rfc-editor.org/rfc/rfc8259 and https://www.rfc-editor.org/rfc/rfc7493 (I-JSON).
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import orjson

from vedastore.errors import LabelError
from vedastore.model import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a number beyond double precision must have: a long exponent, or many digits (with at most "e99" behind them).
# Searches for one literal are some times faster than one for any of several.
_EXPONENTS: Final = (re.compile(rb"e\+?[0-9]{3}"), re.compile(rb"E\+?[0-9]{3}"))
_DIGITS_AS_ZERO: Final = bytes(sign if sign not in b"123456789" else ord("0") for sign in range(256))
_MANY_DIGITS: Final = b"0" * 200
_COMMON_BYTES: Final = 2**15
_COMMON_MEMORY: Final = 2**21
"""Whatever such a document holds, it needs less than this while it is parsed."""
_COMMON_DEPTH: Final = 512
"""The standard library reads what is nested no deeper, too."""
_NO_LONG_INTEGER: Final = b"0" * 19
"""Integers of fewer digits have 64 bits at most."""
_PASSED_BY: Final = (list, float, int)
_UNCOMMON: Final = object()
_INTEGER_DIGITS: Final = 4300
"""Python itself reads no longer integers, as the time grows with the square of the digits."""

_WEIGHTS: Final = {b"{": 160, b"[": 96, b",": 40, b":": 130, b'"': 28}
"""Bytes that what begins at a sign needs at most while it is parsed, measured on CPython 3.11 to 3.13."""
_BYTE_MOST: Final = 170
"""No byte of a document needs more than this."""
_LATIN, _BASIC_PLANE = 0xC4, 0xF0  # the first bytes of UTF-8 from which text needs two bytes a character, and four
_SURROGATE = re.compile(rb"\\u[dD][89abAB]")

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_LIST_DEPTH: Final = 2  # of the list of features: in the outermost object

_DEPTH_BLOCK: Final = 2**14
"""Common features that are parsed together are then short enough for the quick parser."""
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def parse_json(data: bytes, where: str, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Parse one JSON document, UTF-8 with or without a byte order mark.

    Size, memory and depth are judged by the bytes, before anything is parsed.

    Raises
    ------
    LabelError
        For what is not JSON, and for what JSON parsers read differently: NaN, infinities, numbers beyond double
        precision's range, a key twice in one object; for what is above the limits.
    """
    _check_limits(data, where, limits)
    if (value := _parse_common(data, limits)) is not _UNCOMMON:
        return value
    text = _decode(data, where)
    try:
        return (_CAREFUL if _may_be_huge(data) else _QUICK).decode(text)
    except json.JSONDecodeError as error:
        message = error.msg.removesuffix(" at") if text else "the file is empty"  # some of json's messages end so
        place = f"{message} at line {error.lineno}, column {error.colno}"
        raise LabelError(f"not JSON: {place}", where=where, rule="json-syntax") from None
    except RecursionError:
        raise LabelError("JSON nested too deeply for Python", where=where, rule="json-limit") from None
    except LabelError as error:
        raise error.at(where) from None


def _parse_common(data: bytes, limits: Limits) -> Any:
    """Parse what nearly all documents are, in a fifth of the time; `_UNCOMMON` stands for what needs a closer look.

    orjson takes the last of two equal keys, and rounds integers of more than 64 bits. No such document passes: each
    member of an object has a colon, and there are as many of them as in what was parsed.
    """
    if len(data) > _COMMON_BYTES or limits.json_memory_bytes < _COMMON_MEMORY or limits.json_depth > _COMMON_DEPTH:
        return _UNCOMMON
    if b"\\" in data or _NO_LONG_INTEGER in data.translate(_DIGITS_AS_ZERO):
        return _UNCOMMON
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _UNCOMMON
    return value if _count_colons(value) == data.count(b":") else _UNCOMMON


def _count_colons(value: Any) -> int:
    """Count the members of objects, and the colons in texts; lists that begin with a list or a number are passed by."""
    count, todo = 0, [value]
    for item in todo:
        kind = type(item)
        if kind is dict:
            count += len(item)
            todo += item
            todo += item.values()
        elif kind is str:
            count += item.count(":")
        elif kind is list and item and type(item[0]) not in _PASSED_BY:
            todo += item
    return count


def iter_features(data: bytes, where: str, limits: Limits = DEFAULT_LIMITS) -> Iterator[Any]:
    """Yield the features of a collection one by one; a document that is no collection is yielded itself.

    Raises
    ------
    LabelError
        As `iter_feature_spans` does.
    """
    return (feature for _, _, feature in iter_feature_spans(data, where, limits))


def iter_feature_spans(data: bytes, where: str, limits: Limits = DEFAULT_LIMITS) -> Iterator[tuple[int, int, Any]]:
    """Yield where each feature of a collection begins and ends, the space around it included, and the feature.

    A document that is no collection is yielded itself, from 0 to its end. The limits hold for each feature, and for
    what stands around them, which is looked at last: a collection may be of any length, and whoever has seen enough of
    it stops.

    Raises
    ------
    LabelError
        As `parse_json` does, and for features of what is no collection.
    """
    begin = end = number = 0
    for edges in _find_features(data, where, limits):
        begin, end = begin or edges[0] + 1, edges[-1]
        if number == 0 and edges[1:] and data[edges[1]] == ord("]") and not data[begin:end].strip():
            continue  # there are none
        features = _parse_features(data, edges, number, where, limits)
        yield from ((start + 1, stop, found) for (start, stop), found in zip(pairwise(edges), features, strict=True))
        number += len(edges) - 1
    if not begin:
        yield 0, len(data), parse_json(data, where, limits)
        return
    around = parse_json(data[:begin] + data[end:], where, limits)
    if not isinstance(around, dict) or around.get("type") != "FeatureCollection":
        raise LabelError("there are features in what is no FeatureCollection", where=where, rule="json-syntax")


def _parse_features(data: bytes, edges: list[int], first: int, where: str, limits: Limits) -> Iterator[Any]:
    """Yield the features between signs at ``edges``: all at once, or else one by one, each with its own limits."""
    try:
        found = parse_json(b"[%b]" % data[edges[0] + 1 : edges[-1]], where, limits)
    except LabelError:
        found = []
    if len(found) == len(edges) - 1:
        yield from found
        return
    for number, (start, stop) in enumerate(pairwise(edges), first):
        yield parse_json(data[start + 1 : stop], f"{where}: feature {number}", limits)


def _find_features(data: bytes, where: str, limits: Limits) -> Iterator[list[int]]:
    """Yield, block by block, the places of the signs around features: of the list's ``[``, its commas, its ``]``.

    The list is ``features`` of the outermost object. The last sign of a block is the first one of the next; the time
    grows with the length of the list.
    """
    if (begin := _find_list(data, where, limits)) is None:
        return
    edges = [begin]
    for start, signs, levels in _levels(data, begin + 1, _LIST_DEPTH):
        ends = np.flatnonzero((levels < _LIST_DEPTH) | (levels > limits.json_depth))
        stop = int(ends[0]) if len(ends) else len(signs)
        edges += (start + np.flatnonzero((signs[:stop] == ord(",")) & (levels[:stop] == _LIST_DEPTH))).tolist()
        if stop < len(signs) and signs[stop] == ord("]"):
            edges.append(start + stop)
        yield edges
        if stop < len(signs):
            if levels[stop] > limits.json_depth:
                raise _too_deep(where, limits)
            return
        edges = edges[-1:]
        if start + stop - edges[0] > limits.json_bytes:
            raise _above(f"a feature of more than {limits.json_bytes} bytes", "json_bytes", where)


def _find_list(data: bytes, where: str, limits: Limits) -> int | None:
    """Return where the list ``features`` of the outermost object begins."""
    depth, key = 0, b""
    for token in _TOKEN.finditer(data):
        sign = token[0][:1]
        if sign == b'"':
            key = token[0] if depth == 1 else key
        elif sign in b"[{":
            depth += 1
            if depth > limits.json_depth:
                raise _too_deep(where, limits)
            if depth == _LIST_DEPTH and sign == b"[" and key == b'"features"':
                return token.start()
        else:
            depth -= 1
        if token.start() > limits.json_bytes:
            raise _above(f"a feature of more than {limits.json_bytes} bytes", "json_bytes", where)
    return None


def _check_limits(data: bytes, where: str, limits: Limits) -> None:
    if len(data) > limits.json_bytes:
        raise _above(f"{len(data)} bytes of JSON, more than {limits.json_bytes}", "json_bytes", where)
    if len(data) * _BYTE_MOST > limits.json_memory_bytes and (need := _memory(data)) > limits.json_memory_bytes:
        told = f"JSON that may need {need} bytes of memory, more than {limits.json_memory_bytes}"
        raise _above(told, "json_memory_bytes", where)
    if data.count(b"[") + data.count(b"{") > limits.json_depth and _depth(data) > limits.json_depth:
        raise _too_deep(where, limits)


def _too_deep(where: str, limits: Limits) -> LabelError:
    return _above(f"JSON nested too deeply: more than {limits.json_depth} levels", "json_depth", where)


def _above(message: str, limit: str, where: str) -> LabelError:
    hint = f"raise {limit} with --limit if you trust the file"
    return LabelError(message, where=where, hint=hint, rule="json-limit")


def _memory(data: bytes) -> int:
    """Return an upper estimate of what parsing needs besides the document: its text, and all values at once."""
    text = strings = 1
    if not data.isascii():
        top = int(np.frombuffer(data, np.uint8).max())
        text = strings = 4 if top >= _BASIC_PLANE else 2 if top >= _LATIN else 1
    if b"\\u" in data:
        strings = max(strings, 4 if _SURROGATE.search(data) else 2)
    # Text grows by a quarter at a time where its length is not known before.
    chars = len(data) * (text + strings * (1.25 if b"\\" in data else 1)) * (1.25 if max(text, strings) > 1 else 1)
    return int(chars) + sum(weight * data.count(sign) for sign, weight in _WEIGHTS.items())


def _depth(data: bytes) -> int:
    """Return how deep brackets nest."""
    return max((int(levels.max()) for _, _, levels in _levels(data)), default=0)


def _levels(data: bytes, begin: int = 0, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    """Yield, block by block, where it begins, its bytes, and how deep brackets nest behind each; strings are blank."""
    inside, escaped = np.uint8(0), False
    for start in range(begin, len(data), _DEPTH_BLOCK):
        block = data[start : start + _DEPTH_BLOCK]
        if escaped or b"\\" in block:
            block = _ESCAPED.sub(b"__", b"_" * escaped + block[escaped:])
            escaped = block.endswith(b"\\")
        signs = np.frombuffer(block, np.uint8)
        quoted = np.bitwise_xor.accumulate((signs == ord('"')).view(np.uint8)) ^ inside
        signs = np.where(quoted, 0, signs)
        levels = np.cumsum(_STEPS[signs], dtype=np.int32) + depth
        yield start, signs, levels
        inside, depth = quoted[-1], int(levels[-1])


def _decode(data: bytes, where: str) -> str:
    if b"\0" in data[:4]:
        raise LabelError("not UTF-8 text, but UTF-16 or UTF-32", where=where, rule="json-encoding")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        at = error.start + len(codecs.BOM_UTF8) * data.startswith(codecs.BOM_UTF8)
        raise LabelError(f"not UTF-8 text at byte {at}", where=where, rule="json-encoding") from None


def _may_be_huge(data: bytes) -> bool:
    """Tell whether there may be a number beyond double precision's range, or an integer longer than Python reads."""
    return _MANY_DIGITS in data.translate(_DIGITS_AS_ZERO) or any(e.search(data) for e in _EXPONENTS)


def _constant(name: str) -> NoReturn:
    raise LabelError(f"{name} is not JSON", rule="json-number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise LabelError(f"the number {text[:40]} is out of range", rule="json-number")
    return value


def _integer(text: str) -> int:
    if len(text) > _INTEGER_DIGITS:
        raise LabelError(f"the number {text[:40]}... has more than {_INTEGER_DIGITS} digits", rule="json-number")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise LabelError(f"the key {twice[:40]!r} stands twice in one object", rule="json-duplicate-key")
    return found


_QUICK: Final = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_unique)
_CAREFUL: Final = json.JSONDecoder(
    parse_constant=_constant, parse_float=_finite, parse_int=_integer, object_pairs_hook=_unique
)
