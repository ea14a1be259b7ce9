"""A version that differs from the one before in columns of its samples, and shares everything else with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from vedastore.io import geometry
from vedastore.store.commit import Write
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vedastore.spec.root import Root, Version
    from vedastore.store.snapshot import Snapshot


def commit_columns(snapshot: Snapshot, columns: Mapping[str, Any]) -> Version:
    """Commit a version whose ``samples`` have other columns, and return it.

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
    import pyarrow as pa

    table, version = snapshot.table("samples"), snapshot.version
    fields = {field.name: field.type for field in table.schema} | {
        n: None if a is None else a.type for n, a in columns.items()
    }
    schema = pa.schema({name: kind for name, kind in fields.items() if kind is not None})
    kept = [name for name in schema.names if name not in columns]
    with Write(snapshot.objects, onto=snapshot.root) as write, TableWriter("samples", schema) as writer:
        for start, rows in zip(table.starts[:-1].tolist(), table.iter_batches(kept), strict=True):
            new = {name: array.slice(start, len(rows)) for name, array in columns.items() if array is not None}
            shapes = {"geometry": geometry.parse_wkb(rows.column("geometry").to_pylist())}
            found = [new[name] if name in new else rows.column(name) for name in schema.names]
            writer.append_table(pa.table(found, schema.names).cast(schema), shapes)
        changed = replace(
            version,
            version=_name(snapshot.root, version.version),
            parent=version.version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            index={**version.index, "samples": writer.finish(write)},
        )
        write.commit(changed)
    return changed


def _name(root: Root, version: str) -> str:
    """Return a name for a change of a version, which has build metadata as semantic versions do: ``1.0.1+1``."""
    taken = {v.version for v in root.versions}
    release = version.partition("+")[0]
    return next(name for number in count(1) if (name := f"{release}+{number}") not in taken)
