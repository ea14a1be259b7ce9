"""Columns: results that are written back to the samples they belong to; a new version of the store that has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import UsageError
from vedastore.ops.select import select
from vedastore.spec.columns import COLUMNS_LIMIT, NAMES, TEXT_BYTES, is_column
from vedastore.store.revision import commit_columns
from vedastore.store.sql import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot

_HINT = "give values by id: a dictionary, a Series with ids as its index, or a DataArray with the coordinate 'id'"
_KINDS = "truths, whole numbers of 64 bits, numbers, or texts"


@dataclass(frozen=True, slots=True)
class AssignReport:
    """What an assignment did.

    Attributes
    ----------
    store, version : str
        The version that it committed.
    columns : dict
        How many samples have a value in each column that was given.
    removed : tuple of str
        The columns that were removed.
    """

    store: str
    version: str
    columns: dict[str, int]
    removed: tuple[str, ...]


def assign(snapshot: Snapshot, positions: Positions, given: Mapping[str, Any]) -> tuple[AssignReport, Snapshot]:
    """Commit a version in which the samples at some positions have values, and open it; see ``Collection.assign``.

    Raises
    ------
    UsageError
        When names or values make no sense.
    SampleNotFoundError
        When values are given for ids that are of none of these samples.
    ConflictError
        When another writer has committed since the snapshot was opened.
    """
    import dask

    added = snapshot.table("samples").added
    removed = tuple(name for name, values in given.items() if values is None)
    _check_names(list(given), removed, added)
    if removed and len(positions) < snapshot.version.samples:
        raise UsageError("a column is removed from all samples", hint="remove it from the collection without select()")
    lazy = [name for name, values in given.items() if dask.is_dask_collection(values)]
    given = {**given, **dict(zip(lazy, dask.compute(*map(given.get, lazy)), strict=True))}  # one pass for all of them
    places = dict(zip(snapshot.lookup.names(positions), positions.tolist(), strict=True))
    columns = {
        name: None if values is None else _make_column(snapshot, name, values, positions, places)
        for name, values in given.items()
    }
    changed = commit_columns(snapshot, columns)
    counts = {name: len(column) - column.null_count for name, column in columns.items() if column is not None}
    return AssignReport(snapshot.objects.url, changed.version.version, counts, removed), changed


def _check_names(names: list[str], removed: tuple[str, ...], added: tuple[str, ...]) -> None:
    if not names:
        raise UsageError("there is no column to assign", hint="name one, as in assign(ndvi=values)")
    for name in names:
        if name in removed:
            if name not in added:
                hint = f"there are {', '.join(added) or 'none'}"
                raise UsageError(f"there is no column {name!r} to remove", hint=hint)
        elif not is_column(name):
            raise UsageError(f"{name!r} is no name for a column", hint=NAMES)
        elif name.lower() in words():
            raise UsageError(f"{name!r} is a word of SQL", hint=NAMES)
    kept = [name for name in {*added, *names} if name not in removed]
    if len({name.lower() for name in kept}) < len(kept):
        raise UsageError("two columns would have one name but for the case of its letters", hint="choose another name")
    if len(kept) > COLUMNS_LIMIT:
        raise UsageError(f"there would be {len(kept)} columns", hint=f"a store has {COLUMNS_LIMIT} of them at most")


def _make_column(snapshot: Snapshot, name: str, given: Any, positions: Positions, places: dict[str, int]) -> Any:
    """Return a column of all samples as an Arrow array: the values given, and elsewhere those that there were."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table, count = snapshot.table("samples"), snapshot.version.samples
    ids, raw = _take_apart(name, given, len(positions))
    values = _to_arrow(name, raw)
    if len(values) != (len(positions) if ids is None else len(ids)):
        raise UsageError(f"{name}: {len(values)} values for {len(positions)} samples", hint=_HINT)
    kind = table.schema.field(name).type if name in table.added else None
    if pa.types.is_null(values.type):
        if kind is None:
            raise UsageError(f"{name}: all values are missing, and nothing tells their type")
        values = values.cast(kind)
    at = positions if ids is None else _find(snapshot, name, ids, positions, places)
    source = np.full(count, -1)
    source[at] = np.arange(len(values))
    column = values.take(pa.array(source, mask=source < 0))
    if kind is None or len(positions) == count:
        return column
    if kind != values.type and {kind, values.type} != {pa.int64(), pa.float64()}:
        hint = "remove the column first, or take another name"
        raise UsageError(f"{name} is {kind} for the other samples, and {values.type} for these", hint=hint)
    ours = np.zeros(count, dtype=bool)
    ours[positions] = True
    return pc.if_else(pa.array(ours), column, table.read([name]).column(0))


def _take_apart(name: str, given: Any, count: int) -> tuple[list[Any] | None, Any]:
    """Return ids and values of what is given for a column; None for ids where it is in the order of the samples."""
    import pandas as pd
    import pyarrow as pa
    import xarray as xr

    if isinstance(given, Mapping):
        return list(given), list(given.values())
    if isinstance(given, pd.Series):
        return given.index.tolist(), given
    if isinstance(given, xr.DataArray):
        if given.ndim != 1 or "id" not in given.coords or given.coords["id"].dims != given.dims:
            hint = "reduce it to one value a sample, and keep the coordinate 'id'"
            raise UsageError(f"{name} is a DataArray ({', '.join(map(str, given.dims))}) without ids", hint=hint)
        return given.coords["id"].to_numpy().tolist(), given.to_numpy()
    if isinstance(given, bool | int | float | str | np.generic):
        return None, [given] * count
    if isinstance(given, list | tuple | np.ndarray | pa.Array | pa.ChunkedArray):
        return None, given
    if hasattr(given, "__array__"):
        return None, np.asarray(given)
    raise UsageError(f"{name} is {type(given).__name__}, which has neither ids nor an order", hint=_HINT)


def _to_arrow(name: str, values: Any) -> Any:
    """Return values as an Arrow array of a type that columns have, or of type null. NaN is a number."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    lax = isinstance(values, pd.Series) and values.dtype.kind == "O"  # NaN stands for None there, as for no text
    hint = f"the values of a column are {_KINDS}"
    try:
        found = pa.array(values, from_pandas=lax)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        kind = next((kind for kind, holds in _kinds().items() if holds(found.type)), None)
        if kind is not None:
            found = found.cast(kind)
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise UsageError(f"{name}: {error}", hint=hint) from None
    if kind is None:
        raise UsageError(f"{name} is of type {found.type}", hint=hint)
    if kind == "string" and (pc.max(pc.binary_length(found)).as_py() or 0) > TEXT_BYTES:
        raise UsageError(f"{name} has a text of more than {TEXT_BYTES} bytes", hint="keep long texts elsewhere, by id")
    return found


def _kinds() -> dict[str, Callable[[Any], bool]]:
    """Return what tells for each type of columns which types of Arrow become it."""
    import pyarrow as pa

    return {
        "bool": pa.types.is_boolean,
        "int64": pa.types.is_integer,
        "double": pa.types.is_floating,
        "string": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
        "null": pa.types.is_null,
    }


def _find(snapshot: Snapshot, name: str, ids: list[Any], positions: Positions, places: dict[str, int]) -> list[int]:
    """Return the positions of samples by id."""
    select(snapshot, positions, ids=ids)  # tells which are of no sample
    if len(set(ids)) < len(ids):
        raise UsageError(f"{name} has two values for one id", hint=_HINT)
    return [places[sample_id] for sample_id in ids]
