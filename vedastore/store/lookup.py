"""What is asked of samples again and again, by column and in blocks: ids, classes, objects, boxes, splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.store.columns import arrow_array
from vedastore.store.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vedastore.store.index import TableReader

BLOCK_ROWS: Final = 2**14
"""A block is row groups that have so many rows together; the last group may go beyond."""
KEPT_BYTES: Final = 128 * 2**20
"""Blocks of columns that are kept: all of them up to some 1.5 million samples with short ids."""

Positions = np.ndarray[Any, np.dtype[np.int64]]


class Lookup:
    """Columns of a version's samples in the form in which they are searched, read when they are first needed.

    A column of a block takes 32 bytes a sample for boxes, 4 for the number of its objects, 8 for each class of a sample
    and 12 with the number of its objects, and for ids and splits the bytes of the text and 4 more. What was used last
    is kept, up to ``KEPT_BYTES``. Beyond it blocks are read again: searches take longer then, and no more memory.

    Parameters
    ----------
    table : TableReader
        The version's samples.
    classes : sequence of str
        The version's classes.
    features : callable
        Returns the reader of the version's objects, which only some questions need.
    """

    def __init__(self, table: TableReader, classes: Sequence[str], features: Callable[[], TableReader]) -> None:
        self.table, self._features = table, features
        self._classes = classes
        self._kept = Kept(KEPT_BYTES)
        starts = table.starts.tolist()
        self._groups = [0]
        for group, start in enumerate(starts[1:], 1):
            if start - starts[self._groups[-1]] >= BLOCK_ROWS or group == len(starts) - 1:
                self._groups.append(group)
        self._starts: Positions = table.starts[self._groups]

    def blocks(self, positions: Positions) -> Iterator[tuple[int, Positions]]:
        """Yield the positions block by block with the number of the block, in their order."""
        blocks = self._starts.searchsorted(positions, side="right") - 1
        for part in np.split(np.arange(len(positions)), np.flatnonzero(np.diff(blocks)) + 1):
            if len(part):
                yield int(blocks[part[0]]), positions[part[0] : part[-1] + 1]

    def find(self, sample_id: str) -> int | None:
        """Return the position of the sample of an id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            wanted = pa.scalar(sample_id, "string")
        except UnicodeEncodeError:
            return None
        for block, start in enumerate(self._starts[:-1].tolist()):
            at = pc.index(self.ids(block), wanted).as_py()
            if at >= 0:
                return int(start + at)
        return None

    def find_many(self, names: Sequence[str]) -> Positions:
        """Return the positions of samples by their ids; -1 where there is none."""
        import pyarrow.compute as pc

        wanted = arrow_array(names, self.ids(0).type)
        found = np.full(len(names), -1)
        for block, start in enumerate(self._starts[:-1].tolist()):
            at = pc.index_in(wanted, value_set=self.ids(block)).fill_null(-1).to_numpy()
            found[at >= 0] = start + at[at >= 0]
        return found

    def mask_ids(self, wanted: Sequence[str], positions: Positions) -> Any:
        """Tell which samples have one of some ids."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names = pa.chunked_array(self.id_parts(positions), "string")
        return pc.is_in(names, value_set=pa.array(wanted, "string")).to_numpy()

    def names(self, positions: Positions) -> list[str]:
        """Return the ids of samples."""
        return [name for part in self.id_parts(positions) for name in part.to_pylist()]

    def id_parts(self, positions: Positions) -> list[Any]:
        """Return the ids of samples as pyarrow Arrays, one after the other."""
        return [self._names(block, part) for block, part in self.blocks(positions)]

    def rows(self, block: int) -> int:
        """Return how many samples a block has."""
        return int(self._starts[block + 1] - self._starts[block])

    def start(self, block: int) -> int:
        """Return the position of a block's first sample."""
        return int(self._starts[block])

    def ids(self, block: int) -> Any:
        """Return the ids of a block, a pyarrow Array."""
        return self._kept.get((block, "id"), lambda: self._read(block, "id"))

    def splits(self, block: int) -> Any:
        """Return the splits of a block, a pyarrow Array; an empty text is no split."""
        return self._kept.get((block, "split"), lambda: self._read(block, "split").fill_null(""))

    def has_split(self, name: str) -> bool:
        """Tell whether a sample is of a split."""
        import pyarrow.compute as pc

        return any(pc.index(self.splits(block), name).as_py() >= 0 for block in range(len(self._starts) - 1))

    def split_names(self) -> list[str]:
        """Return the names of all splits."""
        found = (self.splits(block).unique().to_pylist() for block in range(len(self._starts) - 1))
        return sorted(set().union(*found) - {""})

    def classes(self, block: int) -> Any:
        """Return the pairs of class and sample of a block, (2, n): places in the version's classes and in the block."""
        return self._kept.get((block, "classes"), lambda: self._read_classes(block))

    def objects(self, block: int) -> Any:
        """Return how many objects each sample of a block has, (n,)."""
        return self._kept.get((block, "objects"), lambda: self._read(block, "objects").to_numpy())

    def counts(self, block: int) -> Any:
        """Return class, sample and how many objects of that class it has, (3, n); of two such columns the sum counts.

        Classes and samples are places in the version's classes and in the block.
        """
        return self._kept.get((block, "counts"), lambda: self._read_counts(block))

    def boxes(self, block: int) -> Any:
        """Return the boxes of a block (west, south, east, north), (4, n); NaN without a footprint."""
        return self._kept.get((block, "bbox"), lambda: self._read_boxes(block))

    def _names(self, block: int, positions: Positions) -> Any:
        """Return the ids of samples of a block, in their order."""
        at, ids = positions - self._starts[block], self.ids(block)
        return ids if np.array_equal(at, np.arange(len(ids))) else ids.take(at)

    def _read(self, block: int, column: str) -> Any:
        groups = range(self._groups[block], self._groups[block + 1])
        return self.table.read([column], groups).column(0).combine_chunks()

    def _read_classes(self, block: int) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = self._read(block, "classes")
        codes = pc.index_in(found.flatten(), value_set=pa.array(self._classes, "string")).fill_null(-1)
        return np.stack([codes.to_numpy(), pc.list_parent_indices(found).to_numpy().astype("i4")])

    def _read_counts(self, block: int) -> Any:
        """Count the objects of a block, one row group of them after the other."""
        import pyarrow as pa
        import pyarrow.compute as pc

        start, rows, names = self.start(block), self.rows(block), pa.array(self._classes, "string")
        features, parts = self._features(), [np.empty((3, 0), "i4")]
        for group in features.groups_with(np.arange(start, start + rows)):
            table = features.read(["position", "class"], [group])
            at = table.column("position").to_numpy() - start
            codes = pc.index_in(table.column("class"), value_set=names).fill_null(-1).to_numpy()
            own = (at >= 0) & (at < rows) & (codes >= 0)
            pairs, numbers = np.unique(at[own] * len(names) + codes[own], return_counts=True)
            parts.append(np.stack([pairs % len(names), pairs // len(names), numbers]).astype("i4"))
        return np.concatenate(parts, axis=1)

    def _read_boxes(self, block: int) -> Any:
        return np.stack([edge.to_numpy(zero_copy_only=False) for edge in self._read(block, "bbox").flatten()])
