"""Columns of a table as Arrow arrays, made from their buffers.

Where pyarrow makes an array from Python values itself, it imports pandas first, which takes longer than all else that a
small conversion does.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def arrow_array(values: Any, kind: Any) -> Any:
    """Return values as an Arrow array of a kind.

    ``values`` are a list, with None for a null that is no number, of texts where the kind is text, and of bytes where
    it is binary; or an array of floats in which NaN stands for null, (n,) or (n, k) for structs and lists of k floats
    that are null together.
    """
    import pyarrow as pa

    if isinstance(values, np.ndarray) and values.ndim > 1:
        return _rows(values, kind)
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return _make(kind, ~np.isnan(values), np.ascontiguousarray(values))
    if pa.types.is_primitive(kind):
        return _make(kind, np.ones(len(values), bool), np.asarray(values, dtype=str(kind)))
    valid = np.ones(len(values), bool)
    if None in values:
        valid = np.array([v is not None for v in values], dtype=bool)
    if pa.types.is_list(kind):
        lists = [v or () for v in values]
        items = arrow_array([*chain.from_iterable(lists)], kind.value_type)
        return _make(kind, valid, _offsets(map(len, lists)), children=[items])
    parts = values
    if not pa.types.is_binary(kind):
        texts = values if valid.all() else [v or "" for v in values]
        joined = "".join(texts)
        if joined.isascii():  # as nearly all are: as many bytes as characters
            return _make(kind, valid, _offsets(map(len, texts)), joined.encode())
        parts = [text.encode() for text in texts]
    elif not valid.all():
        parts = [v or b"" for v in values]
    return _make(kind, valid, _offsets(map(len, parts)), b"".join(parts))


def number_texts(texts: Sequence[str]) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Return the different texts in order, and the number of each one among them.

    NumPy's own arrays of texts would take the room of the longest one for each: as much as a stranger likes.

    >>> number_texts(["b", "a", "b"])
    (['a', 'b'], array([1, 0, 1]))
    """
    names = sorted(set(texts))
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers[text] for text in texts], dtype=np.int64)


def _rows(values: np.ndarray[Any, Any], kind: Any) -> Any:
    import pyarrow as pa

    valid = ~np.isnan(values[:, 0])
    if pa.types.is_struct(kind):
        children = [arrow_array(column, field.type) for column, field in zip(values.T, kind, strict=True)]
        return _make(kind, valid, children=children)
    items = arrow_array(values[valid].ravel(), kind.value_type)
    return _make(kind, valid, _offsets((valid * values.shape[1]).tolist()), children=[items])


def _offsets(lengths: Iterable[int]) -> Any:
    """Return where each of several parts begins, and where the last one ends.

    That is within 32 bits: rows come some megabytes at a time, and the ledger holds no value of a gigabyte.
    """
    return np.cumsum([0, *lengths], dtype=np.int32)


def _make(kind: Any, valid: Any, *buffers: Any, children: Sequence[Any] | None = None) -> Any:
    import pyarrow as pa

    validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(valid), [validity, *map(pa.py_buffer, buffers)], children=children)
