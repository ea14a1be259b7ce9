"""Select samples: which of them have what is asked for. What is asked is checked first, and found block by block.

Every criterion tells for a block of samples which of them it keeps; a sample is selected that all of them keep.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import SampleNotFoundError, UsageError
from vedastore.io import geometry, search
from vedastore.model import EXAMPLES
from vedastore.spec.lonlat import HALF_WORLD, POLE, WORLD, bbox_intersects
from vedastore.spec.tables import HEAVY
from vedastore.store.sql import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shapely.geometry.base import BaseGeometry

    from vedastore.spec.lonlat import Bbox
    from vedastore.store.lookup import Lookup, Positions
    from vedastore.store.snapshot import Snapshot

    Criterion = Callable[[Lookup, int, Positions], Positions]
    """Returns those of some positions of a block that it keeps."""

_EDGES: Final = 4


def select(
    snapshot: Snapshot,
    positions: Positions,
    *,
    ids: Iterable[str] | str | None = None,
    classes: Iterable[str] | str | None = None,
    bbox: Iterable[float] | None = None,
    intersects: Any = None,
    split: str | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> Positions:
    """Return those of some positions that have all that is asked for, in their order; see ``Collection.select``.

    Raises
    ------
    SampleNotFoundError
        When an id is not among them.
    UsageError
        When what is asked for makes no sense.
    """
    criteria = list(_criteria(snapshot, classes=classes, split=split, bbox=bbox, intersects=intersects, where=where))
    most = None if limit is None else _parse_limit(limit)
    if ids is not None:
        positions = _with_ids(snapshot, positions, _parse_names(ids, "ids"))
    if not criteria:
        return positions[:most]
    lookup, found, count = snapshot.lookup, [positions[:0]], 0
    for block, part in lookup.blocks(positions):
        for keep in criteria:
            part = keep(lookup, block, part) if len(part) else part  # noqa: PLW2901 - it becomes smaller
        found.append(part)
        count += len(part)
        if most is not None and count >= most:
            break
    return np.concatenate(found)[:most]


def _criteria(
    snapshot: Snapshot, *, classes: Any, split: Any, bbox: Any, intersects: Any, where: Any
) -> Iterator[Criterion]:
    """Yield what is asked for, those that cost most last."""
    if classes is not None:
        yield _has_classes(_parse_classes(snapshot, classes))
    if split is not None:
        yield _is_in_split(_parse_text(split, "split"))
    if bbox is not None:
        yield _meets_box(_parse_box(bbox))
    if intersects is not None:
        shape = search.parse_shape(intersects)
        yield _meets_box(shape.bounds)
        yield _meets_shape(shape)
    if where is not None:
        yield _fulfils(Condition(_parse_text(where, "where"), snapshot.table("samples").schema))


def find_bounds(snapshot: Snapshot, positions: Positions) -> Bbox | None:
    """Return the box around the footprints of samples; None without one.

    It spans all longitudes where one of them runs over the antimeridian.
    """
    lookup = snapshot.lookup
    parts = [lookup.boxes(block)[:, part - lookup.start(block)] for block, part in lookup.blocks(positions)]
    boxes = np.concatenate([np.empty((_EDGES, 0)), *parts], axis=1)
    boxes = boxes[:, ~np.isnan(boxes[0])]
    over = boxes[0] > boxes[2]
    boxes[0, over], boxes[2, over] = -HALF_WORLD, HALF_WORLD
    if not boxes.size:
        return None
    (west, south), (east, north) = boxes[:2].min(axis=1).tolist(), boxes[2:].max(axis=1).tolist()
    return west, south, east, north


# ------------------------------------------------------------------------------------------------------------ criteria


def _has_classes(codes: list[int]) -> Criterion:
    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        of_class, owners = lookup.classes(block)
        return _masked(lookup, block, positions, owners[np.isin(of_class, codes)])

    return keep


def _is_in_split(name: str) -> Criterion:
    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        import pyarrow.compute as pc

        same = pc.equal(lookup.splits(block), name).fill_null(fill_value=False)
        return _masked(lookup, block, positions, np.flatnonzero(same.to_numpy(zero_copy_only=False)))

    return keep


def _meets_box(box: Bbox) -> Criterion:
    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        return _masked(lookup, block, positions, np.flatnonzero(bbox_intersects(lookup.boxes(block), box)))

    return keep


def _meets_shape(shape: BaseGeometry) -> Criterion:
    def keep(lookup: Lookup, block: int, positions: Positions) -> Positions:
        column = lookup.table.read_rows(positions, ["geometry"]).column(0)
        boxes = lookup.boxes(block)[:, positions - lookup.start(block)]
        kept: Positions = positions[search.intersects(_unrolled(geometry.parse_wkb(column.to_pylist()), boxes), shape)]
        return kept

    return keep


def _fulfils(condition: Condition) -> Criterion:
    def keep(lookup: Lookup, _: int, positions: Positions) -> Positions:
        # One row group at a time where the columns may be of any size.
        parts = lookup.table.split(positions) if set(HEAVY).intersection(condition.columns) else [positions]
        found = [condition.find(lookup.table.read_rows(part, condition.columns)) for part in parts]
        kept: Positions = positions[np.isin(positions, np.concatenate(found))]
        return kept

    return keep


def _masked(lookup: Lookup, block: int, positions: Positions, hits: Any) -> Positions:
    """Return the positions that are hit; ``hits`` are places in the block."""
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


def _with_ids(snapshot: Snapshot, positions: Positions, ids: list[str]) -> Positions:
    found: Positions = positions[snapshot.lookup.mask_ids(ids, positions)]
    known = set(snapshot.lookup.names(found))
    missing = [name for name in dict.fromkeys(ids) if name not in known]
    if missing:
        told = f"{', '.join(map(repr, missing[:EXAMPLES]))}{' and others' if len(missing) > EXAMPLES else ''}"
        raise SampleNotFoundError(f"{len(missing)} ids are of no sample: {told}", where=snapshot.objects.url)
    return found


# ----------------------------------------------------------------------------------------------------------- arguments


def _parse_names(given: Any, what: str) -> list[str]:
    """Return one name or several as a list."""
    names = [given] if isinstance(given, str) or not np.iterable(given) else list(given)
    return [_parse_text(name, what) for name in names]


def _parse_text(given: Any, what: str) -> str:
    try:
        text = str.encode(given).decode()
    except (TypeError, UnicodeEncodeError):
        raise UsageError(f"{what} is {given!r}, which is no text") from None
    return text


def _parse_classes(snapshot: Snapshot, given: Any) -> list[int]:
    known, names = snapshot.version.classes, _parse_names(given, "classes")
    for name in names:
        if name not in known:
            hint = f"there are {', '.join(known[:EXAMPLES])}{' and others' if len(known) > EXAMPLES else ''}"
            raise UsageError(f"there is no class {name!r}", where=snapshot.objects.url, hint=hint)
    return [known.index(name) for name in names]


def _parse_box(given: Any) -> Bbox:
    hint = "give (west, south, east, north) in degrees; west is above east over the antimeridian"
    try:
        box = tuple(float(edge) for edge in given)
    except (TypeError, ValueError):
        raise UsageError(f"{given!r} is no box", hint=hint) from None
    if len(box) != _EDGES or not all(map(math.isfinite, box)):
        raise UsageError(f"{box} is no box of four numbers", hint=hint)
    west, south, east, north = box
    if south > north:
        raise UsageError(f"the box has its south, {south}, above its north, {north}", hint=hint)
    return west, south, east, north


def _parse_limit(given: Any) -> int:
    try:
        limit = operator.index(given)
    except TypeError:
        limit = -1
    if limit < 0:
        raise UsageError(f"the limit is {given!r}", hint="give a whole number of samples")
    return limit
