"""The index: Parquet tables written in row groups and read by column and row group. Source: GeoParquet 1.1."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from vedastore.errors import StoreError
from vedastore.io import geometry
from vedastore.spec import keys
from vedastore.spec.root import IndexFile
from vedastore.spec.tables import GEOMETRY_COLUMNS, SCHEMAS, geo_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vedastore.io.objects import Objects
    from vedastore.store.commit import Write
    from vedastore.store.rows import Columns

GROUP_ROWS: Final = 4096
GROUP_BYTES: Final = 16 * 2**20
GROUPS_KEPT: Final = 4
"""Row groups that a reader keeps for rows by position."""
_PART_BYTES: Final = 2**20
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


class TableWriter:
    """Writes one table in row groups of bounded size; it becomes an object of the store when it is finished."""

    def __init__(self, table: str) -> None:
        import pyarrow.parquet as pq

        self.table, self.rows = table, 0
        self._schema = arrow_schema(table)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._parquet = pq.ParquetWriter(
            self._file, self._schema, compression="zstd", use_dictionary=_DICTIONARY[table], write_page_checksum=True
        )
        self._pending: list[Any] = []
        self._pending_rows = self._pending_bytes = 0
        self._types: dict[str, set[str]] = {name: set() for name in GEOMETRY_COLUMNS[table]}
        self._bounds: dict[str, tuple[float, float, float, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        self._pending.append(pa.table(columns, schema=self._schema))
        self.rows += self._pending[-1].num_rows
        self._pending_rows += self._pending[-1].num_rows
        self._pending_bytes += self._pending[-1].nbytes
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
            self._parquet.write_table(pa.concat_tables(self._pending).combine_chunks())
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
        edges = edges[~np.isnan(edges[:, 0])]
        if len(edges):
            before = self._bounds.get(column, (np.inf, np.inf, -np.inf, -np.inf))
            low, high = np.minimum(edges[:, :2].min(0), before[:2]), np.maximum(edges[:, 2:].max(0), before[2:])
            self._bounds[column] = (*low.tolist(), *high.tolist())


class TableReader:
    """Reads one table of a version by column and by row group."""

    def __init__(self, objects: Objects, file: IndexFile) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._where = f"{objects.url}/{file.key}"
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, tuple[str, ...]], Any] = {}
        size = objects.size(file.key)
        if size != file.bytes:
            told = "is absent" if size is None else f"has {size} bytes instead of {file.bytes}"
            raise StoreError(f"the index file {told}", where=self._where)
        try:
            source = pa.PythonFile(ObjectFile(objects, file.key, file.bytes), mode="r")
            self._parquet = pq.ParquetFile(source, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"the index file is damaged: {error}", where=self._where) from None
        if self._parquet.metadata.num_rows != file.rows:
            raise StoreError(f"the index file has not {file.rows} rows", where=self._where)

    @property
    def group_rows(self) -> list[int]:
        """The number of rows of each row group."""
        metadata = self._parquet.metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Any:
        """Return a pyarrow Table of some columns and row groups; all without them."""
        import pyarrow as pa

        chosen = range(self._parquet.metadata.num_row_groups) if groups is None else groups
        try:
            with self._lock:  # a ParquetFile is not made for several threads
                return self._parquet.read_row_groups(list(chosen), columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"the index file is damaged: {error}", where=self._where) from None

    def take(self, positions: Sequence[int], columns: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return rows by position; only the row groups that have them are read, and the last ones are kept."""
        import numpy as np

        starts = np.cumsum([0, *self.group_rows])
        wanted = np.asarray(positions)
        groups = np.searchsorted(starts, wanted, side="right") - 1
        rows: list[dict[str, Any]] = [{}] * len(wanted)
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            found = self._group(group, columns).take(wanted[here] - starts[group]).to_pylist()
            for at, row in zip(here.tolist(), found, strict=True):
                rows[at] = row
        return rows

    def _group(self, group: int, columns: tuple[str, ...]) -> Any:
        key = (group, columns)
        table = self._kept.get(key)
        if table is None:
            table = self.read(columns, [group])
            kept = self._kept if len(self._kept) < GROUPS_KEPT else {}
            self._kept = kept | {key: table}
        return table

    def iter_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows of some columns, one pyarrow Table a row group."""
        for group in range(self._parquet.metadata.num_row_groups):
            yield self.read(columns, [group])


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
