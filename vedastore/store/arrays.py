"""Buckets of one shape as one array: the rows of each begin where a shard would, behind those of the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.spec import keys
from vedastore.store.chips import ShardReader, allocate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vedastore.io.objects import Objects
    from vedastore.spec.root import Version
    from vedastore.store.chips import Array


def place_buckets(version: Version) -> dict[str, dict[str, int]]:
    """Return the buckets of each shape, and the row of its array at which each begins: a multiple of a shard's rows.

    The bucket that has the shape's own name is the first, so that its rows are those of the array.
    """
    places: dict[str, dict[str, int]] = {}
    ends: dict[str, int] = {}
    for name, bucket in sorted(version.buckets.items()):
        shape = keys.bucket_shape(name)
        places.setdefault(shape, {})[name] = first = ends.get(shape, 0)
        ends[shape] = first + bucket.shards * bucket.spec.samples_per_shard
    return places


def merge_buckets(table: Any, places: Mapping[str, Mapping[str, int]]) -> Any:
    """Return a table of samples whose ``bucket`` and ``row`` are shapes, and rows of the arrays of `place_buckets`.

    It has both columns, or neither.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = table.column_names
    if not {"bucket", "row"}.intersection(names) or all([*found] == [shape] for shape, found in places.items()):
        return table
    first = {name: row for found in places.values() for name, row in found.items()}
    buckets = table.column("bucket").combine_chunks().dictionary_encode()
    known, codes = buckets.dictionary.to_pylist(), buckets.indices
    shapes = pa.array([keys.bucket_shape(name) for name in known], "string").take(codes)
    rows = pc.add(table.column("row"), pa.array([first[name] for name in known], "int64").take(codes))
    return table.set_column(names.index("bucket"), "bucket", shapes).set_column(names.index("row"), "row", rows)


class ArrayReader:
    """Reads chips of all buckets of one shape. Any number of threads may share it."""

    def __init__(self, objects: Objects, version: Version, shape: str, buckets: Mapping[str, int]) -> None:
        self.spec = version.buckets[next(iter(buckets))].spec
        self._url = f"{objects.url}: {shape}"
        self._starts = np.array([*buckets.values()])
        self._readers = [ShardReader(objects, name, version.buckets[name].spec) for name in buckets]

    def read(self, row: int) -> Array:
        """Return the chip (band, y, x) of one row; the array is read-only. See `ShardReader.read`."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        chip: Array = self._readers[number].read(row - int(self._starts[number]))
        return chip

    def survey(self, shard: int) -> tuple[int, int]:
        """Do what `ShardReader.survey` does, for the bucket that has the shape's own name."""
        return self._readers[0].survey(shard)

    def read_rows(self, rows: Sequence[int] | Array) -> Array:
        """Return the chips (sample, band, y, x) of some rows, in their order. See `ShardReader.read_rows`."""
        wanted = np.asarray(rows, "i8")
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        numbers = np.unique(owner).tolist()
        if len(numbers) == 1:
            one: Array = self._readers[numbers[0]].read_rows(wanted - self._starts[numbers[0]])
            return one
        chips: Array = allocate(self.spec, len(wanted), self._url)
        for number in numbers:
            here = np.flatnonzero(owner == number)
            chips[here] = self._readers[number].read_rows(wanted[here] - self._starts[number])
        return chips
