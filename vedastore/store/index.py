"""The index, read: Parquet tables by column and by row group, checked before they are believed."""

from __future__ import annotations

import io
import struct
import threading
from abc import ABC, abstractmethod
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vedastore.errors import StoreError
from vedastore.spec.columns import COLUMNS_LIMIT, KINDS, TEXT_BYTES, is_column
from vedastore.spec.rules import RULES
from vedastore.spec.tables import LENGTHS, NULLABLE, SCHEMAS
from vedastore.store.kept import Kept
from vedastore.store.tables import GROUP_BYTES, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vedastore.io.objects import Objects
    from vedastore.spec.root import IndexFile, Version

KEPT_BYTES: Final = 32 * 2**20
"""Row groups that a reader keeps for rows by position, as columns in memory."""
WHOLE_BYTES: Final = 64 * 2**10
"""Files of parts up to this size are fetched at once."""

# What a file may ask for. Each bound is far from what the writer makes.
_MAGIC: Final = b"PAR1"
_TAIL: Final = struct.Struct("<I4s")
_FOOTER_BYTES: Final = 2**20
_FOOTER_SHARE: Final = 16
"""A longer footer is no more than this part of the file."""
_THRIFT_TEXT_BYTES: Final = 2**24
_THRIFT_LIST_ITEMS: Final = 2**16
_ROWS_PER_BYTE: Final = 8
_CHUNK_BYTES: Final = 320 * 2**20
"""A column of a row group that has one member of the largest size that the limits allow by default."""
_CHUNK_EXPANSION: Final = 1000
_SWOLLEN_BYTES: Final = 2**30
"""Above it, what a dictionary could become is found out before it does."""
_SLOW_BYTES: Final = 16 * 2**20
"""What the rows may take that are read at a time."""


class _Group(NamedTuple):
    """A row group in memory: its first row, and its columns, of which single values are found without a search."""

    start: int
    arrays: list[Any]
    nbytes: int


