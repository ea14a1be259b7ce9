"""Reads everything of a version again and checks it; with a release, compares member by member."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError
from vedastore.model import DEFAULT_LIMITS, Finding, Limits
from vedastore.ops.comparison import Comparison
from vedastore.ops.rebuild import Rebuilt, iter_rebuilt
from vedastore.ops.workers import open_executor
from vedastore.spec import arrays, keys
from vedastore.spec.root import dump_json, dump_root
from vedastore.store.commit import read_root
from vedastore.store.shards import read_shard_index

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from vedastore.store.snapshot import Snapshot


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
    snapshot: Snapshot,
    *,
    against: str | os.PathLike[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> VerifyReport:
    """Check a version: root, metadata, index, every chunk, every image against its digest, and a release if named.

    ``progress`` is called with members done and in all.

    Raises
    ------
    StoreError
        When the root document cannot be read; damage below it is reported.
    ReleaseError
        When the release cannot be read.
    """
    problems = [*_check_metadata(snapshot), *_check_index(snapshot)]
    counts: Counter[str] = Counter()
    if not any(p.rule == "index" for p in problems):
        with ExitStack() as stack:
            executor = stack.enter_context(open_executor(workers, client))
            comparison = stack.enter_context(Comparison(snapshot))
            rebuilt = _reported(iter_rebuilt(snapshot, executor), snapshot, progress)
            problems += _check_members(rebuilt, comparison, counts)
            problems += _check_rows(snapshot)
            if against is not None:
                problems += comparison.compare(against, limits)
                counts = comparison.counts
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
    root = read_root(snapshot.objects)
    if root is None:
        raise StoreError("there is no store any more", where=snapshot.objects.url)
    expected = {keys.ROOT: dump_root(root[0]), keys.chips_metadata(): dump_json(arrays.group_metadata())}
    for name, bucket in root[0].buckets().items():
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


def _check_members(members: Iterator[Rebuilt], comparison: Comparison, counts: Counter[str]) -> Iterator[Finding]:
    """Count images by outcome, tell the damaged ones, and note every member for a comparison."""
    for member in members:
        if member.problem is not None:
            yield Finding("image", member.problem.message, member.problem.where)
        if member.kind == "image":
            comparison.add(member, counts.total())
            counts[member.outcome] += 1
        elif member.kind != "directory":
            comparison.add(member, None)


def _check_rows(snapshot: Snapshot) -> Iterator[Finding]:
    """Check every shard's index, and read the rows that no sample of the version has."""
    named = {name: np.zeros(bucket.rows, bool) for name, bucket in snapshot.version.buckets.items()}
    for batch in snapshot.table("samples").iter_batches(["bucket", "row"]):
        for name, row in zip(batch.column("bucket").to_pylist(), batch.column("row").to_pylist(), strict=True):
            named[name][row] = True
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
        for row in np.flatnonzero(~named[name]).tolist():
            try:
                reader.read(row)
            except StoreError as error:
                yield Finding("image", error.message, error.where)


def _reported(
    members: Iterator[Rebuilt], snapshot: Snapshot, progress: Callable[[int, int | None], None] | None
) -> Iterator[Rebuilt]:
    total = 2 * snapshot.version.samples + snapshot.version.index["members"].rows
    for done, member in enumerate(members, 1):
        yield member
        if progress:
            progress(done, total)
