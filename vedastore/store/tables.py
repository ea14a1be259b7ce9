"""The index: Parquet tables written in row groups and read by column and row group. Source: GeoParquet 1.1."""

from __future__ import annotations

import hashlib
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from vedastore.io import geometry
from vedastore.spec import keys
from vedastore.spec.lonlat import HALF_WORLD
from vedastore.spec.root import IndexFile
from vedastore.spec.tables import GEOMETRY_COLUMNS, SCHEMAS, geo_metadata
from vedastore.store.columns import arrow_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from vedastore.store.commit import Write

GROUP_ROWS: Final = 4096
GROUP_BYTES: Final = 8 * 2**20
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
    "removed": [],
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
    """Writes one table in row groups of bounded size; it becomes an object of the store when it is finished.

    A thread encodes one row group while the rows of the next are made. ``schema`` is the table's own, or one with more
    columns behind those of the format; of texts in them there are no statistics, which would swell the footer.
    """

    def __init__(self, table: str, schema: Any = None) -> None:
        import pyarrow.parquet as pq

        self.table, self.rows = table, 0
        self._schema = arrow_schema(table) if schema is None else schema
        more = [f.name for f in self._schema if f.name not in SCHEMAS[table] and str(f.type) != "string"]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._parquet = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=_DICTIONARY[table],
            write_statistics=[*_leaves(SCHEMAS[table]), *more],
            write_page_checksum=True,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vedastore-table")
        self._written: Future[None] | None = None
        self._pending: list[Any] = []
        self._pending_rows = self._pending_bytes = 0
        self._types: dict[str, set[str]] = {name: set() for name in GEOMETRY_COLUMNS[table]}
        self._bounds: dict[str, tuple[float, float, float, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self._parquet.close()  # or else it writes its end when it is collected, to a file that is closed
        self._file.close()

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """The box around all geographic geometries so far: west, south, east, north."""
        return self._bounds.get("geometry")

    def append(self, columns: Mapping[str, Any], shapes: Mapping[str, Any] | None = None) -> None:
        """Add rows: columns are lists, arrays or Arrow's own, ``shapes`` what those of geometries are."""
        import pyarrow as pa

        given = [(columns[field.name], field.type) for field in self._schema]
        made = [v if isinstance(v, pa.Array | pa.ChunkedArray) else arrow_array(v, kind) for v, kind in given]
        rows = pa.table(made, schema=self._schema)
        self.append_table(rows, shapes)

    def append_table(self, rows: Any, shapes: Mapping[str, Any] | None = None) -> None:
        """Add the rows of a pyarrow Table."""
        for name in GEOMETRY_COLUMNS[self.table]:
            self._note(name, (shapes or {})[name])
        if self._pending_bytes + rows.nbytes > GROUP_BYTES:
            self._flush()  # a row group is never larger than this, or than what comes at once
        self._pending.append(rows)
        self.rows += rows.num_rows
        self._pending_rows += rows.num_rows
        self._pending_bytes += rows.nbytes
        if self._pending_rows >= GROUP_ROWS or self._pending_bytes >= GROUP_BYTES:
            self._flush()

    def finish(self, write: Write, *, is_part: bool = False) -> IndexFile:
        """Write the table to the store, as that of a whole version or of a part of one."""
        return self.seal(write, is_part=is_part).result()

    def seal(self, write: Write, *, is_part: bool = False) -> Future[IndexFile]:
        """Begin to finish: no more rows come."""
        self._flush()
        return self._thread.submit(self._finish, write, is_part=is_part)

    def _finish(self, write: Write, *, is_part: bool) -> IndexFile:
        self._await_write()
        geo = geo_metadata(self.table, geometry.projjson(geometry.LONLAT), self._types, self._bounds)
        if geo is not None:
            self._parquet.add_key_value_metadata({"geo": json.dumps(geo)})
        self._parquet.close()
        name = keys.PARTS[self.table] if is_part else self.table
        key, digest = keys.table(write.write_id, name), hashlib.sha256()
        size = write.put(key, self._parts(digest))
        return IndexFile(key, size, digest.hexdigest(), self.rows)

    def _flush(self) -> None:
        self._await_write()
        if self._pending:
            self._written = self._thread.submit(self._write_group, self._pending)
            self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _write_group(self, tables: list[Any]) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0])

    def _await_write(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None

    def _parts(self, digest: Any) -> Iterator[bytes]:
        self._file.seek(0)
        while part := self._file.read(_PART_BYTES):
            digest.update(part)
            yield part

    def _note(self, column: str, shapes: Any) -> None:
        self._types[column] |= geometry.type_names(shapes)
        edges = geometry.bounds(shapes)
        if column == "geometry":  # around all of them runs the whole world where one of them is on its edge
            boxes = geometry.covering_bboxes(shapes)
            edges[boxes[:, 0] > boxes[:, 2], ::2] = -HALF_WORLD, HALF_WORLD
        edges = edges[~np.isnan(edges[:, 0])]
        if len(edges):
            before = self._bounds.get(column, (np.inf, np.inf, -np.inf, -np.inf))
            low, high = np.minimum(edges[:, :2].min(0), before[:2]), np.maximum(edges[:, 2:].max(0), before[2:])
            self._bounds[column] = (*low.tolist(), *high.tolist())
