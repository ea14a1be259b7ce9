"""Shares of splits: what the hash of a name says, and what makes them hold for every class."""

from __future__ import annotations

import hashlib
import math
import operator
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Array = np.ndarray[Any, Any]

_WHOLE: Final = 100.0
_HASH_BYTES: Final = 8
_ROUNDS: Final = 10
_TIE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Shares:
    """Splits with a share above 0, their shares of 1 in that order, and the seed."""

    names: tuple[str, ...]
    parts: tuple[float, ...]
    seed: int

    @staticmethod
    def of(shares: Mapping[str, float], seed: Any) -> Shares:
        """Check percentages and a seed.

        Raises
        ------
        UsageError
            When they are no percentages, do not add up to 100, or the seed is no whole number.
        """
        sound = all(isinstance(s, Real) and not isinstance(s, bool) and 0 <= s <= _WHOLE for s in shares.values())
        if not sound or not math.isclose(sum(shares.values()), _WHOLE):
            told = ", ".join(f"{name} {share}" for name, share in shares.items())
            raise UsageError(f"the shares of the splits do not add up to 100: {told}", hint="give percentages")
        try:
            seed = operator.index(seed)
        except TypeError:
            raise UsageError(f"the seed is {seed!r}", hint="give a whole number") from None
        names = tuple(name for name, share in shares.items() if share)
        return Shares(names, tuple(float(shares[name]) / _WHOLE for name in names), seed)

    def place(self, name: str) -> float:
        """Return the place of a name from 0 to 1, which its hash and the seed decide."""
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=_HASH_BYTES).digest()
        return int.from_bytes(digest, "little") / float(2 ** (8 * _HASH_BYTES))

    def choose(self, names: Iterable[str]) -> list[str]:
        """Return the split of each name by its place alone: other names, however many, change none."""
        limits = [*accumulate(self.parts)][:-1]
        return [self.names[bisect_right(limits, self.place(name))] for name in names]

    def share_of(self, name: str) -> float:
        """Return the share of a split; 0 of any other."""
        return dict(zip(self.names, self.parts, strict=True)).get(name, 0.0)


def stratify(shares: Shares, names: Sequence[str], counts: tuple[Array, Array, Array]) -> list[str]:
    """Return the split of each group so that the shares hold for every class as nearly as whole groups allow.

    Groups come in the order of the rarest class that they have (by samples, then by its place among classes) and of
    their places. Each goes where its rarest class lacks most, then where all of its classes together lack most, then to
    the first split. At last, up to ten times in the same order, a group moves to the split where that lowers the sum of
    the squares of what is lacking or too much, over splits and classes, the most. It is the iterative stratification of
    Sechidis, Tsoumakas and Vlahavas (2011) for groups, with hashes for chance and a last round.

    Parameters
    ----------
    shares : Shares
    names : sequence of str
        One of each group.
    counts : tuple of three arrays (n,) of int
        Group, class, and how many of its samples have it, in the order of groups. "All samples" is a class too.
    """
    of_group, code, number = counts
    totals = np.bincount(code, number).tolist()
    starts = np.searchsorted(of_group, np.arange(len(names) + 1)).tolist()
    pairs: list[tuple[int, int]] = list(zip(code.tolist(), number.tolist(), strict=True))
    rarest = [min((totals[c], c) for c, _ in pairs[a:b]) for a, b in pairwise(starts)]
    places = [shares.place(name) for name in names]
    order = sorted(range(len(names)), key=lambda group: (*rarest[group], places[group], names[group]))
    lack: list[list[float]] = [[part * total for total in totals] for part in shares.parts]
    splits = range(len(lack))
    chosen = [0] * len(names)

    def put(group: int, split: int, sign: int = 1) -> None:
        for c, n in pairs[starts[group] : starts[group + 1]]:
            lack[split][c] -= sign * n

    def worth(group: int, split: int) -> tuple[float, float]:
        own = lack[split]
        return own[rarest[group][1]], sum(own[c] for c, _ in pairs[starts[group] : starts[group + 1]])

    def gain(group: int, split: int) -> float:
        own = lack[split]
        return sum(n * (2 * own[c] - n) for c, n in pairs[starts[group] : starts[group + 1]])

    for group in order:
        best, most = 0, worth(group, 0)
        for split in splits[1:]:
            told = worth(group, split)
            if told[0] > most[0] + _TIE or (told[0] > most[0] - _TIE and told[1] > most[1] + _TIE):
                best, most = split, told
        chosen[group] = best
        put(group, best)
    for _ in range(_ROUNDS):
        moved = False
        for group in order:
            here = chosen[group]
            put(group, here, -1)
            gains = [gain(group, split) for split in splits]
            best = max(splits, key=gains.__getitem__)
            if gains[best] > gains[here] + _TIE:
                chosen[group], moved = best, True
            put(group, chosen[group])
        if not moved:
            break
    return [shares.names[split] for split in chosen]
