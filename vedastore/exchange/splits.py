"""Splits as files: CSV with the columns id and split, both ways, and a JSON object of ids and names as well.

Source: https://www.rfc-editor.org/rfc/rfc4180
"""

from __future__ import annotations

import csv
import io
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import LabelError, UsageError
from vedastore.io.geojson import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LIMIT_BYTES: Final = 256 * 2**20
_HEADER: Final[Sequence[str | None]] = ["id", "split"]
_HINT: Final = "give CSV with the columns id and split, or a JSON object of ids and names"


def read_splits(path: str) -> dict[str, str | None]:
    """Read a file of splits by id; None where it says that a sample is of none.

    Raises
    ------
    UsageError
        When it cannot be read, is of another form, is too large, or names a sample twice.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a pipe as well
            data = file.read(LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"the splits cannot be read: {error}", where=path) from None
    if len(data) > LIMIT_BYTES:
        raise UsageError(f"the splits are above {LIMIT_BYTES} bytes", where=path)
    return parse_splits(data, path)


def parse_splits(data: bytes, where: str) -> dict[str, str | None]:
    """Parse splits by id: JSON if it begins with a brace, else CSV; UTF-8 with or without a byte order mark."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the splits are not UTF-8 at byte {error.start}", where=where, hint=_HINT) from None
    return _parse_object(data, where) if text.lstrip().startswith("{") else _parse_table(text, where)


def dump_splits(pairs: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    """Yield lines of CSV of ids and splits, the header first; what is of no split has an empty one."""
    for pair in chain([_HEADER], pairs):
        line = io.StringIO()
        broken = any("\r" in text for text in pair if text)  # csv quotes it by itself where lines end in it alone
        csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL).writerow(pair)
        yield line.getvalue()


def _parse_object(data: bytes, where: str) -> dict[str, str | None]:
    try:
        found: Any = parse_json(data, where)
    except LabelError as error:
        raise UsageError(error.message, where=error.where, hint=_HINT) from None
    for name, value in found.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"the split of {name!r} is {value!r:.80}, which is no name", where=where, hint=_HINT)
    return {name: value or None for name, value in found.items()}


def _parse_table(text: str, where: str) -> dict[str, str | None]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, str | None] = {}
    try:
        if next(rows, None) != _HEADER:
            raise UsageError("the first line is not 'id,split'", where=where, hint=_HINT)
        for row in filter(None, rows):  # without empty lines
            if len(row) != len(_HEADER):
                message = f"line {rows.line_num} has {len(row)} fields instead of {len(_HEADER)}"
                raise UsageError(message, where=where, hint=_HINT)
            if row[0] in found:
                raise UsageError(f"line {rows.line_num} names the sample {row[0]!r} again", where=where)
            found[row[0]] = row[1] or None
    except csv.Error as error:
        raise UsageError(f"line {rows.line_num} is no CSV: {error}", where=where, hint=_HINT) from None
    return found
