"""Which sample gets which split: samples that belong together make groups, and each group gets one split."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from vedastore.errors import UsageError
from vedastore.io.contact import touching
from vedastore.ops.groups import Groups, block_cells, name_groups
from vedastore.ops.shares import stratify
from vedastore.spec.likeness import BITS_APART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vedastore.ops.likeness import Likeness
    from vedastore.ops.shares import Shares

    Array = np.ndarray[Any, Any]

DEFAULT_BITS: Final = 4
"""How many bits of the hashes of images that look alike may differ."""
_WORLD_DEGREES: Final = 360.0
_BLOCK_LEAST: Final = 1e-6
_BLOCK_CHIPS: Final = (16, 8, 4, 2)
"""Sides of a chip that the side of a block may have."""
_BLOCKS_EACH: Final = 3
"""Groups that each split gets of the blocks that are chosen; of the smallest blocks it may get fewer."""


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How to split; see ``Collection.split``."""

    by: Literal["id", "place"] = "id"
    block: float | None = None
    buffer: float = 0.0
    stratify: bool = False
    duplicates: bool | int | None = None

    def __post_init__(self) -> None:
        if self.by not in ("id", "place"):  # not a set: what cannot be hashed is refused as well
            raise UsageError(f"a split is by id or by place, not by {self.by!r}")
        if self.by != "place" and (self.block is not None or self.buffer != 0):
            raise UsageError("blocks and a buffer belong to a split by place", hint="add by='place' or --by place")
        if self.block is not None and not _is_number(self.block, _BLOCK_LEAST, _WORLD_DEGREES):
            raise UsageError(
                f"a block of {self.block} degrees makes no sense", hint="give the side of a block in degrees"
            )
        if not _is_number(self.buffer, 0, _WORLD_DEGREES / 2):
            raise UsageError(f"a buffer of {self.buffer} degrees makes no sense", hint="give a distance in degrees")
        if not isinstance(self.stratify, bool):
            raise UsageError(f"stratify is {self.stratify!r}, which is neither True nor False")
        if not isinstance(self.duplicates, bool | None) and not _is_number(self.duplicates, 0, BITS_APART, Integral):
            hint = f"give True, or a whole number of bits from 0 to {BITS_APART}"
            raise UsageError(f"duplicates is {self.duplicates!r}", hint=hint)

    @property
    def bits(self) -> int | None:
        """How many bits of the hashes of alike images may differ; None where they are not looked for."""
        if self.duplicates is None or self.duplicates is False:
            return None
        return DEFAULT_BITS if self.duplicates is True else operator.index(self.duplicates)


