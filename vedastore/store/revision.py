"""The tables of a version, written anew: with other columns of its samples, or its parts made one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import ConflictError, StoreError
from vedastore.io import geometry
from vedastore.spec.tables import GEOMETRY_COLUMNS
from vedastore.store.commit import Write
from vedastore.store.gather import gather
from vedastore.store.snapshot import Snapshot
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vedastore.spec.root import IndexFile, Root, Version


def commit_columns(snapshot: Snapshot, columns: Mapping[str, Any]) -> Snapshot:
    """Commit a version whose ``samples`` have other columns, and open it; nothing is read for that.

    Parameters
    ----------
    snapshot : Snapshot
        The version that is changed, of the root that is in the store.
    columns : mapping of str to pyarrow.Array or None
        One value a sample in each; None removes a column. Those of the format keep its types.

    Raises
    ------
    ConflictError
        When another writer has committed since the snapshot was opened.
    """
    version = snapshot.version
    with Write(snapshot.objects, onto=snapshot.root) as write:
        index = {**version.index, "samples": write_samples(write, snapshot, columns)}
        if version.parts:
            index["features"] = _write_features(write, snapshot)
        changed = replace(
            version,
            version=name_change(snapshot.root, version.version),
            parent=version.version,
            created=now(),
            index=index,
            parts=(),
            author=None,  # whoever made the version before has not made this one
            message=None,
        )
        root = write.commit(changed)
    return Snapshot(snapshot.objects, root, changed)


def flatten(write: Write, snapshot: Snapshot) -> Version:
    """Write the tables of a version in parts as a whole, and its chips in few buckets; return it as it is with them."""
    buckets, places = gather(write, snapshot)
    files = {"samples": write_samples(write, snapshot, places), "features": _write_features(write, snapshot)}
    return replace(snapshot.version, index=snapshot.version.index | files, parts=(), buckets=buckets)


def write_samples(write: Write, snapshot: Snapshot, columns: Mapping[str, Any]) -> IndexFile:
    """Write ``samples`` with other columns; see `commit_columns`."""
    import pyarrow as pa

    table = snapshot.table("samples")
    fields = {field.name: field.type for field in table.schema} | {
        n: None if a is None else a.type for n, a in columns.items()
    }
    schema = pa.schema({name: kind for name, kind in fields.items() if kind is not None})
    kept = [name for name in schema.names if name not in columns]
    with TableWriter("samples", schema) as writer:
        for start, rows in zip(table.starts[:-1].tolist(), table.iter_batches(kept), strict=True):
            new = {name: array.slice(start, len(rows)) for name, array in columns.items() if array is not None}
            found = [new[name] if name in new else rows.column(name) for name in schema.names]
            _append(writer, pa.table(found, schema.names).cast(schema))
        return writer.finish(write)


def _write_features(write: Write, snapshot: Snapshot) -> IndexFile:
    """Write ``features`` sample by sample, those of a row group of samples at a time."""
    with TableWriter("features") as writer:
        for table in _iter_features(snapshot):
            _append(writer, table)
        if writer.rows != snapshot.version.features:
            told = f"it has {writer.rows} features instead of {snapshot.version.features}"
            raise StoreError(f"the index is damaged: {told}", where=snapshot.objects.url)
        return writer.finish(write)


def _iter_features(snapshot: Snapshot) -> Iterator[Any]:
    features = snapshot.table("features")
    for start, end in pairwise(snapshot.table("samples").starts.tolist()):
        table = features.read_kept(tuple(features.schema.names), features.groups_with(np.arange(start, end)))
        positions = table.column("position").to_numpy()
        own = np.flatnonzero((positions >= start) & (positions < end))
        yield table.take(own[np.argsort(positions[own], kind="stable")])


def _append(writer: TableWriter, rows: Any) -> None:
    shapes = {name: geometry.parse_wkb(rows.column(name).to_pylist()) for name in GEOMETRY_COLUMNS[writer.table]}
    writer.append_table(rows, shapes)


def now() -> str:
    """Return the time as versions have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_name(name: str | None, snapshot: Snapshot | None) -> None:
    """Refuse a name for a new version that another one has."""
    if snapshot is not None and name in {v.version for v in snapshot.root.versions}:
        hint = "name another one with version= or --version"
        raise ConflictError(f"the store has a version {name!r} already", where=snapshot.objects.url, hint=hint)


def name_change(root: Root, version: str) -> str:
    """Return a name for a change of a version, which has build metadata as semantic versions do: ``1.0.1+1``."""
    taken = {v.version for v in root.versions}
    release = version.partition("+")[0]
    return next(name for number in count(1) if (name := f"{release}+{number}") not in taken)
