"""Which object of one version is which of another: equal shapes first, then the nearest."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vedastore.io import geometry
from vedastore.ops.differences import ObjectDiff

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

_PAIRS_LIMIT: Final = 2**26
"""Pairs of objects of one class and sample that are compared; labels that ask for more are hostile or all new."""
_BLOCK_PAIRS: Final = 2**18
_CANDIDATES_LIMIT: Final = 2**20
"""Pairs of them that are near each other."""

Boxes = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.float64]]
"""Boxes and centroids in pixels, (n, 6)."""
Pairs = list[tuple[int, int]]
Rest = tuple[list[int], list[int]]
"""What has no counterpart yet, on both sides."""


class Objects(NamedTuple):
    """Objects of some samples: whose each is, its class and place there, its shapes (WKB), its box (n, 4) in pixels."""

    owner: Sequence[int]
    class_name: Sequence[str]
    ordinal: Sequence[int]
    ground: Sequence[bytes | None]
    pixel: Sequence[bytes | None]
    boxes: Boxes


def match_objects(old: Objects, new: Objects) -> list[tuple[int, ObjectDiff]]:
    """Return what became of the objects that are not as they were, each with its owner, in the order of owners.

    An object is as it was where the same sample has one of the same class and shape, in the coordinates of the label
    file or in pixels; where a ring begins, and which way round it goes, does not count. One of the same shape and
    another class has another class. What is left is paired within its class, the nearest in pixels first, up to the
    diagonal of the larger box; centroid and edges of the box count. What is left then was removed, or is new.
    """
    rest = list(range(len(old.owner))), list(range(len(new.owner)))
    _, rest = _pair_equal(rest, _keys(old, old.ground), _keys(new, new.ground))
    forms = _forms(old, rest[0]), _forms(new, rest[1])
    _, rest = _pair_equal(rest, _keys(old, forms[0]), _keys(new, forms[1]))
    renamed, rest = _pair_equal(rest, _keys(old, forms[0], named=False), _keys(new, forms[1], named=False))
    places = _places(old, rest[0]), _places(new, rest[1])
    moved = [pair for group in _groups(old, new, *rest) for pair in _pair_near(places[0], places[1], *group)]
    gone, come = _without(rest, moved)
    found = _measure(old, new, moved)
    for i, j in renamed:
        told = ObjectDiff("renamed", new.class_name[j], old.class_name[i], old.ordinal[i], new.ordinal[j])
        found.append((old.owner[i], told))
    found += [(old.owner[i], ObjectDiff("removed", old.class_name[i], old=old.ordinal[i])) for i in gone]
    found += [(new.owner[j], ObjectDiff("added", new.class_name[j], new=new.ordinal[j])) for j in come]
    return sorted(found, key=_order)


def _order(item: tuple[int, ObjectDiff]) -> tuple[int, str, int, int]:
    owner, told = item
    return owner, told.class_name, -1 if told.old is None else told.old, -1 if told.new is None else told.new


def _keys(objects: Objects, forms: Sequence[bytes | None], *, named: bool = True) -> list[Hashable]:
    """Return owner, class and form of each object; None for those without a form."""
    names = objects.class_name if named else [""] * len(forms)
    return [form and (owner, name, form) for owner, name, form in zip(objects.owner, names, forms, strict=True)]


def _forms(objects: Objects, rest: list[int]) -> list[bytes | None]:
    """Return the shapes of objects: those of the rest in pixels and in normal form, where they have a place there."""
    forms = list(objects.ground)
    for i, form in zip(rest, geometry.normal_wkb(geometry.parse_wkb([objects.pixel[i] for i in rest])), strict=True):
        forms[i] = form or forms[i]
    return forms


def _pair_equal(rest: Rest, old_keys: list[Hashable], new_keys: list[Hashable]) -> tuple[Pairs, Rest]:
    """Return pairs of objects with one key, each in one pair, and what is left on both sides."""
    waiting: dict[Hashable, deque[int]] = defaultdict(deque)
    for j in rest[1]:
        waiting[new_keys[j]].append(j)
    waiting.pop(None, None)
    pairs = [(i, same.popleft()) for i in rest[0] if (same := waiting.get(old_keys[i]))]
    return pairs, _without(rest, pairs)


def _without(rest: Rest, pairs: Pairs) -> Rest:
    gone, come = {i for i, _ in pairs}, {j for _, j in pairs}
    return [i for i in rest[0] if i not in gone], [j for j in rest[1] if j not in come]


def _places(objects: Objects, rest: list[int]) -> Places:
    """Return where the rest of the objects is; without a centroid, the centre of the box stands for it."""
    found = np.full((len(objects.owner), 6), np.nan)
    boxes, centroids = objects.boxes[rest], geometry.centroids(geometry.parse_wkb([objects.pixel[i] for i in rest]))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    found[rest] = np.concatenate([boxes, np.where(np.isfinite(centroids), centroids, centres)], axis=1)
    return found


def _groups(old: Objects, new: Objects, left: list[int], right: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the objects of each owner and class that have a place in pixels on both sides."""
    sides: list[dict[tuple[int, str], list[int]]] = []
    for objects, rest in ((old, left), (new, right)):
        found = defaultdict(list)
        placed: list[bool] = np.isfinite(objects.boxes).all(axis=1).tolist()  # type: ignore[assignment]
        for i in rest:
            if placed[i]:
                found[objects.owner[i], objects.class_name[i]].append(i)
        sides.append(found)
    for key, olds in sides[0].items():
        if news := sides[1].get(key):
            yield olds, news


