"""Counts of classes and objects, from the index alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError
from vedastore.io import geometry
from vedastore.ops.moments import percent_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.store.snapshot import Snapshot

_COLUMNS: Final = ("position", "class", "geometry", "area_px", "box_px")
SIZES: Final = ("area_px", "width_px", "height_px", "area_m2")


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What `count_labels` found.

    Attributes
    ----------
    classes : dict
        By class: samples, objects, and of objects their sizes.
    objects : dict
        Of all objects: count, sizes, and how many there are ``per_sample``.
    objects_per_sample : dict
        How many samples have so many objects.
    splits : dict
        By split, "" for none: samples, objects, and samples and objects by class.
    """

    classes: dict[str, dict[str, Any]]
    objects: dict[str, Any]
    objects_per_sample: dict[int, int]
    splits: dict[str, dict[str, Any]]


def count_labels(
    snapshot: Snapshot, samples: Any, percents: Sequence[float], split_names: Sequence[str]
) -> LabelCounts:
    """Count the labels of some samples.

    Parameters
    ----------
    snapshot : Snapshot
    samples : pyarrow.Table
        Rows of the index: position, classes, objects, and the number of the split of each as ``split_code``.
    percents : sequence of float
        Which percentiles of sizes are told.
    split_names : sequence of str
        The splits in the order of their numbers.
    """
    names = snapshot.version.classes
    owner, code = _present(snapshot, samples.column("classes").combine_chunks())
    per_sample = samples.column("objects").to_numpy()
    positions, split = samples.column("position").to_numpy(), samples.column("split_code").to_numpy()
    object_owner, object_code, sizes = _read_objects(snapshot, positions)
    own_of = _by_code(object_code, len(names))
    classes = {
        name: {"samples": count, **_describe(sizes[own], percents)}
        for name, count, own in zip(names, np.bincount(code, minlength=len(names)).tolist(), own_of, strict=True)
    }
    counts, numbers = np.unique(per_sample, return_counts=True)
    by_split = zip(
        np.bincount(split, minlength=len(split_names)).tolist(),
        np.bincount(split, per_sample, len(split_names)).astype(int).tolist(),
        _pairs(split[owner], code, split_names, names),
        _pairs(split[object_owner], object_code, split_names, names),
        strict=True,
    )
    keys = ("samples", "objects", "classes", "class_objects")
    return LabelCounts(
        classes=classes,
        objects={**_describe(sizes, percents), "per_sample": summarise(per_sample, percents)},
        objects_per_sample=dict(zip(counts.tolist(), numbers.tolist(), strict=True)),
        splits={name: dict(zip(keys, told, strict=True)) for name, told in zip(split_names, by_split, strict=True)},
    )


def summarise(values: Any, percents: Sequence[float]) -> dict[str, Any]:
    """Describe numbers, those that are finite: how many, extremes, mean, median and percentiles."""
    values = values[np.isfinite(values)]
    if not len(values):
        return {"count": 0, **dict.fromkeys(("min", "max", "mean", "median")), "percentiles": {}}
    with np.errstate(over="ignore"):  # what is beyond double precision is told as None
        told = {
            "min": values.min(),
            "max": values.max(),
            "mean": values.mean(),
            "median": np.median(values),
            "percentiles": dict(zip(map(percent_name, percents), np.percentile(values, percents), strict=True)),
        }
    return {"count": len(values), **_plain(told)}


def _plain(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: _plain(value) for name, value in told.items()}
    return float(told) if np.isfinite(told) else None


def _present(snapshot: Snapshot, column: Any) -> tuple[Any, Any]:
    """Return whose each class of a column of lists is, and its place among the classes of the version."""
    import pyarrow.compute as pc

    return pc.list_parent_indices(column).to_numpy(), _codes(snapshot, column.flatten())


def _codes(snapshot: Snapshot, column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    codes = pc.index_in(column, value_set=pa.array(snapshot.version.classes, "string"))
    if codes.null_count:
        raise StoreError("the index has a class that the version does not list", where=snapshot.objects.url)
    return codes.to_numpy()


def _read_objects(snapshot: Snapshot, positions: Any) -> tuple[Any, Any, Any]:
    """Return of every object of some samples whose it is among them, its class, and (object, 4) its `SIZES`.

    A size is NaN where the object has no place in pixels, or none on the ground.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    reader, wanted = snapshot.table("features"), pa.array(positions, "int64")
    owners, codes, sizes = [np.empty(0, "i8")], [np.empty(0, "i4")], [np.empty((0, len(SIZES)))]
    for group in reader.groups_with(positions):
        table = reader.read(_COLUMNS, [group])
        owner = pc.index_in(table.column("position"), value_set=wanted)
        table, owner = table.filter(owner.is_valid()), owner.drop_null()
        owners.append(owner.to_numpy())
        codes.append(_codes(snapshot, table.column("class")))
        column = table.column("box_px").combine_chunks()
        part = np.full((len(column), len(SIZES)), np.nan)
        part[:, 0] = table.column("area_px").to_numpy()
        boxes = column.flatten().to_numpy().reshape(-1, 4)
        part[column.is_valid().to_numpy(zero_copy_only=False), 1:3] = boxes[:, 2:] - boxes[:, :2]
        part[:, 3] = geometry.ground_area(geometry.parse_wkb(table.column("geometry").to_pylist()))
        sizes.append(part)
    return np.concatenate(owners), np.concatenate(codes), np.concatenate(sizes)


def _by_code(codes: Any, count: int) -> list[Any]:
    """Return the places of each of so many codes."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(1, count))) if count else []


def _describe(sizes: Any, percents: Sequence[float]) -> dict[str, Any]:
    """Describe objects by their sizes; those on the ground are there where an object has one."""
    told = {name: summarise(values, percents) for name, values in zip(SIZES, sizes.T, strict=True)}
    if not told["area_m2"]["count"]:
        del told["area_m2"]
    return {"objects": len(sizes), **(told if len(sizes) else {})}


def _pairs(split: Any, code: Any, split_names: Sequence[str], names: tuple[str, ...]) -> list[dict[str, int]]:
    """Count the classes of each split; those that it has none of are left out."""
    found: list[dict[str, int]] = [{} for _ in split_names]
    pairs, numbers = np.unique(split.astype("i8") * max(1, len(names)) + code, return_counts=True)
    for pair, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
        found[pair // len(names)][names[pair % len(names)]] = number
    return found
