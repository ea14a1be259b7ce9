"""A collection as xarray: images on Dask, one task a shard, and what is known of each sample beside them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.spec.arrays import DIMENSIONS
from vedastore.views.labels import multi_hot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from vedastore.store.snapshot import Snapshot

_CRS = re.compile(r"EPSG:[0-9]{1,9}\Z|[A-Z][A-Z0-9_]*\[")
_FLOAT_LIMIT = 2**1023
_COLUMNS = ("id", "bucket", "row", "split", "crs", "transform", "nodata", "classes")


def build_dataset(snapshot: Snapshot, positions: Any, *, labels: bool, bucket: str | None) -> xr.Dataset:
    """Return the samples at some positions as a Dataset; nothing but the index is read.

    Raises
    ------
    UsageError
        When the samples are of several shapes or types and no bucket is named, or no such bucket is there.
    """
    import xarray as xr

    table, chosen = read_index(snapshot, positions, _COLUMNS, bucket)
    spec = snapshot.version.buckets[chosen].spec
    image = _lazy_chips(snapshot, chosen, table.column("row").to_numpy())
    coords: dict[str, Any] = {
        "id": ("sample", np.array(table.column("id").to_pylist(), dtype=object)),
        "split": ("sample", np.array(table.column("split").fill_null("").to_pylist(), dtype=object)),
        "transform": (("sample", "affine"), _transforms(table.column("transform"))),
        "affine": ("affine", list("abcdef")),
    }
    data: dict[str, Any] = {"image": (DIMENSIONS, image)}
    version = snapshot.version
    if labels and version.task == "classification":
        coords["class"] = ("class", np.array(version.classes, dtype=object))
        data["label"] = (("sample", "class"), multi_hot(table.column("classes").to_pylist(), version.classes))
    attributes = {
        "title": version.name,
        "version": version.version,
        "task": version.task,
        "source": snapshot.objects.url,
    }
    dataset = xr.Dataset(data, coords, attributes)
    nodata, crs = (table.column(name).unique().to_pylist() for name in ("nodata", "crs"))
    if len(nodata) == 1 and (value := parse_nodata(nodata[0], spec.dtype)) is not None:
        dataset["image"].attrs["_FillValue"] = value
    return write_crs(dataset, crs[0], snapshot.objects.url) if len(crs) == 1 else dataset


def parse_nodata(text: str | None, dtype: str) -> Any:
    """Return a TIFF's nodata text as a value of the image's type, or as a float where that type has no such value."""
    if text is None:
        return None
    kind = np.dtype(dtype)
    try:
        number = int(text) if kind.kind in "iu" else float(text)
        if kind.kind in "iu" and not np.iinfo(kind).min <= number <= np.iinfo(kind).max:
            return float(number) if abs(number) < _FLOAT_LIMIT else None
        return kind.type(number) if kind.kind in "iuf" else number
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return None
        return None if math.isinf(value) and kind.kind in "iu" else value


def read_index(
    snapshot: Snapshot, positions: Any, columns: Sequence[str], bucket: str | None, split: str | None = None
) -> tuple[Any, str]:
    """Read columns of the samples at some positions that are of one bucket, and of one split where it is named.

    Returns
    -------
    (pyarrow.Table, str)
        The rows in the order of the positions, and the bucket's name.

    Raises
    ------
    UsageError
        When the samples are of several buckets and none is named, or there are none.
    """
    import pyarrow.compute as pc

    where = snapshot.objects.url
    table = snapshot.table("samples").read_rows(positions, columns)
    if split is not None:
        table = table.filter(pc.equal(table.column("split"), split))
    names = sorted(table.column("bucket").unique().to_pylist())
    if not names:
        told = "" if split is None else f" in the split {split!r}"
        raise UsageError(f"there is no sample to make an array of{told}", where=where)
    if bucket is None and len(names) > 1:
        hint = f"name one with bucket=: {', '.join(names)}"
        raise UsageError("the samples are of several shapes or types, which no one array holds", where=where, hint=hint)
    if bucket is not None and bucket not in names:
        raise UsageError(f"there is no bucket {bucket!r}", where=where, hint=f"there are {', '.join(names)}")
    chosen: str = bucket or names[0]
    return table.filter(pc.equal(table.column("bucket"), chosen)), chosen


def _lazy_chips(snapshot: Snapshot, bucket: str, rows: np.ndarray[Any, Any]) -> Any:
    """Return a Dask array of the chips of some rows; one task reads those that are of one shard and neighbours here."""
    import dask.array as da
    from dask.base import tokenize

    spec = snapshot.version.buckets[bucket].spec
    breaks = np.flatnonzero(np.diff(rows // spec.samples_per_shard)) + 1
    lengths = tuple(np.diff([0, *breaks, len(rows)]).tolist())
    return da.map_blocks(
        _read_block,
        da.from_array(rows, chunks=(lengths,)),
        snapshot=snapshot,
        bucket=bucket,
        name="chips-" + tokenize(snapshot.objects.url, snapshot.root.write_id, bucket, rows),
        chunks=(lengths, *((size,) for size in spec.shape)),
        new_axis=[1, 2, 3],
        meta=np.empty((0,) * len(DIMENSIONS), spec.dtype),
    )


def _read_block(rows: np.ndarray[Any, Any], snapshot: Snapshot, bucket: str) -> np.ndarray[Any, Any]:
    return snapshot.chips(bucket).read_rows(rows)


def _transforms(column: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the six numbers of each row of a column; not a number where it has none."""
    import pyarrow.compute as pc

    transforms = np.full((len(column), 6), np.nan)
    transforms[column.is_valid().to_numpy()] = pc.list_flatten(column).to_numpy().reshape(-1, 6)
    return transforms


def write_crs(data: Any, crs: str | None, where: str) -> Any:
    """Return a Dataset or DataArray with a CF grid mapping, if there is a CRS.

    Raises
    ------
    StoreError
        When it is neither ``EPSG:n`` nor WKT: PROJ would read files that other texts name.
    """
    import pyproj
    import rioxarray  # noqa: F401 - registers .rio

    if crs is None:
        return data
    if not _CRS.match(crs):
        raise StoreError(f"the index is damaged: {crs[:100]!r} is no CRS", where=where)
    try:
        return data.rio.write_crs(crs)
    except pyproj.exceptions.CRSError as error:
        raise StoreError(f"the index has a CRS that PROJ does not know: {str(error)[:100]}", where=where) from None
