"""Which sample is in which batch: decided by size, shuffle, seed and epoch alone, whoever reads the batches."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from vedastore.errors import UsageError

WINDOW_SHARDS: Final = 4
"""Shards whose chips ``shuffle="shards"`` mixes: some 256 MiB of raw pixels."""
EPOCHS: Final = 2**32
"""The last epoch."""
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Order:
    """How the samples of a selection follow each other.

    ``size`` is that of a batch. With ``shuffle``, another ``seed`` or ``epoch`` gives another order; ``"shards"``
    shuffles the shards, and then the samples of a few shards at a time.

    Raises
    ------
    UsageError
        When a number is below its least, or ``shuffle`` is another word.
    """

    size: int
    shuffle: bool | Literal["shards"] = False
    seed: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("size", 1, None), ("seed", 0, None), ("epoch", 0, EPOCHS)):
            object.__setattr__(self, name, whole(getattr(self, name), name, least=least, most=most))
        if not (isinstance(self.shuffle, str) and self.shuffle == "shards"):
            if not isinstance(self.shuffle, bool | np.bool):
                raise UsageError(f"shuffle is {self.shuffle!r:.80}", hint='give True, False or "shards"')
            object.__setattr__(self, "shuffle", bool(self.shuffle))

    def arrange(self, shards: Any) -> Indices:
        """Return the order of samples, given the shard of each.

        Examples
        --------
        >>> Order(2, shuffle=True, seed=7).arrange([0] * 5).tolist()
        [2, 0, 4, 1, 3]
        >>> Order(2, shuffle=True, seed=7, epoch=1).arrange([0] * 5).tolist()
        [3, 4, 0, 1, 2]
        """
        if not self.shuffle:
            return np.arange(len(shards))
        # The first epoch is the seed's own sequence; each other one is spawned from it.
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,) if self.epoch else ()))
        if self.shuffle != "shards":
            return random.permutation(len(shards))
        names, shard = np.unique(np.asarray(shards), return_inverse=True)
        window = random.permutation(len(names))[shard] // WINDOW_SHARDS
        return np.lexsort((random.permutation(len(shard)), window))

    def count(self, samples: int) -> int:
        """Return how many batches so many samples make; the last one may be smaller."""
        return -(-samples // self.size)


def whole(number: Any, name: str, *, least: int, most: int | None = None) -> int:
    """Return a whole number of any type as an int.

    Raises
    ------
    UsageError
        When it is none, too small or too large.
    """
    try:
        found = operator.index(number)
    except TypeError:
        found = least - 1
    if found < least or (most is not None and found > most):
        hint = f"give a whole number from {least} {'on' if most is None else f'to {most}'}"
        raise UsageError(f"{name} is {number!r:.80}", hint=hint)
    return found