def _is_number(value: object, least: float, most: float, kind: Any = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides: ids and boxes (n, 4) of samples, the splits of those that keep theirs, and which get a new one."""

    ids: list[str]
    boxes: Array
    kept: Array
    own: Array


@dataclass(frozen=True, slots=True)
class Allotment:
    """Which split each sample gets (n,), None for none, and what is to be reported of it."""

    splits: Array
    left_out: int = 0
    groups: int = 0
    largest: int = 0
    block: float | None = None


def allot(
    facts: Facts,
    shares: Shares,
    options: SplitOptions,
    likeness: Likeness | None,
    read_classes: Callable[[], tuple[Array, Array]],
) -> Allotment:
    """Choose splits.

    Parameters
    ----------
    facts : Facts
    shares : Shares
    options : SplitOptions
    likeness : Likeness, optional
        Of the samples' images, where the options ask for it.
    read_classes : callable
        Returns pairs of sample and class, two arrays of int; called for a split that is stratified.
    """
    alike = Groups(len(facts.ids))
    if likeness is not None and options.bits is not None:
        alike.join(likeness.pairs(options.bits))
    classes = read_classes() if options.stratify else None

    def attempt(side: float | None) -> tuple[float | None, Array, Array, int]:
        """Return the side, the group of each sample, the split of each group, and the groups of the rarest split."""
        numbers, names = _group(facts, alike.roots, side)
        chosen = _choose(facts, shares, numbers, names, classes)
        here = chosen[np.unique(numbers[facts.own])]
        return side, numbers, chosen, min(int((here == name).sum()) for name in shares.names)

    first, *smaller = _sides(facts, options)
    side, numbers, chosen, least = attempt(first)
    for other in smaller:
        if least < _BLOCKS_EACH:
            side, numbers, chosen, least = attempt(other)
    splits = chosen[numbers]
    left_out = _part(facts, shares, splits, options.buffer) if options.by == "place" else 0
    sizes = np.bincount(numbers[facts.own], minlength=1)
    return Allotment(splits, left_out, int((sizes > 0).sum()), int(sizes.max()), side)


def _sides(facts: Facts, options: SplitOptions) -> Iterator[float | None]:
    """Yield the sides of blocks to try, the largest first; None where there are no blocks."""
    if options.by == "id":
        yield None
    elif options.block is not None:
        yield float(options.block)
    else:
        sides = facts.boxes[facts.own, 2:] - facts.boxes[facts.own, :2]
        sides = sides[~np.isnan(sides[:, 0])]
        side = float(np.median(sides.max(axis=1))) if len(sides) else 1.0
        yield from (min(max(chips * side, _BLOCK_LEAST), _WORLD_DEGREES) for chips in _BLOCK_CHIPS)


def _group(facts: Facts, roots: Array, side: float | None) -> tuple[Array, list[str]]:
    """Return the group of each sample and the names of groups: alike samples, and those of one block, are together."""
    if side is None:
        return name_groups(roots, facts.ids)
    known = np.flatnonzero(~np.isnan(facts.boxes[:, 0]))
    cells = block_cells(facts.boxes[known], side)
    _, first, which = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    groups = Groups(len(facts.ids))
    groups.join([(np.arange(len(roots)), roots), (known, known[first[which.reshape(-1)]])])
    names = facts.ids.copy()
    for sample, (x, y) in zip(known.tolist(), cells.tolist(), strict=True):
        names[sample] = f"{x} {y}"
    return name_groups(groups.roots, names)


def _choose(
    facts: Facts, shares: Shares, numbers: Array, names: list[str], classes: tuple[Array, Array] | None
) -> Array:
    """Return the split of each group: that of samples in it which keep theirs, if it is one; else a new one."""
    chosen = np.full(len(names), None, dtype=object)
    mixed: set[int] = set()
    for group, kept in zip(numbers[~facts.own].tolist(), facts.kept[~facts.own].tolist(), strict=True):
        if chosen[group] not in {None, kept}:
            mixed.add(group)
        chosen[group] = kept
    chosen[list(mixed)] = None
    sizes = np.bincount(numbers[facts.own], minlength=len(names))
    free = np.flatnonzero((chosen == None) & (sizes > 0))  # noqa: E711 - an array of objects
    wanted = [names[group] for group in free.tolist()]
    if classes is None:
        chosen[free] = shares.choose(wanted)
    else:
        place = np.full(len(names), -1)
        place[free] = np.arange(len(free))
        counted = np.where(facts.own, place[numbers], -1)
        chosen[free] = stratify(shares, wanted, _count_classes(counted, classes))
    return chosen


def _count_classes(group: Array, classes: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Return how many samples (group, class, number) of each group have a class; -1 are samples that do not count.

    All samples are of a class of their own behind the others, and those without a class of one more.
    """
    owner, code = classes
    most = int(code.max(initial=-1)) + 1
    everyone = np.arange(len(group))
    bare = np.setdiff1d(everyone, owner)
    of = np.concatenate([group[owner], group, group[bare]])
    codes = np.concatenate([code, np.full(len(group), most), np.full(len(bare), most + 1)])
    keys, numbers = np.unique(of[of >= 0] * (most + 2) + codes[of >= 0], return_counts=True)
    return keys // (most + 2), keys % (most + 2), numbers


def _part(facts: Facts, shares: Shares, splits: Array, buffer: float) -> int:
    """Let samples that are within the buffer of one of a smaller split, or of one that keeps another, be of none.

    Returns how many these are.
    """
    order = sorted(set(splits[facts.own].tolist()) - {None}, key=lambda name: (shares.share_of(name), name))
    places = {name: place for place, name in enumerate(order)}
    ranks = np.array([places.get(name, -1) for name in splits.tolist()])
    left_out = 0
    for index in range(len(order) - 1, -1, -1):
        own = np.flatnonzero(facts.own & (ranks == index))
        rest = np.where(facts.own, (ranks >= 0) & (ranks < index), facts.kept != order[index])
        gone = own[touching(facts.boxes[own], facts.boxes[rest], buffer)]
        splits[gone] = None
        ranks[gone] = -1
        left_out += len(gone)
    return left_out