def _pair_near(old: Places, new: Places, olds: list[int], news: list[int]) -> Pairs:
    """Return pairs of objects, the nearest first; none is in two. None where there are too many to compare."""
    if len(olds) * len(news) > _PAIRS_LIMIT:
        return []
    rows = max(1, _BLOCK_PAIRS // len(news))
    found: list[tuple[Any, Any, Any]] = []
    for start in range(0, len(olds), rows):
        apart = _apart(old[olds[start : start + rows]], new[news])
        i, j = np.nonzero(np.isfinite(apart))
        found.append((apart[i, j], i + start, j))
        if sum(len(part[0]) for part in found) > _CANDIDATES_LIMIT:
            return []
    apart, i, j = (np.concatenate(parts) for parts in zip(*found, strict=True))
    pairs: Pairs = []
    gone, come = set(), set()
    for at in np.lexsort((j, i, apart)).tolist():
        a, b = olds[i[at]], news[j[at]]
        if a not in gone and b not in come:
            gone.add(a)
            come.add(b)
            pairs.append((a, b))
    return pairs


def _apart(old: Places, new: Places) -> Any:
    """Return how far objects are apart (n, m), infinitely where that is more than the diagonal of the larger box.

    It is the root mean square over both edges and the centroid: of an object that only moved, how far it did.
    """
    with np.errstate(all="ignore"):  # numbers of strangers may be huge: what is no number is near nothing
        apart = np.sqrt(np.square(old[:, None] - new[None]).sum(axis=2) / 3)
        diagonals = [np.hypot(*(p[:, 2:4] - p[:, :2]).T) for p in (old, new)]
        return np.where(apart <= np.maximum(diagonals[0][:, None], diagonals[1][None]), apart, np.inf)


def _measure(old: Objects, new: Objects, moved: Pairs) -> list[tuple[int, ObjectDiff]]:
    before = geometry.parse_wkb([old.pixel[i] for i, _ in moved])
    after = geometry.parse_wkb([new.pixel[j] for _, j in moved])
    distances, overlaps = geometry.centroid_distances(before, after), geometry.overlaps(before, after)
    numbers = zip(_known(distances), _known(overlaps), strict=True)
    return [
        (old.owner[i], ObjectDiff("moved", new.class_name[j], None, old.ordinal[i], new.ordinal[j], distance, iou))
        for (i, j), (distance, iou) in zip(moved, numbers, strict=True)
    ]


def _known(numbers: Any) -> list[float | None]:
    return [number if np.isfinite(number) else None for number in numbers.tolist()]
