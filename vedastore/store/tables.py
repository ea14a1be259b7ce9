"""The index: Parquet tables written in row groups and read by column and row group. Source: GeoParquet 1.1."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tempfile
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

from vedastore.errors import StoreError
from vedastore.io import geometry
from vedastore.spec import keys
from vedastore.spec.lonlat import HALF_WORLD
from vedastore.spec.root import IndexFile
from vedastore.spec.rules import RULES
from vedastore.spec.tables import GEOMETRY_COLUMNS, LENGTHS, NULLABLE, SCHEMAS, geo_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vedastore.io.objects import Objects
    from vedastore.spec.root import Version
    from vedastore.store.commit import Write
    from vedastore.store.rows import Columns

GROUP_ROWS: Final = 4096
GROUP_BYTES: Final = 16 * 2**20
GROUPS_KEPT: Final = 4
"""Row groups that a reader keeps for rows by position."""
_PART_BYTES: Final = 2**20

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
_DICTIONARY: Final = {
    "samples": [
        "bucket",
        "crs",
        "nodata",
        "split",
        "fidelity",
        "envelope",
        "classes.list.element",
        "flags.list.element",
    ],
    "features": ["id", "class"],
    "members": ["kind"],
    "skipped": ["rules.list.element"],
}


@lru_cache
def arrow_schema(table: str) -> Any:
    """Return a table's Arrow schema."""
    import pyarrow as pa

    def arrow_type(kind: Any) -> Any:
        if isinstance(kind, list):
            return pa.list_(arrow_type(kind[0]))
        if isinstance(kind, dict):
            return pa.struct({name: arrow_type(k) for name, k in kind.items()})
        return pa.type_for_alias(kind)

    return pa.schema({name: arrow_type(kind) for name, kind in SCHEMAS[table].items()})


