"""What every reader of chips can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from scripts.benchmarks.data import Places

BATCH = 32


class Reader:
    """Reads the chips of one format. Chips are (band, y, x), batches (sample, band, y, x), arrays or tensors.

    ``limit`` is how many chips it reads in shuffled batches; all of them without it.
    """

    limit: ClassVar[int | None] = None

    def __init__(self, at: Places) -> None:
        self.at = at

    def load(self) -> None:
        """Import the libraries."""

    def open(self) -> None:
        """Open what is read."""
        raise NotImplementedError

    def total(self) -> int:
        """Return the sum of all pixels, read in the order that suits it."""
        raise NotImplementedError

    def batches(self, rows: np.ndarray) -> Iterator[Any]:
        """Yield batches of 32 of these rows, in their order; or in one of its own, which must be shuffled."""
        raise NotImplementedError

    def chips(self, rows: np.ndarray) -> Iterator[Any]:
        """Yield the chips of these rows one by one."""
        raise NotImplementedError
