"""The chips that a store has already, by the digests of their files and pixels: what is stored once is enough."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.spec import keys
from vedastore.spec.root import PARTS_LIMIT
from vedastore.store.index import TableFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.io.objects import Objects
    from vedastore.spec.root import Root, Version

_COLUMNS: Final = ("image_digest", "pixel_digest", "bucket", "row")
_FILE_BYTES, _PIXEL_BYTES = 32, 16
FILES: Final = 4 * PARTS_LIMIT
"""Files that tell of a few chips of a store, those of its last version among them."""
_PREFIX: Final = np.dtype(">u8")


class KnownChips:
    """Finds the place of a chip by a digest; some 80 bytes in memory for each image that is another one.

    Parameters
    ----------
    objects : Objects
    root : Root
        The store's.
    few : bool
        Let only the latest versions count, as far as some files tell: a store may have hundreds.

    Raises
    ------
    StoreError
        When an index file is damaged.
    """

    def __init__(self, objects: Objects, root: Root, *, few: bool = False) -> None:
        files: list[Any] = [np.empty((0, _FILE_BYTES), "u1")]
        pixels: list[Any] = [np.empty((0, _PIXEL_BYTES), "u1")]
        buckets, rows = [np.empty(0, "i4")], [np.empty(0, "i8")]
        self._names: list[str] = []
        seen = np.empty(0, "u8")
        for version, file in islice(_iter_files(root), FILES if few else None):
            reader = TableFile(objects, "samples", version, file, 2**62, is_part=True)
            told_here = [seen]
            for table in reader.iter_batches(_COLUMNS):
                told = [
                    _digests(table.column(name), size)
                    for name, size in (("image_digest", _FILE_BYTES), ("pixel_digest", _PIXEL_BYTES))
                ]
                # Versions that share images do not share tables, always; of those that are equal one is enough.
                prefixes, first = np.unique(_prefixes(told[0]), return_index=True)
                new = first[~np.isin(prefixes, seen, assume_unique=True)]
                told_here.append(prefixes)
                files.append(told[0][new])
                pixels.append(told[1][new])
                codes = table.column("bucket").combine_chunks().dictionary_encode()
                own = [self._number(name) for name in codes.dictionary.to_pylist()]
                buckets.append(np.array(own, "i4")[codes.indices.to_numpy()[new]])
                rows.append(table.column("row").to_numpy()[new])
            seen = np.unique(np.concatenate(told_here))
        self._bucket, self._row = np.concatenate(buckets), np.concatenate(rows)
        self._files, self._pixels = _Sorted(np.concatenate(files)), _Sorted(np.concatenate(pixels))

    def has_file(self, digest: bytes) -> bool:
        """Tell whether there is a chip of a file with this SHA-256."""
        return self._files.find(digest) is not None

    def find_file(self, digest: bytes) -> tuple[str, int] | None:
        """Return the bucket and the row of the chip of a file with this SHA-256."""
        return self._place(self._files.find(digest))

    def find_pixels(self, digest: bytes, shape: str) -> tuple[str, int] | None:
        """Return the bucket and the row of a chip of a shape by the digest of its pixels, which proves nothing yet."""
        found = self._place(self._pixels.find(digest))
        return found if found is not None and keys.bucket_shape(found[0]) == keys.bucket_shape(shape) else None

    def _place(self, at: int | None) -> tuple[str, int] | None:
        return None if at is None else (self._names[self._bucket[at]], int(self._row[at]))

    def _number(self, name: str) -> int:
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)


class _Sorted:
    """Digests (n, size) in the order of their first eight bytes."""

    def __init__(self, digests: Any) -> None:
        prefixes = _prefixes(digests)
        self._order = np.argsort(prefixes, kind="stable")
        self._prefixes, self._digests = prefixes[self._order], digests

    def find(self, digest: bytes) -> int | None:
        """Return the first place of a digest."""
        prefix = np.uint64(int.from_bytes(digest[: _PREFIX.itemsize], "big"))
        at = int(np.searchsorted(self._prefixes, prefix))
        while at < len(self._prefixes) and self._prefixes[at] == prefix:
            place = int(self._order[at])
            if self._digests[place].tobytes() == digest:
                return place
            at += 1
        return None


def _iter_files(root: Root) -> Iterator[tuple[Version, Any]]:
    """Yield the files of ``samples``, the youngest first, each with a version that has it."""
    yield from {file.key: (v, file) for v in reversed(root.versions) for file in reversed(v.samples_files)}.values()


def _prefixes(digests: Any) -> Any:
    """Return the first eight bytes of digests (n, size), as numbers."""
    return np.ascontiguousarray(digests[:, : _PREFIX.itemsize]).view(_PREFIX).reshape(-1).astype("u8")


def _digests(column: Any, size: int) -> Any:
    """Return a column of digests as bytes (n, size); zeros, which no digest has, for what is missing or shorter."""
    values = column.to_pylist()
    sound = [value if value is not None and len(value) == size else bytes(size) for value in values]
    return np.frombuffer(b"".join(sound), "u1").reshape(-1, size)
