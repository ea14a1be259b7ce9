"""Counts of classes and objects, from the index alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from vedastore.store.snapshot import Snapshot

_COLUMNS: Final = ("position", "class", "area_px", "box_px")
_SIZES: Final = ("area_px", "width_px", "height_px")


def count_labels(
    snapshot: Snapshot, samples: Any
) -> tuple[dict[str, dict[str, Any]], dict[int, int], dict[str, dict[str, Any]]]:
    """Count the labels of some samples, rows of the index with position, split, classes and objects.

    Returns
    -------
    classes : dict
        By class: samples, objects, and of objects their sizes.
    objects_per_sample : dict
        How many samples have so many objects.
    splits : dict
        By split, "" for none: samples, objects, and samples by class.
    """
    names = snapshot.version.classes
    owner, code = _present(snapshot, samples.column("classes").combine_chunks())
    objects = samples.column("objects").to_numpy()
    counts, numbers = np.unique(objects, return_counts=True)
    return (
        _classes(snapshot, samples, np.bincount(code, minlength=len(names))),
        dict(zip(counts.tolist(), numbers.tolist(), strict=True)),
        _splits(samples, objects, owner, code, names),
    )


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


def _classes(snapshot: Snapshot, samples: Any, present: Any) -> dict[str, dict[str, Any]]:
    codes, sizes = _object_sizes(snapshot, samples.column("position").to_numpy())
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.searchsorted(codes[order], np.arange(1, len(present))))
    found: dict[str, dict[str, Any]] = {}
    for name, count, own in zip(snapshot.version.classes, present.tolist(), parts, strict=True):
        told = {size: _summary(values[own]) for size, values in zip(_SIZES, sizes.T, strict=True)} if len(own) else {}
        found[name] = {"samples": count, "objects": len(own), **told}
    return found


def _object_sizes(snapshot: Snapshot, positions: Any) -> tuple[Any, Any]:
    """Return the class of every object of some samples, and (object, 3) area, width and height; NaN for no place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    reader, wanted = snapshot.table("features"), pa.array(positions, "int64")
    codes, sizes = [np.empty(0, "i4")], [np.empty((0, len(_SIZES)))]
    for group in reader.groups_with(positions):
        table = reader.read(_COLUMNS, [group])
        table = table.filter(pc.is_in(table.column("position"), wanted))
        codes.append(_codes(snapshot, table.column("class")))
        column = table.column("box_px").combine_chunks()
        part = np.full((len(column), len(_SIZES)), np.nan)
        part[:, 0] = table.column("area_px").to_numpy()
        boxes = column.flatten().to_numpy().reshape(-1, 4)
        part[column.is_valid().to_numpy(zero_copy_only=False), 1:] = boxes[:, 2:] - boxes[:, :2]
        sizes.append(part)
    return np.concatenate(codes), np.concatenate(sizes)


def _splits(samples: Any, objects: Any, owner: Any, code: Any, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    splits = samples.column("split").fill_null("").combine_chunks().dictionary_encode()
    of = splits.indices.to_numpy()
    texts = splits.dictionary.to_pylist()
    counts, sums = np.bincount(of, minlength=len(texts)), np.bincount(of, objects, len(texts)).astype(int)
    entries: list[dict[str, Any]] = [
        {"samples": n, "objects": o, "classes": {}} for n, o in zip(counts.tolist(), sums.tolist(), strict=True)
    ]
    pairs, numbers = np.unique(of[owner].astype("i8") * max(1, len(names)) + code, return_counts=True)
    for pair, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
        entries[pair // len(names)]["classes"][names[pair % len(names)]] = number
    return dict(sorted(zip(texts, entries, strict=True)))


def _summary(values: Any) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return dict.fromkeys(("min", "max", "mean", "median"))
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
    }
