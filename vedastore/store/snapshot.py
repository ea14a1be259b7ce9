"""One version of a store, read: its tables, its chips, its rows as export and verification need them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError
from vedastore.io.objects import open_objects
from vedastore.spec import keys
from vedastore.spec.release import classify
from vedastore.store.chips import ShardReader
from vedastore.store.commit import read_root
from vedastore.store.index import TableReader
from vedastore.store.lookup import Lookup
from vedastore.store.scratch import sort_by_ordinal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vedastore.io.objects import Objects
    from vedastore.model import Fidelity
    from vedastore.spec.root import Root, Version


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of a version: where its pixels are, and how its file is made of them."""

    id: str
    member: str
    ordinal: int
    bucket: str
    row: int
    fidelity: Fidelity
    envelope: bytes
    digest: bytes
    pixel_digest: bytes | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A member of a version that is kept byte for byte."""

    kind: str
    member: str
    ordinal: int
    data: bytes


_IMAGE_COLUMNS = {
    "id": "id",
    "image_member": "member",
    "image_ordinal": "ordinal",
    "bucket": "bucket",
    "row": "row",
    "fidelity": "fidelity",
    "envelope": "envelope",
    "image_digest": "digest",
    "pixel_digest": "pixel_digest",
}


class Snapshot:
    """One version of a store. It sees that version for as long as it lives; cheap to pickle."""

    def __init__(self, objects: Objects, root: Root, version: Version) -> None:
        self.objects, self.root, self.version = objects, root, version

    def __getstate__(self) -> tuple[Objects, Root, Version]:
        return self.objects, self.root, self.version

    def __setstate__(self, state: tuple[Objects, Root, Version]) -> None:
        self.objects, self.root, self.version = state

    @cached_property
    def _tables(self) -> dict[tuple[str, int], TableReader]:
        return {}

    @cached_property
    def _lookups(self) -> dict[int, Lookup]:
        return {}

    @cached_property
    def _readers(self) -> dict[str, ShardReader]:
        return {}

    def table(self, name: str) -> TableReader:
        """Return the reader of an index table; a process that was forked has readers of its own."""
        key = (name, os.getpid())
        if key not in self._tables:
            self._tables[key] = TableReader(self.objects, name, self.version)
        return self._tables[key]

    @property
    def lookup(self) -> Lookup:
        """The columns in which samples are searched."""
        process = os.getpid()
        if process not in self._lookups:
            self._lookups[process] = Lookup(self.table("samples"), self.version.classes)
        return self._lookups[process]

    def chips(self, bucket: str) -> ShardReader:
        """Return the reader of a bucket's chips."""
        if bucket not in self._readers:
            if bucket not in self.version.buckets:
                raise StoreError(f"the version has no bucket {bucket!r}", where=self.objects.url)
            self._readers[bucket] = ShardReader(self.objects, bucket, self.version.buckets[bucket].spec)
        return self._readers[bucket]

    def read_label(self, position: int) -> bytes:
        """Return the label file of the sample at a position."""
        data: bytes = self.table("samples").take([position], ("label",))[0]["label"]
        return data

    def read_images(self, positions: Sequence[int]) -> list[StoredImage]:
        """Return the images at some positions."""
        rows = self.table("samples").take(positions, tuple(_IMAGE_COLUMNS))
        return [_stored_image(values) for values in rows]

    def iter_images(self) -> Iterator[StoredImage]:
        """Yield every image, in the order of the samples."""
        for batch in self.table("samples").iter_batches(list(_IMAGE_COLUMNS)):
            for part in batch.to_batches(max_chunksize=256):
                yield from map(_stored_image, part.to_pylist())

    @property
    def top(self) -> str:
        """The top folder of the release; an empty text where it has none."""
        first = next(self.iter_images(), None)
        return "" if first is None else classify(first.member).top

    def iter_labels(self) -> Iterator[StoredFile]:
        """Yield every label file, in the order that they had in the release."""
        ordinals = self.table("samples").read(["label_ordinal"]).column(0).to_numpy()
        if len(np.unique(ordinals)) != len(ordinals):
            raise StoreError("the index gives two labels one place in the release", where=self.objects.url)
        rows = self._iter_files("samples", ("label_ordinal", "label_member", "label"))
        ordered = rows if (ordinals[1:] > ordinals[:-1]).all() else sort_by_ordinal(rows)
        return (StoredFile("label", name, ordinal, data) for ordinal, name, data in ordered)

    def iter_members(self) -> Iterator[StoredFile]:
        """Yield every other member, in the order that they had in the release."""
        for batch in self.table("members").iter_batches(["ordinal", "name", "kind", "data"]):
            for values in batch.to_pylist():
                yield StoredFile(values["kind"], values["name"], values["ordinal"], values["data"])

    def read_member(self, kind: str) -> StoredFile | None:
        """Return the member of a kind that a release has at most once."""
        return next((m for m in self.iter_members() if m.kind == kind), None)

    def _iter_files(self, table: str, columns: tuple[str, str, str]) -> Iterator[tuple[int, str, bytes]]:
        for batch in self.table(table).iter_batches(columns):
            for part in batch.to_batches(max_chunksize=256):
                yield from zip(*(part.column(name).to_pylist() for name in columns), strict=True)


def _stored_image(values: dict[str, Any]) -> StoredImage:
    return StoredImage(**{field: values[column] for column, field in _IMAGE_COLUMNS.items()})


def open_snapshot(
    store: str | os.PathLike[str], version: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Snapshot:
    """Open a version of a store, the latest without a name.

    Raises
    ------
    StoreError
        When there is no store, or its root document is damaged.
    UsageError
        When there is no such version.
    """
    objects = open_objects(store, storage_options)
    found = read_root(objects)
    if found is None:
        incomplete = objects.size(keys.INCOMPLETE) is not None
        message = "a conversion into it has not finished" if incomplete else "there is no store"
        raise StoreError(message, where=objects.url, hint="vedastore convert makes one from a release")
    return Snapshot(objects, found[0], found[0].find(version, objects.url))
