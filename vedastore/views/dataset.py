"""A collection as xarray: images on Dask, one task a shard, and what is known of each sample beside them."""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.spec.arrays import DIMENSIONS
from vedastore.spec.nodata import parse_nodata
from vedastore.views.labels import multi_hot
from vedastore.views.objects import EDGES, Drawing, draw_masks, pad_boxes, plan_drawing, require_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr

    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.snapshot import Snapshot

_CRS = re.compile(r"EPSG:[0-9]{1,9}\Z|[A-Z][A-Z0-9_]*\[")
_ID = {"long_name": "id of the sample"}
_SPLIT = {"long_name": "split of the sample, empty for none"}
_TRANSFORM = {"long_name": "from pixels to the CRS: x = a * column + b * row + c, y = d * column + e * row + f"}
_CRS_OF_EACH = {"long_name": "CRS of the sample, empty for none"}
_COLUMNS = ("id", "position", "bucket", "row", "split", "crs", "transform", "nodata", "classes", "objects")


def build_dataset(snapshot: Snapshot, positions: Any, *, labels: bool, bucket: str | None) -> xr.Dataset:
    """Return the samples at some positions as a Dataset; nothing but the index is read.

    Raises
    ------
    UsageError
        When the samples are of several shapes or types and no bucket is named, or no such bucket is there.
    """
    import xarray as xr

    added = snapshot.table("samples").added
    table, chosen = read_index(snapshot, positions, (*_COLUMNS, *added), bucket)
    spec = snapshot.arrays[chosen].spec
    rows, lengths = _shard_runs(table, spec)
    image = _lazy_chips(snapshot, chosen, rows, lengths)
    coords: dict[str, Any] = {
        "id": ("sample", np.array(table.column("id").to_pylist(), dtype=object), _ID),
        "split": ("sample", _column_values(table.column("split")), _SPLIT),
        "transform": (("sample", "affine"), _transforms(table.column("transform")), _TRANSFORM),
        "affine": ("affine", np.array([*"abcdef"], dtype=object)),
        **{name: ("sample", _column_values(table.column(name))) for name in added},
    }
    data: dict[str, Any] = {"image": (DIMENSIONS, image, {"long_name": "pixel values as stored", "units": "1"})}
    version = snapshot.version
    if labels and version.task == "classification":
        coords["class"] = ("class", np.array(version.classes, dtype=object))
        hot = multi_hot(table.column("classes").to_pylist(), version.classes)
        told = {"long_name": "whether the sample has the class", "flag_values": np.array([0, 1], hot.dtype)}
        data["label"] = (("sample", "class"), hot, {**told, "flag_meanings": "no yes"})
    elif labels:
        require_objects(snapshot, table.column("position").to_numpy())
        if version.task == "segmentation":
            data["mask"] = build_masks(snapshot, table, spec, lengths)
        else:
            data |= _lazy_boxes(snapshot, table, lengths)
            coords["edge"] = ("edge", np.array(EDGES, dtype=object))
    nodata, crs = (table.column(name).unique().to_pylist() for name in ("nodata", "crs"))
    if len(crs) > 1:
        coords["crs"] = ("sample", _column_values(table.column("crs")), _CRS_OF_EACH)
    dataset = xr.Dataset(data, coords, _attributes(snapshot))
    if len(nodata) == 1 and (value := parse_nodata(nodata[0], spec.dtype)) is not None:
        dataset["image"].attrs["_FillValue"] = value
    return write_crs(dataset, crs[0], snapshot.objects.url) if len(crs) == 1 else dataset


def build_tree(snapshot: Snapshot, positions: Any, *, labels: bool) -> xr.DataTree:
    """Return the samples at some positions as one Dataset a bucket; nothing but the index is read."""
    import xarray as xr

    buckets = snapshot.read_places(positions, ["bucket", "row"]).column("bucket").combine_chunks()
    names = buckets.dictionary_encode()
    codes, known = names.indices.to_numpy(), names.dictionary.to_pylist()
    nodes = {
        name: build_dataset(snapshot, positions[codes == code], labels=labels, bucket=name)
        for code, name in sorted(enumerate(known), key=itemgetter(1))
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=_attributes(snapshot)), **nodes})


