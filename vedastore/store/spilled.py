"""Parts of the index in temporary files: rows in any order without decoding a row group for each."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.io.files import scratch_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


class SpilledObjects:
    """Columns of the objects of some samples, copied to a temporary file when the first ones are asked for.

    In memory there are 24 bytes for each sample that has objects. A forked process shares what had been copied before.

    Parameters
    ----------
    features : callable
        Returns the reader of the version's objects.
    columns : sequence of str
        Besides ``position`` and ``class``.
    positions : array of int
        The samples that may be asked for.
    """

    def __init__(self, features: Callable[[], TableReader], columns: Sequence[str], positions: Any) -> None:
        self._features, self._columns = features, ("position", "class", *columns)
        self._positions = np.unique(positions)
        self._locks: dict[int, threading.Lock] = {}
        self._copied: tuple[Any, Any] | None = None

    def read(self, positions: Any) -> tuple[Any, Any]:
        """Return the objects of the samples at some positions, one of which may occur again.

        Returns
        -------
        (array of int, pyarrow.Table)
            Whose each object is, by its place among the positions, and the objects, sample by sample.
        """
        import pyarrow as pa

        with self._locks.setdefault(
            os.getpid(), threading.Lock()
        ):  # what a thread held at a fork is never let go there
            if self._copied is None:
                self._copied = self._copy()
        table, (owners, starts, counts) = self._copied
        first, last = (np.searchsorted(owners, positions, side=side) for side in ("left", "right"))
        runs = [np.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        chosen = np.concatenate([np.arange(0), *runs])
        parts = [table.slice(a, n) for a, n in zip(starts[chosen].tolist(), counts[chosen].tolist(), strict=True)]
        owner = np.repeat(np.arange(len(runs)), last - first).repeat(counts[chosen])
        return owner, pa.concat_tables([table.slice(0, 0), *parts]).combine_chunks()

    def _copy(self) -> tuple[Any, Any]:
        """Return the objects as a table on the file, and (3, n): sample, first row and number of rows of each run."""
        import pyarrow as pa

        table, at = self._features(), 0
        runs = [np.zeros((3, 0), "i8")]
        schema = table.read(self._columns, []).schema  # a file may say that values are required
        with scratch_errors(), tempfile.TemporaryFile() as file:
            with pa.ipc.new_file(file, schema) as writer:
                for group in table.groups_with(self._positions):
                    found = table.read(self._columns, [group])
                    owner = found.column("position").to_numpy()
                    place = np.searchsorted(self._positions[:-1], owner)  # of those up to the last, the nearest above
                    rows = np.flatnonzero(self._positions[place] == owner)
                    rows = rows[np.argsort(owner[rows], kind="stable")]
                    writer.write_table(found.take(rows).combine_chunks())
                    own, starts, counts = np.unique(owner[rows], return_index=True, return_counts=True)
                    runs.append(np.stack([own, at + starts, counts]))
                    at += len(rows)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # ends with the table
        found_runs = np.concatenate(runs, axis=1)
        return pa.ipc.open_file(pa.py_buffer(mapped)).read_all(), found_runs[:, found_runs[0].argsort(kind="stable")]
