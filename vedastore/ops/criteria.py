"""What samples are selected by: each criterion tells for a block of samples which of them it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vedastore.io import geometry, search
from vedastore.spec.lonlat import POLE, WORLD, bbox_intersects
from vedastore.spec.tables import HEAVY

if TYPE_CHECKING:
    from collections.abc import Callable

    from shapely.geometry.base import BaseGeometry

    from vedastore.spec.lonlat import Bbox
    from vedastore.store.lookup import Lookup, Positions
    from vedastore.store.snapshot import Snapshot
    from vedastore.store.sql import Condition

    Criterion = Callable[[Lookup, int, Positions], Positions]
    """Returns those of some positions of a block that it keeps."""


class Count(NamedTuple):
    """How many objects a sample must have, of one class (its place in the version's classes) or of all."""

    code: int | None
    least: int
    most: int | None


def has_classes(codes: list[int], match: str) -> Criterion:
    """Keep samples that have any, all or none of some classes."""
    wanted = sorted(set(codes))

    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        of_class, owners = lookup.classes(block)
        rows = lookup.rows(block)
        if match == "all":
            hits = np.ones(rows, dtype=bool)
            for code in wanted:
                hits &= np.bincount(owners[of_class == code], minlength=rows) > 0
        else:
            hits = np.bincount(owners[np.isin(of_class, wanted)], minlength=rows) > 0
        return _masked(lookup, block, positions, ~hits if match == "none" else hits)

    return keep


def has_objects(count: Count, *, flags: bool) -> Criterion:
    """Keep samples with so many objects; with ``flags``, as of a classification, each class of a sample is one."""

    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        numbers = _count_objects(lookup, block, count.code, flags=flags)
        hits = numbers >= count.least
        return _masked(lookup, block, positions, hits if count.most is None else hits & (numbers <= count.most))

    return keep


def _count_objects(lookup: Lookup, block: int, code: int | None, *, flags: bool) -> Any:
    """Return how many objects each sample of a block has, of one class or of all."""
    if code is None and not flags:
        return lookup.objects(block)
    of_class, owners, numbers = (*lookup.classes(block), None) if flags else lookup.counts(block)
    chosen = of_class >= 0 if code is None else of_class == code
    return np.bincount(owners[chosen], None if numbers is None else numbers[chosen], lookup.rows(block))


def is_in_split(name: str) -> Criterion:
    """Keep samples of a split, of none where its name is empty."""

    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        import pyarrow.compute as pc

        same = pc.equal(lookup.splits(block), name)
        return _masked(lookup, block, positions, same.to_numpy(zero_copy_only=False))

    return keep


def meets_box(box: Bbox) -> Criterion:
    """Keep samples whose footprint's box has a point in common with a box."""

    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        return _masked(lookup, block, positions, bbox_intersects(lookup.boxes(block), box))

    return keep


def meets_shape(shape: BaseGeometry) -> Criterion:
    """Keep samples whose footprint has a point in common with a shape."""

    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        column = lookup.table.read_rows(positions, ["geometry"]).column(0)
        boxes = lookup.boxes(block)[:, positions - lookup.start(block)]
        kept: Positions = positions[search.intersects(_unrolled(geometry.parse_wkb(column.to_pylist()), boxes), shape)]
        return kept

    return keep


def fulfils(condition: Condition, snapshot: Snapshot) -> Criterion:
    """Keep samples for which a condition in SQL is true."""
    places = ("bucket", "row")
    columns = [*dict.fromkeys((*condition.columns, *(places if {*places}.intersection(condition.columns) else ())))]

    def keep(lookup: Lookup, _: int, positions: Positions) -> Positions:
        # One row group at a time where the columns may be of any size.
        parts = lookup.table.split(positions) if set(HEAVY).intersection(condition.columns) else [positions]
        found = [condition.find(snapshot.read_places(part, columns)) for part in parts]
        kept: Positions = positions[np.isin(positions, np.concatenate(found))]
        return kept

    return keep


def _masked(lookup: Lookup, block: int, positions: Positions, hits: Any) -> Positions:
    """Return the positions that are hit; ``hits`` are places in the block, or a truth value for each of its samples."""
    start = lookup.start(block)
    mask = np.zeros(lookup.rows(block), dtype=bool)
    mask[hits] = True
    return positions[mask[positions - start]]


def _unrolled(shapes: Any, boxes: Any) -> Any:
    """Return footprints as they lie on the plane: without the jump from 180 to -180, up to the pole that is in them.

    ``boxes`` are theirs, (4, n).
    """
    import shapely

    west, south, east, north = boxes
    over = west > east
    shapes[over] = geometry.turn_towards(shapes[over], (west[over] + east[over] + WORLD) / 2)
    edges = geometry.bounds(shapes)
    polar = ((south == -POLE) & (edges[:, 1] > -POLE)) | ((north == POLE) & (edges[:, 3] < POLE))
    shapes[polar] = shapely.box(*boxes[:, polar])
    return shapes
