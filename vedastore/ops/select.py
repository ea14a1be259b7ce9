"""Select samples: which of them have what is asked for. What is asked is checked first, and found block by block.

A sample is selected that every criterion keeps.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import SampleNotFoundError, UsageError
from vedastore.io import search
from vedastore.model import EXAMPLES
from vedastore.ops.criteria import Count, fulfils, has_classes, has_objects, is_in_split, meets_box, meets_shape
from vedastore.spec.lonlat import HALF_WORLD
from vedastore.store.sql import Condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vedastore.ops.criteria import Criterion
    from vedastore.spec.lonlat import Bbox
    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot

MATCHES: Final = ("any", "all", "none")
_EDGES: Final = 4


def select(
    snapshot: Snapshot,
    positions: Positions,
    *,
    ids: Iterable[str] | str | None = None,
    classes: Iterable[str] | str | None = None,
    match: str = "any",
    objects: Any = None,
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
    asked = {"classes": classes, "match": match, "objects": objects, "split": split}
    criteria = list(_criteria(snapshot, **asked, bbox=bbox, intersects=intersects, where=where))
    most = None if limit is None else _parse_whole(limit, "the limit", "samples")
    if split:
        _require_split(snapshot, split)
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
    snapshot: Snapshot,
    *,
    classes: Any,
    match: Any,
    objects: Any,
    split: Any,
    bbox: Any,
    intersects: Any,
    where: Any,
) -> Iterator[Criterion]:
    """Yield what is asked for, those that cost most last."""
    if match not in MATCHES or (classes is None and match != MATCHES[0]):
        raise UsageError(f"match is {match!r}", hint=f"give classes, and one of {', '.join(MATCHES)}")
    if classes is not None:
        yield has_classes(_parse_classes(snapshot, classes), match)
    if split is not None:
        yield is_in_split(_parse_text(split, "split"))
    if bbox is not None:
        yield meets_box(_parse_box(bbox))
    if intersects is not None:
        shape = search.parse_shape(intersects)
        yield meets_box(shape.bounds)
        yield meets_shape(shape)
    if objects is not None:
        flags = snapshot.version.task == "classification"
        yield from (has_objects(count, flags=flags) for count in _parse_objects(snapshot, objects))
    if where is not None:
        yield fulfils(Condition(_parse_text(where, "where"), snapshot.table("samples").schema), snapshot)


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


def require_samples(snapshot: Snapshot, positions: Positions) -> None:
    """Refuse to write what a selection without samples comes to."""
    if not len(positions):
        hint = "ask for less, or for what is there"
        raise UsageError("there is no sample in the selection", where=snapshot.objects.url, hint=hint)


def _require_split(snapshot: Snapshot, name: str) -> None:
    """Refuse a split that no sample of the version has: most likely it is a slip."""
    if not snapshot.lookup.has_split(name):
        names = snapshot.lookup.split_names()
        hint = _told(names) if names else "no sample is of one; vedastore split makes some"
        raise UsageError(f"there is no split {name!r}", where=snapshot.objects.url, hint=hint)


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
            raise UsageError(f"there is no class {name!r}", where=snapshot.objects.url, hint=_told(known))
    return [known.index(name) for name in names]


def _told(names: Sequence[str]) -> str:
    return f"there are {', '.join(names[:EXAMPLES])}{' and others' if len(names) > EXAMPLES else ''}"


def _parse_objects(snapshot: Snapshot, given: Any) -> list[Count]:
    """Return how many objects are asked for: of all classes, or of each one that a mapping names."""
    if not isinstance(given, Mapping):
        return [Count(None, *_parse_range(given))]
    codes = _parse_classes(snapshot, list(given))
    return [Count(code, *_parse_range(edges)) for code, edges in zip(codes, given.values(), strict=True)]


def _parse_range(given: Any) -> tuple[int, int | None]:
    """Return the least and the greatest number; None where there is no greatest."""
    edges = tuple(given) if isinstance(given, tuple | list) else (given, None)
    if len(edges) != 2:  # noqa: PLR2004 - least and most
        raise UsageError(f"{given!r} is no range of numbers", hint="give (least, most), with None for an open end")
    least, most = (None if edge is None else _parse_whole(edge, "a count", "objects") for edge in edges)
    if least is None and most is None:
        raise UsageError("the range of numbers is open at both ends", hint="give the least or the greatest number")
    if least is not None and most is not None and least > most:
        raise UsageError(f"no count is from {least} to {most}", hint="give the least number first")
    return least or 0, most


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


def _parse_whole(given: Any, what: str, noun: str) -> int:
    try:
        number = operator.index(given)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(f"{what} is {given!r}", hint=f"give a whole number of {noun}")
    return number