def _leaves(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the columns that have statistics: those of bytes would be copied whole into them."""
    for name, kind in schema.items():
        if isinstance(kind, dict):
            yield from _leaves(kind, f"{above}{name}.")
        elif isinstance(kind, list):
            yield f"{above}{name}.list.element"
        elif kind != "binary":
            yield f"{above}{name}"


class TableWriter:
    """Writes one table in row groups of bounded size; it becomes an object of the store when it is finished."""

    def __init__(self, table: str) -> None:
        import pyarrow.parquet as pq

        self.table, self.rows = table, 0
        self._schema = arrow_schema(table)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._parquet = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=_DICTIONARY[table],
            write_statistics=list(_leaves(SCHEMAS[table])),
            write_page_checksum=True,
        )
        self._pending: list[Any] = []
        self._pending_rows = self._pending_bytes = 0
        self._types: dict[str, set[str]] = {name: set() for name in GEOMETRY_COLUMNS[table]}
        self._bounds: dict[str, tuple[float, float, float, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parquet.close()  # or else it writes its end when it is collected, to a file that is closed
        self._file.close()

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """The box around all geographic geometries so far: west, south, east, north."""
        return self._bounds.get("geometry")

    def append(self, columns: Columns) -> None:
        """Add rows."""
        import pyarrow as pa

        for name in GEOMETRY_COLUMNS[self.table]:
            self._note(name, geometry.parse_wkb(columns[name]))
        rows = pa.table(columns, schema=self._schema)
        if self._pending_bytes + rows.nbytes > GROUP_BYTES:
            self._flush()  # a row group is never larger than this, or than what comes at once
        self._pending.append(rows)
        self.rows += rows.num_rows
        self._pending_rows += rows.num_rows
        self._pending_bytes += rows.nbytes
        if self._pending_rows >= GROUP_ROWS or self._pending_bytes >= GROUP_BYTES:
            self._flush()

    def finish(self, write: Write) -> IndexFile:
        """Write the table to the store."""
        self._flush()
        geo = geo_metadata(self.table, geometry.projjson(geometry.LONLAT), self._types, self._bounds)
        if geo is not None:
            self._parquet.add_key_value_metadata({"geo": json.dumps(geo)})
        self._parquet.close()
        key, digest = keys.table(write.write_id, self.table), hashlib.sha256()
        size = write.put(key, self._parts(digest))
        return IndexFile(key, size, digest.hexdigest(), self.rows)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._pending:
            several = len(self._pending) > 1
            self._parquet.write_table(pa.concat_tables(self._pending).combine_chunks() if several else self._pending[0])
            self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _parts(self, digest: Any) -> Iterator[bytes]:
        self._file.seek(0)
        while part := self._file.read(_PART_BYTES):
            digest.update(part)
            yield part

    def _note(self, column: str, shapes: Any) -> None:
        import numpy as np

        self._types[column] |= geometry.type_names(shapes)
        edges = geometry.bounds(shapes)
        if column == "geometry":  # around all of them runs the whole world where one of them is on its edge
            crossing = [b is not None and b[0] > b[2] for b in geometry.covering_bboxes(shapes)]
            edges[crossing, ::2] = -HALF_WORLD, HALF_WORLD
        edges = edges[~np.isnan(edges[:, 0])]
        if len(edges):
            before = self._bounds.get(column, (np.inf, np.inf, -np.inf, -np.inf))
            low, high = np.minimum(edges[:, :2].min(0), before[:2]), np.maximum(edges[:, 2:].max(0), before[2:])
            self._bounds[column] = (*low.tolist(), *high.tolist())


class TableReader:
    """Reads one table of a version by column and by row group; whatever the file holds, what comes out is sound.

    Column names and types are those of ``spec.tables`` (others may stand beside them), no value is missing where none
    may be, texts are Unicode, and every row that ``samples`` names is one that its bucket has.

    Parameters
    ----------
    objects : Objects
    table : str
        ``samples``, ``features`` or ``members``.
    version : Version
        What the table is an index of.

    Raises
    ------
    StoreError
        When the file is absent or damaged, or is not the table of this version.
    """

    def __init__(self, objects: Objects, table: str, version: Version) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = version.index[table]
        self._table, self._version = table, version
        self._chunk_bytes = max(_CHUNK_BYTES, min(version.limits.member_bytes, 2**31) + 4 * GROUP_BYTES)
        self._where = f"{objects.url}/{file.key}"
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, tuple[str, ...]], Any] = {}
        size = objects.size(file.key)
        if size != file.bytes:
            told = "is absent" if size is None else f"has {size} bytes instead of {file.bytes}"
            raise StoreError(f"the index file {told}", where=self._where)
        self._check_footer(objects, file)
        try:
            source = pa.PythonFile(ObjectFile(objects, file.key, file.bytes), mode="r")
            self._parquet = pq.ParquetFile(
                source,
                page_checksum_verification=True,
                thrift_string_size_limit=_THRIFT_TEXT_BYTES,
                thrift_container_size_limit=_THRIFT_LIST_ITEMS,
            )
            self._check_schema(self._parquet.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        metadata = self._parquet.metadata
        self._group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if metadata.num_rows != file.rows or sum(self._group_rows) != file.rows or min(self._group_rows, default=0) < 0:
            raise StoreError(f"the index file has not {file.rows} rows", where=self._where)
        self._starts = np.cumsum([0, *self._group_rows])

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Any:
        """Return a pyarrow Table of some columns and row groups; all without them."""
        import pyarrow as pa

        names = list(SCHEMAS[self._table] if columns is None else columns)
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

    def take(self, positions: Sequence[int], columns: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return rows by position; only the row groups that have them are read, and the last ones are kept."""
        import numpy as np

        wanted = np.asarray(positions)
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        rows: list[dict[str, Any]] = [{}] * len(wanted)
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            found = self._group(group, columns).take(wanted[here] - self._starts[group]).to_pylist()
            for at, row in zip(here.tolist(), found, strict=True):
                rows[at] = row
        return rows

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the rows of some columns, one pyarrow Table a row group."""
        for group in range(len(self._group_rows)):
            yield self.read(columns, [group])

    def _group(self, group: int, columns: tuple[str, ...]) -> Any:
        key = (group, columns)
        table = self._kept.get(key)
        if table is None:
            table = self.read(columns, [group])
            kept = self._kept if len(self._kept) < GROUPS_KEPT else {}
            self._kept = kept | {key: table}
        return table

    def _damaged(self, reason: object) -> StoreError:
        return StoreError(f"the index file is damaged: {reason}", where=self._where)

    def _check_footer(self, objects: Objects, file: IndexFile) -> None:
        """Refuse what no table has before it is parsed: each byte of a footer can cost hundreds in memory."""
        if file.rows > _ROWS_PER_BYTE * file.bytes:
            raise self._damaged(f"{file.bytes} bytes cannot hold {file.rows} rows")
        tail = objects.read(file.key, max(0, file.bytes - _TAIL.size), min(file.bytes, _TAIL.size))
        length, magic = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
        if magic != _MAGIC:
            raise self._damaged("it is no Parquet file")
        if length > max(_FOOTER_BYTES, file.bytes // _FOOTER_SHARE):
            raise self._damaged(f"a footer of {length} bytes")

    def _check_schema(self, found: Any) -> None:
        for field in arrow_schema(self._table):
            at = found.get_all_field_indices(field.name)
            if len(at) != 1 or not found.field(at[0]).type.equals(field.type):
                told = found.field(at[0]).type if at else "absent"
                raise self._damaged(f"its column {field.name} is {told} instead of {field.type}")

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
        for group in map(metadata.row_group, groups):
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema.partition(".")[0] not in names:
                    continue
                size, stored = chunk.total_uncompressed_size, max(chunk.total_compressed_size, 1)
                if size > max(self._chunk_bytes, _CHUNK_EXPANSION * stored):
                    raise self._damaged(f"{stored} bytes of its column {chunk.path_in_schema} would become {size}")
                if chunk.has_dictionary_page and chunk.physical_type == "BYTE_ARRAY":
                    swollen = max(swollen, size * chunk.num_values)
        return swollen

    def _check_values(self, found: Any, groups: Sequence[int]) -> None:
        import pyarrow.compute as pc

        for name in found.column_names:
            column, kind = found.column(name), SCHEMAS[self._table][name]
            if column.null_count and name not in NULLABLE[self._table]:
                raise self._damaged(f"its column {name} lacks values")
            if isinstance(kind, list):
                least, most = self._lengths(name)
                lengths = pc.min_max(pc.list_value_length(column)).as_py()
                sound = lengths["min"] is None or least <= lengths["min"] <= lengths["max"] <= most
                if not sound or pc.list_flatten(column).null_count:
                    raise self._damaged(f"its column {name} has lists of another length, or that lack values")
        if {"bucket", "row"} <= set(found.column_names):
            self._check_rows(found)
        if "position" in found.column_names:
            self._check_positions(found.column("position").to_numpy(), groups)

    def _lengths(self, column: str) -> tuple[int, int]:
        """Return the least and the greatest length of a column's lists."""
        most = {"classes": len(self._version.classes), "flags": len(RULES), "rules": len(RULES)}
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

        if self._table == "samples":
            parts = [np.arange(self._starts[g], self._starts[g + 1]) for g in groups]
            sound = np.array_equal(positions, np.concatenate([np.arange(0), *parts]))
        else:
            sound = bool(((positions >= 0) & (positions < self._version.samples)).all())
        if not sound:
            raise self._damaged("its positions are not those of the version's samples")


class ObjectFile(io.RawIOBase):
    """An object of a store as a file: every read is a ranged read, and nothing more is fetched."""

    def __init__(self, objects: Objects, key: str, size: int) -> None:
        super().__init__()
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
        data = self._objects.read(self._key, self._at, end - self._at) if end > self._at else b""
        self._at += len(data)
        return data
