"""A table in parts, read as one: what lies on top of the first file replaces its rows, follows them, or removes them.

Every row of ``samples`` has a *slot*: its position in the file of a conversion, kept by all parts. The positions of a
version count the slots that are left, so that readers see one dense table, and need not know of parts.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError
from vedastore.store.index import TableFile, TableReader
from vedastore.store.tables import GROUP_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.io.objects import Objects
    from vedastore.spec.root import Version

_GONE = -1


class Layout:
    """Which file has the row of each slot, and which slots are left.

    Attributes
    ----------
    files : list of TableFile
        The files of ``samples``, the oldest first.
    owner, row : array of int
        Of each slot: the number of its file, -1 where it is removed, and its row there.
    slots : array of int
        The slots that are left: of the row at each position of the version.

    Raises
    ------
    StoreError
        When a file is damaged, or the parts do not make up the version.
    """

    def __init__(self, objects: Objects, version: Version) -> None:
        first = version.index["samples"].rows
        self.files = [TableFile(objects, "samples", version, version.index["samples"], first)]
        owner, row = [np.zeros(first, "i2")], [np.arange(first)]
        ends = [first]
        for number, part in enumerate(version.parts, 1):
            file = TableFile(objects, "samples", version, part.samples, ends[-1] + part.samples.rows, is_part=True)
            slots = file.read(["position"]).column(0).to_numpy()
            new = slots[slots >= ends[-1]]
            if not np.array_equal(new, np.arange(ends[-1], ends[-1] + len(new))):
                raise self._damaged(objects, part.samples.key, "the rows of a part do not follow those below it")
            if file.schema != self.files[0].schema:
                raise self._damaged(objects, part.samples.key, "a part has other columns than the file below it")
            ends.append(ends[-1] + len(new))
            owner = [np.concatenate([*owner, np.zeros(len(new), "i2")])]
            row = [np.concatenate([*row, new])]
            owner[0][slots], row[0][slots] = number, np.arange(len(slots))
            if part.removed is not None:
                removed = TableFile(objects, "removed", version, part.removed, ends[-1], is_part=True)
                owner[0][removed.read(["position"]).column(0).to_numpy()] = _GONE
            self.files.append(file)
        (self.owner,), (self.row,) = owner, row
        self.slots = np.flatnonzero(self.owner >= 0)
        self.ends = ends
        if len(self.slots) != version.samples:
            told = f"its parts make {len(self.slots)} samples instead of {version.samples}"
            raise self._damaged(objects, version.samples_files[-1].key, told)

    def positions(self, slots: Any) -> Any:
        """Return the positions of slots that are left."""
        return np.searchsorted(self.slots, slots)

    @staticmethod
    def _damaged(objects: Objects, key: str, reason: str) -> StoreError:
        return StoreError(f"the index file is damaged: {reason}", where=f"{objects.url}/{key}")


class OverlaidSamples(TableReader):
    """The ``samples`` of a version in parts. Its row groups are those of the first file, and what follows them."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        self.schema = layout.files[0].schema
        added = [np.arange(start, end, GROUP_ROWS) for start, end in pairwise(layout.ends)]
        self._bounds = np.concatenate([layout.files[0].starts[:-1], *added, layout.ends[-1:]])
        self.starts = layout.positions(self._bounds)

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Any:
        """Return a pyarrow Table of some columns and row groups; all without them."""
        import pyarrow as pa

        names = tuple(self.schema.names if columns is None else columns)
        chosen = range(len(self.starts) - 1) if groups is None else groups
        parts = [self._read(names, group) for group in chosen]
        return pa.concat_tables(parts) if parts else self._layout.files[0].read(names, [])

    def _read(self, names: tuple[str, ...], group: int) -> Any:
        import pyarrow as pa

        layout, (start, end) = self._layout, self.starts[group : group + 2].tolist()
        slots = layout.slots[start:end]
        owners, rows = layout.owner[slots], layout.row[slots]
        tables, order = [], []
        for number in np.unique(owners).tolist():
            file, here = layout.files[number], np.flatnonzero(owners == number)
            groups = np.unique(file.starts.searchsorted(rows[here], side="right") - 1)
            whole = np.concatenate([np.arange(file.starts[g], file.starts[g + 1]) for g in groups.tolist()])
            read = file.read if number == 0 else file.read_kept  # rows of a part are asked for again and again
            found = read(names, groups.tolist())
            at = np.searchsorted(whole, rows[here])
            tables.append(found if np.array_equal(at, np.arange(len(whole))) else found.take(at))
            order.append(here)
        found = pa.concat_tables(tables) if tables else layout.files[0].read(names, [])
        if len(tables) > 1:
            found = found.take(np.argsort(np.concatenate(order), kind="stable"))
        return _with_positions(found, np.arange(start, end))

    def _position_edges(self, group: int) -> tuple[int, int]:
        start, end = self.starts[group : group + 2].tolist()
        return start, end - 1


class OverlaidFeatures(TableReader):
    """The ``features`` of a version in parts: of every file those of the samples whose row is in the same part.

    ``starts`` are upper bounds: rows of samples that were replaced or removed are left out when they are read.
    """

    def __init__(self, objects: Objects, version: Version, layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        files = [version.index["features"], *(part.features for part in version.parts)]
        self._files = [
            TableFile(objects, "features", version, file, end, is_part=number > 0)
            for number, (file, end) in enumerate(zip(files, layout.ends, strict=True))
        ]
        self.schema = self._files[0].schema
        self._groups = [(n, g) for n, file in enumerate(self._files) for g in range(len(file.starts) - 1)]
        self.starts = np.cumsum(
            [0, *(self._files[n].starts[g + 1] - self._files[n].starts[g] for n, g in self._groups)]
        )

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Any:
        """Return a pyarrow Table of some columns and row groups; all without them."""
        import pyarrow as pa

        names = list(self.schema.names if columns is None else columns)
        chosen = range(len(self._groups)) if groups is None else groups
        parts = [self._read(names, *self._groups[group]) for group in chosen]
        return pa.concat_tables(parts) if parts else self._files[0].read(names, [])

    def _read(self, names: list[str], number: int, group: int) -> Any:
        found = self._files[number].read([*dict.fromkeys([*names, "position"])], [group])
        slots = found.column("position").to_numpy()
        live = self._layout.owner[slots] == number
        found = found if live.all() else found.filter(live)
        return _with_positions(found, self._layout.positions(slots[live])).select(names)

    def _position_edges(self, group: int) -> tuple[int, int]:
        number, own = self._groups[group]
        low, high = self._files[number]._edges[own]  # noqa: SLF001 - the same class
        slots = self._layout.slots
        return int(np.searchsorted(slots, low)), int(np.searchsorted(slots, high, side="right")) - 1


class Overlay:
    """The tables of a version in parts, each made when it is first asked for."""

    def __init__(self, objects: Objects, version: Version) -> None:
        self._objects, self._version = objects, version

    @cached_property
    def layout(self) -> Layout:
        """Which file has which row."""
        return Layout(self._objects, self._version)

    def open(self, table: str) -> TableReader:
        """Return the reader of a table."""
        if table == "samples":
            return OverlaidSamples(self.layout)
        return OverlaidFeatures(self._objects, self._version, self.layout)


def _with_positions(table: Any, positions: Any) -> Any:
    """Return a table whose ``position``, if it has one, are those of the version."""
    import pyarrow as pa

    at = table.schema.get_field_index("position")
    return table if at < 0 else table.set_column(at, "position", pa.array(positions, "int64"))
