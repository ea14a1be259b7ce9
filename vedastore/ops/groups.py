"""Samples that must not be parted: joined by pairs, they make groups, and each group has a name of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.spec.lonlat import HALF_WORLD, WORLD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Array = np.ndarray[Any, Any]

_PAIRS_KEPT: Final = 2**20


class Groups:
    """Groups of ``count`` samples, each alone at first.

    Attributes
    ----------
    roots : array (count,) of int
        The first sample of the group that each one is in.
    """

    def __init__(self, count: int) -> None:
        self.roots: Array = np.arange(count)

    def join(self, pairs: Iterable[tuple[Array, Array]]) -> None:
        """Join the groups of both samples of each pair; what is joined with one in between is one group too."""
        kept, size = [], 0
        for one, other in pairs:
            apart = self.roots[one] != self.roots[other]
            kept.append((one[apart], other[apart]))
            size += int(apart.sum())
            if size > _PAIRS_KEPT:
                self._join(*map(np.concatenate, zip(*kept, strict=True)))
                kept, size = [], 0
        if size:
            self._join(*map(np.concatenate, zip(*kept, strict=True)))

    def _join(self, one: Array, other: Array) -> None:
        """Let the larger root of a pair follow the smaller one, until no pair has two."""
        roots = self.roots
        while True:
            first, second = roots[one], roots[other]
            apart = first != second
            if not apart.any():
                return
            one, other, first, second = one[apart], other[apart], first[apart], second[apart]
            np.minimum.at(roots, np.maximum(first, second), np.minimum(first, second))
            while (roots != (shorter := roots[roots])).any():
                roots[:] = shorter


def block_cells(boxes: Array, side: float) -> Array:
    """Return the blocks (n, 2) of the ground, squares of so many degrees, in which the centres of boxes (n, 4) are."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    centres[:, 0] = (centres[:, 0] + HALF_WORLD) % WORLD
    cells: Array = np.floor(centres / side).astype("i8")
    return cells


def name_groups(roots: Array, names: Sequence[str]) -> tuple[Array, list[str]]:
    """Return the group of each sample as a number, and the name of each group: the first of those of its samples.

    It does not depend on the order of samples, and another sample changes it only where it joins the group.
    """
    numbers = np.unique(roots, return_inverse=True)[1].reshape(-1)
    found: dict[int, str] = {}
    for number, name in zip(numbers.tolist(), names, strict=True):
        if number not in found or name < found[number]:
            found[number] = name
    return numbers, [found[number] for number in range(len(found))]