class TableReader(ABC):
    """A table of a version, read by column and by row group.

    Attributes
    ----------
    schema : pyarrow.Schema
        The columns that are read: those of ``spec.tables``, and behind them those that users have added.
    starts : array of int
        The first row of each row group, and the number of all rows.
    """

    schema: Any
    starts: Any

    def __init__(self) -> None:
        self._kept = Kept(KEPT_BYTES)

    @abstractmethod
    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Any:
        """Return a pyarrow Table of some columns and row groups; all without them."""

    @abstractmethod
    def _position_edges(self, group: int) -> tuple[int, int]:
        """Return positions that none of a row group is below, or above."""

    @property
    def added(self) -> tuple[str, ...]:
        """The columns that users have added."""
        return tuple(self.schema.names[len(SCHEMAS["samples"]) :])

    def read_rows(self, positions: Any, columns: Sequence[str]) -> Any:
        """Return a pyarrow Table of the rows at some positions, in their order; only row groups with them are read."""
        import numpy as np

        groups = self._groups_of(positions)
        needed = np.unique(groups)
        found = self.read(columns, needed.tolist())
        gaps = self.starts[needed] - np.cumsum([0, *(self.starts[needed + 1] - self.starts[needed])])[:-1]
        at = positions - gaps[np.searchsorted(needed, groups)]
        return found if np.array_equal(at, np.arange(found.num_rows)) else found.take(at)

    def split(self, positions: Any) -> list[Any]:
        """Divide positions into runs of one row group each, in their order."""
        import numpy as np

        return np.split(positions, np.flatnonzero(np.diff(self._groups_of(positions))) + 1)

    def take(self, positions: Sequence[int], columns: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return rows by position; the row groups that have them are read unless they are kept."""
        groups = self._groups_of(positions).tolist()
        rows: list[dict[str, Any]] = [{}] * len(groups)
        found, last = None, -1
        for at in sorted(range(len(groups)), key=groups.__getitem__):
            if found is None or groups[at] != last:
                last = groups[at]
                found = self._kept.get((last, columns), partial(self._read_group, columns, last))
            place = int(positions[at]) - found.start
            rows[at] = {name: array[place].as_py() for name, array in zip(columns, found.arrays, strict=True)}
        return rows

    def _read_group(self, columns: tuple[str, ...], group: int) -> _Group:
        batch = self.read(columns, [group]).combine_chunks().to_batches()[0]
        return _Group(int(self.starts[group]), batch.columns, batch.nbytes)

    def read_kept(self, columns: tuple[str, ...], groups: Sequence[int]) -> Any:
        """Return what ``read`` does; its row groups stay in memory for whoever asks next, while there is room."""
        import pyarrow as pa

        found = [self._kept.get(("table", g, columns), partial(self.read, columns, [g])) for g in groups]
        return pa.concat_tables(found) if found else self.read(columns, [])

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the rows of some columns, one pyarrow Table a row group."""
        for group in range(len(self.starts) - 1):
            yield self.read(columns, [group])

    def groups_with(self, positions: Any) -> list[int]:
        """Return the row groups that may have rows of some samples, by the least and greatest ``position`` of each.

        Every read of positions checks that they are within them, so that a file that lies is found out by ``verify``.
        """
        import numpy as np

        wanted = np.sort(positions)
        low, high = self._edges.T
        first, last = np.searchsorted(wanted, low), np.searchsorted(wanted, high, side="right")
        found: list[int] = np.flatnonzero(first < last).tolist()
        return found

    def _groups_of(self, positions: Any) -> Any:
        return self.starts.searchsorted(positions, side="right") - 1

    @cached_property
    def _edges(self) -> Any:
        """The least and the greatest position of every row group, (n, 2)."""
        import numpy as np

        return np.array([self._position_edges(group) for group in range(len(self.starts) - 1)]).reshape(-1, 2)


class TableFile(TableReader):
    """Reads one file of a table by column and by row group; whatever it holds, what comes out is sound.

    Column names and types are those of ``spec.tables``, and behind them those of ``spec.columns`` that users have added
    to ``samples`` (others may stand beside them). No value is missing where none may be, texts are Unicode, and every
    row that ``samples`` names is one that its bucket has.

    Parameters
    ----------
    objects : Objects
    table : str
        ``samples``, ``features``, ``members``, ...
    version : Version
        What the table is an index of.
    file : IndexFile
    positions : int
        Those that rows have are below it.
    is_part : bool
        Whether it is of a part: samples have any positions then, upwards, and not each its own place.

    Raises
    ------
    StoreError
        When the file is absent or damaged, or is not the table of this version.
    """

    def __init__(
        self, objects: Objects, table: str, version: Version, file: IndexFile, positions: int, *, is_part: bool = False
    ) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__()
        self._table, self._version = table, version
        self._positions, self._is_part = positions, is_part
        self._features = version.index["features"].rows + sum(part.features.rows for part in version.parts)
        self._chunk_bytes = max(_CHUNK_BYTES, min(version.limits.member_bytes, 2**31) + 8 * GROUP_BYTES)
        self._where = f"{objects.url}/{file.key}"
        self._lock = threading.Lock()
        size = objects.size(file.key)
        if size != file.bytes:
            told = "is absent" if size is None else f"has {size} bytes instead of {file.bytes}"
            raise StoreError(f"the index file {told}", where=self._where)
        opened = ObjectFile(objects, file.key, file.bytes, whole=is_part and file.bytes <= WHOLE_BYTES)
        self._check_footer(opened, file)
        try:
            source = pa.PythonFile(opened, mode="r")
            self._parquet = pq.ParquetFile(
                source,
                page_checksum_verification=True,
                thrift_string_size_limit=_THRIFT_TEXT_BYTES,
                thrift_container_size_limit=_THRIFT_LIST_ITEMS,
            )
            self.schema = self._check_schema(self._parquet.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        metadata = self._parquet.metadata
        self._leaves = [metadata.schema.column(i).path.partition(".")[0] for i in range(metadata.num_columns)]
        self._group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if metadata.num_rows != file.rows or sum(self._group_rows) != file.rows or min(self._group_rows, default=0) < 0:
            raise StoreError(f"the index file has not {file.rows} rows", where=self._where)
        self.starts = np.cumsum([0, *self._group_rows])

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Any:
        """Return a pyarrow Table of some columns and row groups; all without them."""
        import pyarrow as pa

        names = list(self.schema.names if columns is None else columns)
        chosen = list(range(len(self._group_rows)) if groups is None else groups)
        try:
            with self._lock:  # a ParquetFile is not made for several threads
                swollen = self._check_chunks(names, chosen)
                if swollen > _SWOLLEN_BYTES:
                    self._check_decoded(names, chosen, swollen)
                found = self._parquet.read_row_groups(chosen, columns=names)
            found.validate(full=True)
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise self._damaged(error) from None
        self._check_values(found, chosen)
        return found

    def _position_edges(self, group: int) -> tuple[int, int]:
        """Return the least and the greatest position of a row group, as its statistics tell; wide without them."""
        import pyarrow as pa

        try:
            told = self._parquet.metadata.row_group(group).column(self._leaves.index("position")).statistics
            edges = (told.min, told.max) if told is not None and told.has_min_max else (0, self._positions)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        return edges

    def _damaged(self, reason: object) -> StoreError:
        return StoreError(f"the index file is damaged: {reason}", where=self._where)

    def _check_footer(self, opened: ObjectFile, file: IndexFile) -> None:
        """Refuse what no table has before it is parsed: each byte of a footer can cost hundreds in memory."""
        if file.rows > _ROWS_PER_BYTE * file.bytes:
            raise self._damaged(f"{file.bytes} bytes cannot hold {file.rows} rows")
        opened.seek(max(0, file.bytes - _TAIL.size))
        tail = opened.read()
        opened.seek(0)
        length, magic = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
        if magic != _MAGIC:
            raise self._damaged("it is no Parquet file")
        if length > max(_FOOTER_BYTES, file.bytes // _FOOTER_SHARE):
            raise self._damaged(f"a footer of {length} bytes")

    def _check_schema(self, found: Any) -> Any:
        """Return what is read of a schema: the columns of the format, and those that users have added."""
        import pyarrow as pa

        expected = arrow_schema(self._table)
        for field in expected:
            at = found.get_all_field_indices(field.name)
            if len(at) != 1 or not found.field(at[0]).type.equals(field.type):
                told = found.field(at[0]).type if at else "absent"
                raise self._damaged(f"its column {field.name} is {told} instead of {field.type}")
        if self._table != "samples":
            return expected
        added = [pa.field(f.name, f.type) for f in found if is_column(f.name) and str(f.type) in KINDS]
        if len(added) > COLUMNS_LIMIT or len({f.name.lower() for f in added}) < len(added):
            raise self._damaged(f"more than {COLUMNS_LIMIT} columns were added to it, or two of one name")
        return pa.schema([*expected, *added])

    def _check_decoded(self, names: Sequence[str], groups: list[int], swollen: int) -> None:
        """Decode a few rows at a time and forget them: one text of a dictionary may stand in every row."""
        size, rows = 0, max(1, max(self._group_rows[g] for g in groups) * _SLOW_BYTES // swollen)
        for part in self._parquet.iter_batches(
            batch_size=rows, row_groups=groups, columns=list(names), use_threads=False
        ):
            size += part.nbytes
            if size > self._chunk_bytes * len(groups):
                raise self._damaged("its rows would take far more memory than it has bytes")

    def _check_chunks(self, names: Sequence[str], groups: Sequence[int]) -> int:
        """Refuse columns that would become far larger than they are, before they do.

        Returns
        -------
        int
            What the largest column with a dictionary would take if the whole dictionary stood in every row, bytes.
        """
        metadata, swollen = self._parquet.metadata, 0
        leaves = [i for i, name in enumerate(self._leaves) if name in names]
        for group in map(metadata.row_group, groups):
            if group.num_columns != len(self._leaves):
                raise self._damaged(f"a row group with {group.num_columns} columns")
            for chunk in map(group.column, leaves):
                size, stored = chunk.total_uncompressed_size, max(chunk.total_compressed_size, 1)
                if size > max(self._chunk_bytes, _CHUNK_EXPANSION * stored):
                    raise self._damaged(f"{stored} bytes of its column {chunk.path_in_schema} would become {size}")
                if chunk.has_dictionary_page and chunk.physical_type == "BYTE_ARRAY":
                    swollen = max(swollen, size * chunk.num_values)
        return swollen

    def _check_values(self, found: Any, groups: Sequence[int]) -> None:
        import pyarrow.compute as pc

        for name in found.column_names:
            column, kind = found.column(name), SCHEMAS[self._table].get(name)
            if kind is None:
                if column.type == "string" and (pc.max(pc.binary_length(column)).as_py() or 0) > TEXT_BYTES:
                    raise self._damaged(f"its column {name} has texts of more than {TEXT_BYTES} bytes")
                continue
            if column.null_count and name not in NULLABLE[self._table]:
                raise self._damaged(f"its column {name} lacks values")
            if isinstance(kind, list):
                least, most = self._lengths(name)
                lengths = pc.min_max(pc.list_value_length(column)).as_py()
                sound = lengths["min"] is None or least <= lengths["min"] <= lengths["max"] <= most
                if not sound or pc.list_flatten(column).null_count:
                    raise self._damaged(f"its column {name} has lists of another length, or that lack values")
        if "objects" in found.column_names and found.num_rows:
            edges = pc.min_max(found.column("objects")).as_py()
            if edges["min"] < 0 or edges["max"] > self._features:
                raise self._damaged("it counts more objects of a sample than there are, or fewer than none")
        if {"bucket", "row"} <= set(found.column_names):
            self._check_rows(found)
        if "position" in found.column_names:
            self._check_positions(found.column("position").to_numpy(), groups)

    def _lengths(self, column: str) -> tuple[int, int]:
        """Return the least and the greatest length of a column's lists."""
        classes = _CHUNK_BYTES if self._version.parts else len(self._version.classes)
        most = {"classes": classes, "flags": len(RULES), "rules": len(RULES)}
        return (LENGTHS[column], LENGTHS[column]) if column in LENGTHS else (0, most.get(column, _CHUNK_BYTES))

    def _check_rows(self, found: Any) -> None:
        """Check that every sample's pixels are in a row that its bucket has."""
        import pyarrow as pa
        import pyarrow.compute as pc

        buckets = self._version.buckets
        known = pa.array(list(buckets), "string")
        at = pc.index_in(found.column("bucket"), value_set=known)
        if at.null_count:
            raise self._damaged("a sample is in a bucket that the version has not")
        rows, lengths = found.column("row"), pa.array([b.rows for b in buckets.values()], "int64").take(at)
        if not pc.all(pc.and_(pc.greater_equal(rows, 0), pc.less(rows, lengths)), min_count=0).as_py():
            raise self._damaged("a sample is in a row that its bucket has not")

    def _check_positions(self, positions: Any, groups: Sequence[int]) -> None:
        import numpy as np

        if self._table == "samples" and not self._is_part:
            parts = [np.arange(self.starts[g], self.starts[g + 1]) for g in groups]
            sound = np.array_equal(positions, np.concatenate([np.arange(0), *parts]))
        else:
            sound = bool(((positions >= 0) & (positions < self._positions)).all())
            if self._table != "features":
                sound &= bool((np.diff(positions) > 0).all())
            ends = np.cumsum([self._group_rows[g] for g in groups], dtype="i8")
            for group, part in zip(groups, np.split(positions, ends)[:-1], strict=True):
                low, high = self._position_edges(group)
                sound &= bool(((part >= low) & (part <= high)).all())
        if not sound:
            raise self._damaged("its positions are not those of the version's samples")


class ObjectFile(io.RawIOBase):
    """An object of a store as a file: every read is a ranged read, and nothing more is fetched.

    One that is read as a ``whole`` is fetched at once, and kept: parts are small, and of some each column is asked for.
    """

    def __init__(self, objects: Objects, key: str, size: int, *, whole: bool = False) -> None:
        super().__init__()
        self._whole = objects.read(key) if whole else None
        self._objects, self._key, self._size, self._at = objects, key, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset from the start, the place, or the end."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def size(self) -> int:
        """Return the object's bytes."""
        return self._size

    def read(self, size: int = -1) -> bytes:
        """Return the bytes from the place on, at most ``size``."""
        end = self._size if size < 0 else min(self._size, self._at + size)
        if self._whole is not None:
            data = self._whole[self._at : end]
        else:
            data = self._objects.read(self._key, self._at, end - self._at) if end > self._at else b""
        self._at += len(data)
        return data
