"""Reads everything of a version again and checks it; with a release, compares member by member."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from vedastore.errors import StoreError
from vedastore.exchange.release import ReleaseReader, pixel_digest
from vedastore.io import tiff
from vedastore.io.files import scratch_errors
from vedastore.model import Finding
from vedastore.ops.rebuild import Rebuilt, iter_rebuilt, rebuild
from vedastore.ops.workers import open_executor
from vedastore.spec import arrays, keys
from vedastore.spec import release as rules
from vedastore.spec.root import dump_json, dump_root
from vedastore.store.scratch import open_scratch
from vedastore.store.shards import read_shard_index
from vedastore.store.snapshot import Snapshot, StoredImage, open_snapshot

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable, Iterator

    from vedastore.io.archive import Member

_SCHEMA = """
CREATE TABLE catalogue (path TEXT, digest BLOB, position INTEGER, seen INTEGER DEFAULT 0);
CREATE INDEX by_path ON catalogue (path);
"""
_READ_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Without a release, ``byte_identical`` and ``equivalent`` count the images that come back as they were converted.
    With one they count the release's members, all kinds, by what the export of the version has in their place.
    """

    ok: bool
    version: str
    samples: int
    byte_identical: int
    equivalent: int
    problems: tuple[Finding, ...]


def verify(
    store: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    version: str | None = None,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> VerifyReport:
    """Check a version: root, metadata, index, every chunk, every image against its digest, and a release if named.

    ``progress`` is called with members done and in all.

    Raises
    ------
    StoreError
        When the store cannot be opened at all; damage inside it is reported.
    ReleaseError
        When the release cannot be read.
    """
    snapshot = open_snapshot(store, version)
    problems = [*_check_metadata(snapshot), *_check_index(snapshot)]
    counts: Counter[str] = Counter()
    if not any(p.rule == "index" for p in problems):
        with ExitStack() as stack:
            executor = stack.enter_context(open_executor(workers, client))
            stack.enter_context(scratch_errors())
            catalogue = stack.enter_context(open_scratch(_SCHEMA))
            rebuilt = _reported(iter_rebuilt(snapshot, executor), snapshot, progress)
            problems += _check_members(rebuilt, catalogue, counts)
            problems += _check_rows(snapshot)
            if against is not None:
                counts.clear()
                problems += _compare(snapshot, against, catalogue, counts)
    return VerifyReport(
        ok=not problems,
        version=snapshot.version.version,
        samples=snapshot.version.samples,
        byte_identical=counts["identical"],
        equivalent=counts["equivalent"],
        problems=tuple(problems),
    )


def _check_metadata(snapshot: Snapshot) -> Iterator[Finding]:
    """Compare the root and every group's and array's metadata with what this version of the format writes."""
    expected = {keys.ROOT: dump_root(snapshot.root), keys.chips_metadata(): dump_json(arrays.group_metadata())}
    for name, bucket in snapshot.root.buckets().items():
        documents = arrays.bucket_documents(name, bucket.spec, bucket.rows)
        expected |= {key: dump_json(document) for key, document in documents.items()}
    for key, wanted in expected.items():
        try:
            if snapshot.objects.read(key) != wanted:
                yield Finding("metadata", "the metadata is not what the root document says", key)
        except StoreError as error:
            yield Finding("metadata", error.message, key)


def _check_index(snapshot: Snapshot) -> Iterator[Finding]:
    for file in snapshot.version.index.values():
        digest = hashlib.sha256()
        try:
            for start in range(0, file.bytes, _READ_BYTES):
                digest.update(snapshot.objects.read(file.key, start, min(_READ_BYTES, file.bytes - start)))
            if snapshot.objects.size(file.key) != file.bytes or digest.hexdigest() != file.sha256:
                yield Finding("index", "the index file is not the one that was committed", file.key)
        except StoreError as error:
            yield Finding("index", error.message, file.key)


def _check_members(
    members: Iterator[Rebuilt], catalogue: sqlite3.Connection, counts: Counter[str]
) -> Iterator[Finding]:
    """Count images by outcome, tell the damaged ones, and note every member for a comparison."""
    position = 0
    for member in members:
        if member.problem is not None:
            yield Finding("image", member.problem.message, member.problem.where)
        if member.kind == "directory":
            continue
        path = rules.classify(member.member).path
        at = position if member.kind == "image" else None
        catalogue.execute("INSERT INTO catalogue VALUES (?, ?, ?, 0)", (path, hashlib.sha256(member.data).digest(), at))
        if member.kind == "image":
            counts[member.outcome] += 1
            position += 1


def _check_rows(snapshot: Snapshot) -> Iterator[Finding]:
    """Check every shard's index, and read the rows that no sample of the version has."""
    named: dict[str, set[int]] = {name: set() for name in snapshot.version.buckets}
    for batch in snapshot.table("samples").iter_batches(["bucket", "row"]):
        for bucket, row in zip(batch.column("bucket").to_pylist(), batch.column("row").to_pylist(), strict=True):
            named.setdefault(bucket, set()).add(row)
    for name, bucket in snapshot.version.buckets.items():
        size = 0
        for shard in range(bucket.shards):
            try:
                read_shard_index(snapshot.objects, name, bucket.spec, shard)
                size += snapshot.objects.size(keys.shard(name, shard)) or 0
            except StoreError as error:
                yield Finding("shard", error.message, error.where)
        if size != bucket.bytes:
            yield Finding("shard", f"the shards have {size} bytes instead of {bucket.bytes}", name)
        reader = snapshot.chips(name)
        for row in sorted(set(range(bucket.rows)) - named[name]):
            try:
                reader.read(row)
            except StoreError as error:
                yield Finding("image", error.message, error.where)


def _compare(
    snapshot: Snapshot, against: str | os.PathLike[str], catalogue: sqlite3.Connection, counts: Counter[str]
) -> Iterator[Finding]:
    """Look every member of a release up in the catalogue of what an export has."""
    reader = ReleaseReader(against)
    images = _Images(snapshot)
    for member in reader.iter_members():
        if member.is_dir:
            continue
        where = f"{reader.where}: {member.name}"
        path, digest = rules.classify(member.name).path, hashlib.sha256(member.data).digest()
        query = "SELECT rowid, digest, position FROM catalogue WHERE path = ? AND NOT seen ORDER BY digest != ? LIMIT 1"
        found = catalogue.execute(query, (path, digest)).fetchone()
        if found is None:
            yield Finding("missing", "the store does not have this member", where)
            continue
        row, stored, position = found
        catalogue.execute("UPDATE catalogue SET seen = 1 WHERE rowid = ?", (row,))
        if stored == digest:
            counts["identical"] += 1
        elif differences := ["the bytes differ"] if position is None else images.differences(position, member):
            yield Finding("different", "; ".join(differences), where)
        else:
            counts["equivalent"] += 1
    for (path,) in catalogue.execute("SELECT path FROM catalogue WHERE NOT seen ORDER BY rowid"):
        yield Finding("extra", "the release does not have this member", path)


class _Images:
    """Finds the images of a version by their position; a release in the version's order is read once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._stream: Iterator[StoredImage] = iter(())
        self._next = 0

    def differences(self, position: int, member: Member) -> list[str]:
        """Tell how an image of a release differs from the one that an export writes."""
        if position < self._next or not self._next:
            self._stream, self._next = self._snapshot.iter_images(), 0
        image = next(islice(self._stream, position - self._next, None))
        self._next = position + 1
        if image.fidelity == "decoded":
            same = pixel_digest(tiff.decode(member.data).pixels) == image.pixel_digest
            return [] if same else ["the decoded pixels differ"]
        (rebuilt,) = rebuild(self._snapshot, [image])
        return [rebuilt.problem.message] if rebuilt.problem else tiff.differences(member.data, rebuilt.data)


def _reported(
    members: Iterator[Rebuilt], snapshot: Snapshot, progress: Callable[[int, int | None], None] | None
) -> Iterator[Rebuilt]:
    total = 2 * snapshot.version.samples + snapshot.version.index["members"].rows
    for done, member in enumerate(members, 1):
        yield member
        if progress:
            progress(done, total)
