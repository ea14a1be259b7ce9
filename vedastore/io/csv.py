"""CSV files: a head line, and values whose types are those that all of a column can have."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import UsageError

if TYPE_CHECKING:
    import os

    import pandas as pd

_KINDS: Final = ("int64", "double", "bool")


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return a table with a head line; its column ``id`` is the index, as texts. An empty field has no value.

    Raises
    ------
    UsageError
        When the file cannot be read, or is no such table.
    """
    import pandas as pd

    where, hint = str(path), "give CSV in UTF-8 with a head line, and as many fields in each line"
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            head, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except OSError as error:
        raise UsageError(f"the table cannot be read: {error.strerror}", where=where) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"it is no table: {error}", where=where, hint=hint) from None
    if "id" not in head or len(set(head)) < len(head):
        raise UsageError("its columns are not 'id' and others of different names", where=where, hint=hint)
    if wrong := [number for number, row in enumerate(rows, 1) if len(row) != len(head)]:
        raise UsageError(f"row {wrong[0]} has not {len(head)} fields", where=where, hint=hint)
    columns = dict(zip(head, zip(*rows, strict=True) if rows else [()] * len(head), strict=True))
    ids = list(columns.pop("id"))
    return pd.DataFrame({name: pd.arrays.ArrowExtensionArray(_typed(c)) for name, c in columns.items()}, index=ids)


def _typed(fields: tuple[str, ...]) -> Any:
    """Return fields as an Arrow array of the first type that suits all of them; texts suit any, and null none."""
    import pyarrow as pa

    texts = pa.array([field or None for field in fields], "string")
    if texts.null_count == len(texts):
        return pa.nulls(len(texts))
    for kind in _KINDS:
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            continue
    return texts
