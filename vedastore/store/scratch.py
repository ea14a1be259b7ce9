"""Scratch databases: what would grow with a release is kept in a temporary SQLite file, a little of it in memory."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from vedastore.io.files import scratch_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PRAGMAS = (  # rows have some kilobytes: smaller pages would hold them in chains
    "PRAGMA page_size = 16384; PRAGMA cache_size = -4096; PRAGMA temp_store = FILE;"
    " PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
)


@contextmanager
def open_scratch(schema: str) -> Iterator[sqlite3.Connection]:
    """Give a database of its own, in one transaction.

    Its file has no name any more when this returns, so that nothing is left of it, even of a process that is killed.
    """
    with scratch_errors():
        descriptor, path = tempfile.mkstemp(prefix="vedastore-", suffix=".sqlite")
        os.close(descriptor)
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.executescript(_PRAGMAS + schema)
        except sqlite3.OperationalError as error:
            database.close()
            raise OSError(None, str(error), path) from error
        finally:
            os.unlink(path)  # noqa: PTH108 - a plain path
    with closing(database):
        database.execute("BEGIN")
        try:
            yield database
        except sqlite3.OperationalError as error:
            with scratch_errors():
                raise OSError(None, str(error), path) from error


def sort_by_ordinal(rows: Iterable[tuple[int, str, bytes]]) -> Iterator[tuple[int, str, bytes]]:
    """Yield (ordinal, name, data) by ordinal, in bounded memory."""
    with open_scratch("CREATE TABLE rows (ordinal INTEGER PRIMARY KEY, name TEXT, data BLOB);") as database:
        database.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
        yield from database.execute("SELECT ordinal, name, data FROM rows ORDER BY ordinal")
