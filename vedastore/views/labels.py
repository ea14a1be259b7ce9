"""Labels as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def multi_hot(present: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a (sample, class) array that is 1 where a sample has a class.

    >>> multi_hot([["car"], [], ["boat", "car"]], ["boat", "car"]).tolist()
    [[0, 1], [0, 0], [1, 1]]
    """
    column = {name: i for i, name in enumerate(classes)}
    hot = np.zeros((len(present), len(classes)), dtype=np.uint8)
    for row, names in enumerate(present):
        hot[row, [column[name] for name in names]] = 1
    return hot
