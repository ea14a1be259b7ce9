"""One version of a store, read: its tables, its chips, its rows as export and verification need them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import LabelError, StoreError
from vedastore.io.geojson import parse_json
from vedastore.io.objects import open_objects
from vedastore.spec import keys
from vedastore.spec.release import classify
from vedastore.store.arrays import ArrayReader, merge_buckets, place_buckets
from vedastore.store.chips import ShardReader
from vedastore.store.commit import read_root
from vedastore.store.copies import HINT, may_restore
from vedastore.store.index import TableFile
from vedastore.store.lookup import Lookup
from vedastore.store.overlay import Overlay
from vedastore.store.scratch import sort_by_ordinal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vedastore.io.objects import Objects
    from vedastore.model import Fidelity, Limits
    from vedastore.spec.root import Bucket, Root, Version
    from vedastore.store.index import TableReader
    from vedastore.store.lookup import Positions


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
    def _readers(self) -> dict[str, ShardReader | ArrayReader]:
        return {}

    @cached_property
    def _overlays(self) -> dict[int, Overlay]:
        return {}

    @cached_property
    def arrays(self) -> dict[str, Bucket]:
        """See `Version.arrays`."""
        return self.version.arrays

    @cached_property
    def _places(self) -> dict[str, dict[str, int]]:
        return place_buckets(self.version)

    @property
    def _overlay(self) -> Overlay:
        if (process := os.getpid()) not in self._overlays:
            self._overlays[process] = Overlay(self.objects, self.version)
        return self._overlays[process]

    def table(self, name: str) -> TableReader:
        """Return the reader of an index table; a process that was forked has readers of its own."""
        key = (name, os.getpid())
        if key not in self._tables:
            if self.version.parts and name in {"samples", "features"}:
                self._tables[key] = self._overlay.open(name)
            else:
                file, samples = self.version.index[name], self.version.samples
                self._tables[key] = TableFile(self.objects, name, self.version, file, samples)
        return self._tables[key]

    @property
    def slots(self) -> Positions:
        """What tells the sample at each position to the parts of later versions; see `store.overlay`."""
        return self._overlay.layout.slots if self.version.parts else np.arange(self.version.samples)

    @property
    def next_slot(self) -> int:
        """The first slot that no sample has had."""
        return self._overlay.layout.ends[-1] if self.version.parts else self.version.samples

    def row_sources(self, positions: Positions) -> tuple[Any, Any]:
        """Return the number of the one of ``samples_files`` that has the row at each position, and its row there."""
        if not self.version.parts:
            return np.zeros(len(positions), "i2"), positions
        layout = self._overlay.layout
        slots = layout.slots[positions]
        return layout.owner[slots], layout.row[slots]

    def read_places(self, positions: Positions, columns: Sequence[str]) -> Any:
        """Return what `TableReader.read_rows` does of ``samples``, with shapes as buckets and rows of their arrays.

        Those of one shape that several writes have made are one array then, which `chips` reads.
        """
        return merge_buckets(self.table("samples").read_rows(positions, columns), self._places)

    @property
    def lookup(self) -> Lookup:
        """The columns in which samples are searched."""
        process = os.getpid()
        if process not in self._lookups:
            features = partial(self.table, "features")
            self._lookups[process] = Lookup(self.table("samples"), self.version.classes, features)
        return self._lookups[process]

    def chips(self, bucket: str) -> ShardReader | ArrayReader:
        """Return the reader of a bucket's chips, or of those of all buckets of a shape."""
        if bucket not in self._readers:
            places = self._places.get(bucket, {})
            names = [*places] or [bucket]
            if len(places) > 1:
                self._readers[bucket] = ArrayReader(self.objects, self.version, bucket, places)
            elif names[0] in self.version.buckets:
                self._readers[bucket] = ShardReader(self.objects, names[0], self.version.buckets[names[0]].spec)
            else:
                raise StoreError(f"the version has no bucket {bucket!r}", where=self.objects.url)
        return self._readers[bucket]

    def read_label(self, position: int) -> bytes:
        """Return the label file of the sample at a position."""
        data: bytes = self.table("samples").take([position], ("label",))[0]["label"]
        return data

    def read_images(self, positions: Sequence[int]) -> list[StoredImage]:
        """Return the images at some positions."""
        rows = self.table("samples").take(positions, tuple(_IMAGE_COLUMNS))
        return [_stored_image(values) for values in rows]

    def iter_images(self, positions: Positions | None = None) -> Iterator[StoredImage]:
        """Yield every image, or those at some positions, in the order of the samples."""
        for part in self.iter_rows(positions, tuple(_IMAGE_COLUMNS)):
            yield from map(_stored_image, part.to_pylist())

    @property
    def top(self) -> str:
        """The top folder of the release; an empty text where it has none."""
        first = self.table("samples").take([0] if self.version.samples else [], ("image_member",))
        return classify(first[0]["image_member"]).top if first else ""

    def iter_labels(self, positions: Positions | None = None) -> Iterator[StoredFile]:
        """Yield every label file, or those at some positions, in the order that they had in the release."""
        chosen = self._every(positions)
        ordinals = self.table("samples").read_rows(chosen, ["label_ordinal"]).column(0).to_numpy()
        if len(np.unique(ordinals)) != len(ordinals):
            raise StoreError("the index gives two labels one place in the release", where=self.objects.url)
        rows = self._iter_files(chosen, ("label_ordinal", "label_member", "label"))
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

    def _iter_files(self, positions: Positions, columns: tuple[str, str, str]) -> Iterator[tuple[int, str, bytes]]:
        for part in self.iter_rows(positions, columns):
            yield from zip(*(part.column(name).to_pylist() for name in columns), strict=True)

    def iter_rows(self, positions: Positions | None, columns: Sequence[str]) -> Iterator[Any]:
        """Yield rows of the samples at some positions, a few at a time; only row groups that have some are read."""
        table = self.table("samples")
        for run in table.split(self._every(positions)):
            if len(run):
                yield from table.read_rows(run, columns).to_batches(max_chunksize=256)

    def _every(self, positions: Positions | None) -> Positions:
        """Return some positions, or those of all samples."""
        return np.arange(int(self.table("samples").starts[-1])) if positions is None else positions


def _stored_image(values: dict[str, Any]) -> StoredImage:
    return StoredImage(**{field: values[column] for column, field in _IMAGE_COLUMNS.items()})


def read_json(data: bytes, where: str, limits: Limits) -> Any:
    """Return what a JSON file of a version says.

    Raises
    ------
    StoreError
        When it is not JSON, or above the limits that the release was converted with.
    """
    try:
        return parse_json(data, where, limits)
    except LabelError as error:
        raise StoreError(f"the file is damaged: {error.message}", where=error.where) from None


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
    return open_version(open_objects(store, storage_options), version)


def open_version(objects: Objects, version: str | None = None) -> Snapshot:
    """Open a version of the store of some objects, as `open_snapshot` does."""
    try:
        found = read_root(objects)
    except StoreError as error:
        if may_restore(objects):
            raise StoreError(error.message, where=error.where, hint=HINT) from None
        raise
    if found is None:
        if objects.size(keys.INCOMPLETE) is not None:
            message, hint = "a conversion into it has not finished", "vedastore convert makes one from a release"
        elif may_restore(objects):
            message, hint = "the root document is lost", HINT
        else:
            message, hint = "there is no store", "vedastore convert makes one from a release"
        raise StoreError(message, where=objects.url, hint=hint)
    return Snapshot(objects, found[0], found[0].find(version, objects.url))
