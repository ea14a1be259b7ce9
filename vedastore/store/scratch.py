"""Scratch databases: what would grow with a release is kept in a temporary SQLite file, a little of it in memory."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PRAGMAS = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384; PRAGMA temp_store = FILE;"


@contextmanager
def open_scratch(schema: str) -> Iterator[sqlite3.Connection]:
    """Give a database of its own, in one transaction; it is gone with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="vedastore-") as folder,
        closing(sqlite3.connect(Path(folder) / "scratch.sqlite", isolation_level=None)) as database,
    ):
        try:
            database.executescript(_PRAGMAS + schema)
            database.execute("BEGIN")
            yield database
        except sqlite3.OperationalError as error:
            raise OSError(None, str(error), folder) from error


def sort_by_ordinal(rows: Iterable[tuple[int, str, bytes]]) -> Iterator[tuple[int, str, bytes]]:
    """Yield (ordinal, name, data) by ordinal, in bounded memory."""
    with open_scratch("CREATE TABLE rows (ordinal INTEGER PRIMARY KEY, name TEXT, data BLOB);") as database:
        database.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
        yield from database.execute("SELECT ordinal, name, data FROM rows ORDER BY ordinal")