def _attributes(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a Dataset says of itself: ``source`` is the store, and ``release`` what it was made from."""
    version = snapshot.version
    release = version.source.get("url")
    return {
        "Conventions": "CF-1.12",
        "title": version.name,
        "version": version.version,
        "task": version.task,
        "classes": list(version.classes),
        "source": snapshot.objects.url,
        **({"release": release} if release else {}),
    }


def mask_array(
    snapshot: Snapshot,
    positions: Any,
    *,
    instances: bool,
    scale: float,
    order: Sequence[str] | None,
    bucket: str | None,
) -> xr.DataArray:
    """Return the masks of the samples at some positions; see ``Collection.masks``."""
    import xarray as xr

    table, chosen = read_index(snapshot, positions, ("id", "position", "bucket", "row", "objects"), bucket)
    require_objects(snapshot, table.column("position").to_numpy())
    spec = snapshot.arrays[chosen].spec
    _, lengths = _shard_runs(table, spec)
    masks = build_masks(snapshot, table, spec, lengths, instances=instances, scale=scale, order=order)
    return xr.DataArray(masks, {"id": ("sample", np.array(table.column("id").to_pylist(), dtype=object))}, name="mask")


def read_index(snapshot: Snapshot, positions: Any, columns: Sequence[str], bucket: str | None) -> tuple[Any, str]:
    """Read columns of the samples at some positions that are of one bucket.

    Returns
    -------
    (pyarrow.Table, str)
        The rows in the order of the positions, and the bucket's name.

    Raises
    ------
    UsageError
        When the samples are of several buckets and none is named, or there are none.
    """
    table, names = read_samples(snapshot, positions, columns, bucket)
    other = "; to_datatree() and xr.open_datatree have an array of each"
    return table, only_bucket(names, snapshot.objects.url, other)


def only_bucket(names: Sequence[str], where: str, other: str = "") -> str:
    """Return the one name of a bucket, or refuse several; ``other`` is what else the caller can do."""
    if len(names) > 1:
        hint = f"name one with bucket=: {', '.join(names)}{other}"
        raise UsageError("the samples are of several shapes or types, which no one array holds", where=where, hint=hint)
    return names[0]


def read_samples(
    snapshot: Snapshot, positions: Any, columns: Sequence[str], bucket: str | None
) -> tuple[Any, list[str]]:
    """Read columns of the samples at some positions, of one bucket where it is named.

    Returns
    -------
    (pyarrow.Table, list of str)
        The rows in the order of the positions, and the names of their buckets.

    Raises
    ------
    UsageError
        When there are no such samples.
    """
    import pyarrow.compute as pc

    where = snapshot.objects.url
    table = snapshot.read_places(positions, columns)
    names = sorted(table.column("bucket").unique().to_pylist())
    if not names:
        raise UsageError("there is no sample to make an array of", where=where)
    if bucket is None:
        return table, names
    if bucket not in names:
        raise UsageError(f"there is no bucket {bucket!r:.200}", where=where, hint=f"there are {', '.join(names)}")
    return table.filter(pc.equal(table.column("bucket"), bucket)), [bucket]


def _shard_runs(table: Any, spec: ChipSpec) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """Return the rows of samples in their bucket, and how many of one shard stand side by side each time."""
    rows = table.column("row").to_numpy()
    breaks = np.flatnonzero(np.diff(rows // spec.samples_per_shard)) + 1
    return rows, tuple(np.diff([0, *breaks, len(rows)]).tolist())


def _lazy_chips(snapshot: Snapshot, bucket: str, rows: np.ndarray[Any, Any], lengths: tuple[int, ...]) -> Any:
    """Return a Dask array of the chips of some rows; one task reads those that are of one shard and neighbours here."""
    import dask.array as da
    from dask.base import tokenize

    spec = snapshot.arrays[bucket].spec
    return da.map_blocks(
        _read_block,
        da.from_array(rows, chunks=(lengths,)),
        snapshot=snapshot,
        bucket=bucket,
        name="chips-" + tokenize(snapshot.objects.url, snapshot.root.write_id, snapshot.version.version, bucket, rows),
        chunks=(lengths, *((size,) for size in spec.shape)),
        new_axis=[1, 2, 3],
        meta=np.empty((0,) * len(DIMENSIONS), spec.dtype),
    )


def build_masks(
    snapshot: Snapshot,
    table: Any,
    spec: ChipSpec,
    lengths: tuple[int, ...],
    *,
    instances: bool = False,
    scale: float = 1.0,
    order: Sequence[str] | None = None,
) -> xr.Variable:
    """Return the masks (sample, y, x) of some samples on Dask, with what the numbers mean as attributes."""
    import xarray as xr

    classes, most = snapshot.version.classes, max(table.column("objects").to_pylist(), default=0)
    drawing = plan_drawing(classes, (spec.height, spec.width), most, instances=instances, scale=scale, order=order)
    masks = _lazy_labels(
        snapshot, table, lengths, read=draw_masks, shape=drawing.shape, dtype=drawing.dtype, how=drawing
    )
    attributes: dict[str, Any] = {"long_name": "object of the sample, from 1 on" if instances else "class"}
    if not instances:
        attributes |= _flags("background", classes, drawing.dtype)
    return xr.Variable(("sample", "y", "x"), masks, attributes)


def _lazy_boxes(snapshot: Snapshot, table: Any, lengths: tuple[int, ...]) -> dict[str, xr.Variable]:
    """Return boxes and their classes on Dask, padded to those of the sample that has most, and how many each has."""
    import xarray as xr

    counts = table.column("objects").to_numpy()
    most = int(counts.max(initial=0))
    padded = _lazy_labels(
        snapshot, table, lengths, read=pad_boxes, shape=(most, len(EDGES) + 1), dtype="float64", how=most
    )
    codes = padded[..., len(EDGES)]
    told = {"long_name": "class", **_flags("no_box", snapshot.version.classes, "uint32")}
    edges = {"units": "px", "long_name": "box around an object, from the corner of the first pixel"}
    return {
        "boxes": xr.Variable(("sample", "box", "edge"), padded[..., : len(EDGES)], edges),
        "box_class": xr.Variable(("sample", "box"), codes.map_blocks(_whole, dtype="uint32"), told),
        "box_count": xr.Variable(("sample",), counts, {"long_name": "boxes of the sample", "units": "1"}),
    }


def _flags(nothing: str, classes: Sequence[str], dtype: str) -> dict[str, Any]:
    """Return what numbers mean, as CF has it: 0 is nothing, 1 the first class. A meaning is one word."""
    meanings = " ".join(re.sub(r"\s+", "_", name) for name in (nothing, *classes))
    return {"flag_values": np.arange(len(classes) + 1, dtype=dtype), "flag_meanings": meanings}


def _whole(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.nan_to_num(codes, nan=0.0).astype("u4")
    return found


def _lazy_labels(
    snapshot: Snapshot,
    table: Any,
    lengths: tuple[int, ...],
    *,
    read: Callable[..., np.ndarray[Any, Any]],
    shape: tuple[int, ...],
    dtype: str,
    how: Drawing | int,
) -> Any:
    """Return a Dask array (sample, *shape) of what is read of the labels, in the chunks of the images."""
    import dask.array as da
    from dask.base import tokenize

    positions = table.column("position").to_numpy()
    # Versions of one root may differ in their labels: arrays of one name are one array to Dask.
    token = tokenize(snapshot.objects.url, snapshot.root.write_id, snapshot.version.version, positions, shape, how)
    return da.map_blocks(
        _read_labels,
        da.from_array(positions, chunks=(lengths,)),
        snapshot=snapshot,
        read=read,
        how=how,
        name=f"{read.__name__}-{token}",
        chunks=(lengths, *((size,) for size in shape)),
        new_axis=list(range(1, len(shape) + 1)),
        meta=np.empty((0,) * (len(shape) + 1), dtype),
    )


def _read_labels(positions: np.ndarray[Any, Any], snapshot: Snapshot, read: Any, how: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = read(positions, snapshot, how)
    return found


def _read_block(rows: np.ndarray[Any, Any], snapshot: Snapshot, bucket: str) -> np.ndarray[Any, Any]:
    return snapshot.chips(bucket).read_rows(rows)


def _column_values(column: Any) -> np.ndarray[Any, Any]:
    """Return a column of texts or numbers; for those that are missing there is an empty text, or NaN."""
    values: np.ndarray[Any, Any]
    if str(column.type) == "string":
        texts = column.fill_null("").combine_chunks().dictionary_encode()  # samples of one text share it
        values = np.array(texts.dictionary.to_pylist(), dtype=object)[texts.indices.to_numpy()]
    else:
        values = (column.cast("double") if column.null_count else column).to_numpy()
    return values


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
