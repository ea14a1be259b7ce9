"""The shards of a version, each read once: what a verification has its workers do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow.compute as pc

from vedastore.errors import StoreError
from vedastore.model import Finding
from vedastore.ops.rebuild import BATCH_BYTES, BATCH_MEMBERS, rebuild, size_of
from vedastore.ops.workers import batched_bytes
from vedastore.spec import keys
from vedastore.spec.arrays import SHARD_LIMIT_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from vedastore.ops.rebuild import Outcome
    from vedastore.spec.root import Bucket
    from vedastore.store.snapshot import Snapshot, StoredImage

PIECE_BYTES: Final = 64 * 2**20
"""What the images of a piece have at most, but for the last: all those of a shard, unless their envelopes are large."""
_TOGETHER: Final = 256

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Images of one shard with their positions; the first piece of a shard has the rows that samples name, too."""

    bucket: str
    shard: int
    images: list[tuple[int, StoredImage]]
    named: Rows | None


@dataclass(frozen=True, slots=True)
class Image:
    """What became of an image: its place in the release, the SHA-256 of the file that an export has, what is wrong."""

    position: int
    ordinal: int
    member: str
    outcome: Outcome
    digest: bytes
    problem: Finding | None


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found in a piece: its images; of a first piece what is wrong with its shard, and how long that is.

    ``shard_bytes`` is None where the shard has no sound index.
    """

    bucket: str
    shard: int
    first: bool
    images: list[Image]
    findings: list[Finding]
    shard_bytes: int | None


def iter_pieces(snapshot: Snapshot, given_up: Container[str]) -> Iterator[tuple[Piece, int]]:
    """Yield all shards of a version with the images in them, and about how many bytes these have.

    Of buckets that are given up meanwhile only shards with images follow.
    """
    samples = snapshot.table("samples").read(["bucket", "row"])
    for name, bucket in snapshot.version.buckets.items():
        positions = np.flatnonzero(pc.equal(samples.column("bucket"), name).to_numpy())
        rows = samples.column("row").to_numpy()[positions]
        order = np.argsort(rows, kind="stable")
        positions, rows = positions[order], rows[order]
        shards = rows // bucket.spec.samples_per_shard
        for shard in _iter_shards(name, bucket, shards, given_up):
            own = slice(*np.searchsorted(shards, [shard, shard + 1]))
            yield from _iter_pieces_of(snapshot, name, shard, positions[own], rows[own])


def _iter_shards(name: str, bucket: Bucket, used: Rows, given_up: Container[str]) -> Iterator[int]:
    shard = 0
    while shard < bucket.shards and name not in given_up:
        yield shard
        shard += 1
    yield from np.unique(used[used >= shard]).tolist()


def _iter_pieces_of(
    snapshot: Snapshot, bucket: str, shard: int, positions: Rows, rows: Rows
) -> Iterator[tuple[Piece, int]]:
    images = (
        ((position, image), size_of(image, snapshot))
        for at in range(0, len(positions), _TOGETHER)
        for some in [positions[at : at + _TOGETHER].tolist()]
        for position, image in zip(some, snapshot.read_images(some), strict=True)
    )
    named: Rows | None = rows
    for some, size in batched_bytes(images, PIECE_BYTES, SHARD_LIMIT_SAMPLES):
        yield Piece(bucket, shard, some, named), size
        named = None
    if named is not None:
        yield Piece(bucket, shard, [], named), 0


def inspect(snapshot: Snapshot, piece: Piece) -> Inspected:
    """Do what a worker does with a piece: rebuild its images, check the shard's index, read what no sample names."""
    images = []
    sized = ((pair, size_of(pair[1], snapshot)) for pair in piece.images)
    for batch, _ in batched_bytes(sized, BATCH_BYTES, BATCH_MEMBERS):
        for (position, image), made in zip(batch, rebuild(snapshot, [image for _, image in batch]), strict=True):
            digest = image.digest if made.outcome == "identical" else hashlib.sha256(made.data).digest()
            error = made.problem
            problem = None if error is None else Finding("image", error.message, error.where)
            images.append(Image(position, image.ordinal, image.member, made.outcome, digest, problem))
    findings, size = ([], None) if piece.named is None else _inspect_shard(snapshot, piece, piece.named)
    return Inspected(piece.bucket, piece.shard, piece.named is not None, images, findings, size)


def _inspect_shard(snapshot: Snapshot, piece: Piece, named: Rows) -> tuple[list[Finding], int | None]:
    try:
        held, size = snapshot.chips(piece.bucket).survey(piece.shard)
    except StoreError as error:
        return [Finding("shard", error.message, error.where)], None
    return [*_inspect_unnamed(snapshot, piece, named, held)], size


def _inspect_unnamed(snapshot: Snapshot, piece: Piece, named: Rows, held: int) -> Iterator[Finding]:
    """Read the rows of a shard that the bucket has and no sample of the version names."""
    bucket, reader = snapshot.version.buckets[piece.bucket], snapshot.chips(piece.bucket)
    first = piece.shard * bucket.spec.samples_per_shard
    rows = range(first, min(first + bucket.spec.samples_per_shard, bucket.rows))
    if held < len(rows):
        message = f"it holds {held} chips instead of {len(rows)}"
        yield Finding("shard", message, keys.shard(piece.bucket, piece.shard))
    for row in np.setdiff1d(np.array(rows[:held], named.dtype), named).tolist():
        try:
            reader.read(row)
        except StoreError as error:
            yield Finding("image", error.message, error.where)
