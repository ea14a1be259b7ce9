"""A column of bytes in a temporary file: rows in any order without decoding a row group for each."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.io.files import scratch_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.store.index import TableReader


class SpilledColumn:
    """Rows of a column of bytes, copied to a temporary file when the first one is asked for.

    Parameters
    ----------
    table : TableReader
    column : str
    positions : array of int
        Which rows may be asked for.
    """

    def __init__(self, table: TableReader, column: str, positions: Any) -> None:
        self._table, self._column, self._positions = table, column, np.unique(positions)
        self._lock = threading.Lock()
        self._file: Any = None
        self._ends = np.zeros(len(self._positions) + 1, dtype="i8")

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """Return the rows at some positions."""
        with self._lock:
            if self._file is None:
                self._file = self._copy()
        places = np.searchsorted(self._positions, positions)
        ranges = zip(self._ends[places].tolist(), self._ends[places + 1].tolist(), strict=True)
        return [os.pread(self._file.fileno(), end - start, start) for start, end in ranges]

    def _copy(self) -> Any:
        at = 0
        with scratch_errors():
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when nobody has this object any more
            weakref.finalize(self, file.close)
            for part in self._table.split(self._positions):
                values = self._table.read_rows(part, [self._column]).column(0).to_pylist()
                file.writelines(values)
                self._ends[at + 1 : at + 1 + len(values)] = self._ends[at] + np.cumsum([*map(len, values)])
                at += len(values)
            file.flush()
        return file
