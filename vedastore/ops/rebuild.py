"""The members of a version as a release has them, image files rebuilt from pixels and envelope, each one proved.

Export writes them, verification compares them; both see the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np

from vedastore.errors import ReleaseError, StoreError
from vedastore.exchange.release import SectionWriter, pixel_digest
from vedastore.io import tiff
from vedastore.io.deflate import DEFAULT_LEVEL
from vedastore.ops.excerpt import export_members
from vedastore.ops.workers import batched_bytes, map_ordered
from vedastore.store.snapshot import StoredFile, StoredImage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from vedastore.exchange.release import Section
    from vedastore.model import Limits
    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot

BATCH_BYTES: Final = 4 * 2**20
BATCH_MEMBERS: Final = 64
SECTION_BYTES: Final = 8 * 2**20
SECTION_MEMBERS: Final = 4096
"""What a section of an archive has at most, but for its last member."""

Item = StoredImage | StoredFile
Sized = tuple[Item, int]
Pixels = np.ndarray[Any, Any]
Outcome = Literal["identical", "equivalent", "damaged"]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A member of the release to be: its bytes, and what they are to the ones that were converted.

    ``problem`` says what is wrong where the outcome is ``damaged``; there are no bytes then.
    """

    kind: str
    member: str
    outcome: Outcome
    data: bytes
    problem: StoreError | None = None


def iter_sections(
    snapshot: Snapshot, positions: Positions | None = None, others: Iterable[StoredFile] | None = None
) -> Iterator[tuple[list[Sized], int]]:
    """Yield the members of a version in the order of its release, in sections, with the bytes of each.

    A section is what an archive compresses by itself, so that anybody may make any of them. Where it ends depends on
    nothing but the members.

    Parameters
    ----------
    positions : array of int, optional
        Those of the samples that are wanted, upwards; all of them without it.
    others : iterable of StoredFile, optional
        The members besides images and labels; those of the version without it.
    """
    images = cast("Iterator[StoredImage | StoredFile]", snapshot.iter_images(positions))
    others = export_members(snapshot) if others is None else others
    items = merge(images, snapshot.iter_labels(positions), others, key=attrgetter("ordinal"))
    sized = ((item, size_of(item, snapshot)) for item in items)
    return batched_bytes(((pair, pair[1]) for pair in sized), SECTION_BYTES, SECTION_MEMBERS)


def iter_rebuilt(
    snapshot: Snapshot, executor: Executor, sections: Iterable[tuple[list[Sized], int]]
) -> Iterator[tuple[list[Rebuilt], bool]]:
    """Yield the members of sections, some at a time, and whether a section ends with them.

    Image files are rebuilt by the executor's threads.
    """
    return map_ordered(executor, partial(_rebuild_batch, snapshot), _iter_batches(sections))


def _iter_batches(sections: Iterable[tuple[list[Sized], int]]) -> Iterator[tuple[tuple[list[Item], bool], int]]:
    for section, _ in sections:
        *some, (last, size) = batched_bytes(section, BATCH_BYTES, BATCH_MEMBERS)
        for batch, batch_size in some:
            yield (batch, False), batch_size
        yield (last, True), size


def _rebuild_batch(snapshot: Snapshot, batch: tuple[list[Item], bool]) -> tuple[list[Rebuilt], bool]:
    return rebuild(snapshot, batch[0]), batch[1]


def make_section(snapshot: Snapshot, items: list[Sized], level: int | None) -> tuple[Section, Counter[Outcome]]:
    """Do what a worker of a cluster does with a section; without a level it is not compressed. Counts the outcomes.

    Raises
    ------
    StoreError
        When a member is damaged.
    """
    counts: Counter[Outcome] = Counter()
    writer = SectionWriter(compress=level is not None, level=level or DEFAULT_LEVEL)
    for batch, _ in batched_bytes(items, BATCH_BYTES, BATCH_MEMBERS):
        for member in rebuild(snapshot, batch):
            if member.problem is not None:
                raise member.problem
            writer.add(member.member, member.data, is_dir=member.kind == "directory")
            counts[member.outcome] += 1
    return writer.finish(), counts


def rebuild(snapshot: Snapshot, items: Sequence[Item]) -> list[Rebuilt]:
    """Do what a worker does with some members."""
    chips = _read_neighbours(snapshot, [item for item in items if isinstance(item, StoredImage)])
    rebuilt = []
    for item in items:
        if isinstance(item, StoredFile):
            rebuilt.append(Rebuilt(item.kind, item.member, "identical", item.data))
            continue
        try:
            pixels = chips.get((item.bucket, item.row))
            if pixels is None:
                pixels = snapshot.chips(item.bucket).read(item.row)
            rebuilt.append(_rebuild_image(item, pixels, snapshot.version.limits))
        except StoreError as error:
            rebuilt.append(Rebuilt("image", item.member, "damaged", b"", error))
    return rebuilt


def _read_neighbours(snapshot: Snapshot, images: list[StoredImage]) -> dict[tuple[str, int], Pixels]:
    """Return the chips of some images, read with few requests; those of a bucket that has a damaged one are absent."""
    chips: dict[tuple[str, int], Pixels] = {}
    for bucket in {image.bucket for image in images}:
        rows = sorted({image.row for image in images if image.bucket == bucket})
        with suppress(StoreError):  # one by one they tell which of them it is
            chips.update(
                ((bucket, row), chip) for row, chip in zip(rows, snapshot.chips(bucket).read_rows(rows), strict=True)
            )
    return chips


def _rebuild_image(image: StoredImage, pixels: Pixels, limits: Limits) -> Rebuilt:
    """Rebuild one image file; its digest proves it identical, else its pixels prove it equivalent.

    A file that was to be identical can come out equivalent: codecs of another version may compress differently.
    """
    if image.pixel_digest is not None and pixel_digest(pixels) != image.pixel_digest:  # older stores may have none
        raise StoreError("the pixels are not those that were converted", where=image.member)
    try:
        data = tiff.encode(pixels, image.envelope, limits)
        if hashlib.sha256(data).digest() == image.digest:
            return Rebuilt("image", image.member, "identical", data)
        if tiff.describe(image.envelope, limits).encoder not in {tiff.COPY, tiff.VERBATIM}:
            return Rebuilt("image", image.member, "equivalent", data)
    except ReleaseError as error:
        raise StoreError(f"the envelope is damaged: {error.message}", where=image.member) from error
    raise StoreError("the image cannot be given back: its digest does not fit", where=image.member)


def size_of(item: Item, snapshot: Snapshot) -> int:
    """Return about how many bytes a member has, by what the index tells of it."""
    if isinstance(item, StoredFile):
        return len(item.data)
    spec = snapshot.version.buckets[item.bucket].spec if item.bucket in snapshot.version.buckets else None
    return len(item.envelope) + (int(np.prod(spec.shape)) * spec.itemsize if spec else 0)
