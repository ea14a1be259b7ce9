"""Reads everything of a version again and checks it; with a release, compares member by member."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow.compute as pc

from vedastore.errors import StoreError
from vedastore.io import geometry
from vedastore.model import DEFAULT_LIMITS, Finding, Limits
from vedastore.ops.comparison import Comparison
from vedastore.ops.rebuild import Rebuilt, iter_rebuilt
from vedastore.ops.stats import check_kept
from vedastore.ops.workers import open_executor
from vedastore.spec import arrays, keys
from vedastore.spec.places import check_options
from vedastore.spec.root import dump_json, dump_root
from vedastore.spec.tables import GEOMETRY_COLUMNS
from vedastore.store.chips import read_shard_index
from vedastore.store.commit import read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from vedastore.io.objects import Objects
    from vedastore.spec.root import IndexFile, Root
    from vedastore.store.snapshot import Snapshot


Rows = np.ndarray[Any, np.dtype[np.int64]]
_READ_BYTES: Final = 8 * 2**20
_ABSENT_SHARDS: Final = 1000
"""Shards of a bucket that are looked for in vain before the rest is taken for absent too."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Without a release, ``byte_identical`` and ``equivalent`` count the images that come back as they were converted.
    With one they count the release's members, all kinds, by what the export of the version has in their place.
    ``notes`` tell what nothing depends on, and what can be made again: statistics that are kept and are wrong, and a
    root document without a copy. ``repaired`` tells what a repair did.
    """

    ok: bool
    version: str
    samples: int
    byte_identical: int
    equivalent: int
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()
    repaired: tuple[Finding, ...] = ()


def verify(
    snapshot: Snapshot,
    *,
    against: str | os.PathLike[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Check a version: root, metadata, index, every chunk, every image against its digest, and a release if named.

    Statistics that the store keeps of a sound version are measured again.

    ``progress`` is called with members done and in all.

    Raises
    ------
    StoreError
        When the root document cannot be read; damage below it is reported.
    ReleaseError
        When the release cannot be read.
    """
    check_options(storage_options, *([] if against is None else [against]))
    problems = [*check_metadata(snapshot.objects), *_check_index(snapshot)]
    counts: Counter[str] = Counter()
    if not any(p.rule == "index" for p in problems):
        with ExitStack() as stack:
            executor = stack.enter_context(open_executor(workers, client))
            comparison = stack.enter_context(Comparison(snapshot, limits))
            rebuilt = _reported(iter_rebuilt(snapshot, executor), snapshot, progress)
            problems += _check_members(rebuilt, comparison, counts)
            problems += _check_rows(snapshot)
            if against is not None:
                problems += comparison.compare(against, storage_options or snapshot.objects.options)
                counts = comparison.counts
    notes = [] if problems else [*check_kept(snapshot, workers=workers, client=client)]
    return VerifyReport(
        ok=not problems,
        version=snapshot.version.version,
        samples=snapshot.version.samples,
        byte_identical=counts["identical"],
        equivalent=counts["equivalent"],
        problems=tuple(problems),
        notes=(*check_copy(snapshot.objects), *notes),
    )


def implied_metadata(root: Root) -> dict[str, bytes]:
    """Return every group's and array's metadata by key, as this version of the format writes it."""
    documents = {keys.ROOT: dump_root(root), keys.chips_metadata(): dump_json(arrays.group_metadata())}
    for name, bucket in root.buckets().items():
        found = arrays.bucket_documents(name, bucket.spec, bucket.rows)
        documents |= {key: dump_json(document) for key, document in found.items()}
    return documents


def check_metadata(objects: Objects) -> Iterator[Finding]:
    """Compare the metadata with what the root document says, and the copy of the root with it, where there is one."""
    root = require_root(objects)
    expected = implied_metadata(root)
    copy = keys.root_copy(root.write_id)
    if objects.size(copy) is not None:
        expected[copy] = expected[keys.ROOT]
    for key, wanted in expected.items():
        try:
            if objects.size(key) != len(wanted) or objects.read(key) != wanted:
                yield Finding("metadata", "the metadata is not what the root document says", key)
        except StoreError as error:
            yield Finding("metadata", error.message, key)


def check_copy(objects: Objects) -> Iterator[Finding]:
    """Tell whether there is no copy of the root document, as in stores that were written before there were any."""
    key = keys.root_copy(require_root(objects).write_id)
    if objects.size(key) is None:
        yield Finding("copy", "there is no copy of the root document; --repair makes one", key)


def require_root(objects: Objects) -> Root:
    """Return the root document of a store that was opened."""
    found = read_root(objects)
    if found is None:
        raise StoreError("there is no store any more", where=objects.url)
    return found[0]


def _check_index(snapshot: Snapshot) -> Iterator[Finding]:
    """Check the bytes of every index file, and every value in it: what follows can rely on them."""
    version, unread = snapshot.version, set()
    for file in version.files:
        try:
            if not _is_committed(snapshot, file):
                yield Finding("index", "the index file is not the one that was committed", file.key)
        except StoreError as error:
            unread.add(file.key)
            yield Finding("index", error.message, file.key)
    for table, file in version.index.items():
        if file.key not in unread:
            try:
                for batch in snapshot.table(table).iter_batches():
                    for column in GEOMETRY_COLUMNS[table]:
                        geometry.parse_wkb(batch.column(column).to_pylist())
                if table == "samples":
                    yield from _check_samples(snapshot)
                if table == "features":
                    yield from _check_features(snapshot)
            except StoreError as error:
                yield Finding("index", error.message, file.key)


def _is_committed(snapshot: Snapshot, file: IndexFile) -> bool:
    """Read an index file; tell whether its bytes are those that were committed."""
    digest = hashlib.sha256()
    for start in range(0, file.bytes, _READ_BYTES):
        digest.update(snapshot.objects.read(file.key, start, min(_READ_BYTES, file.bytes - start)))
    return snapshot.objects.size(file.key) == file.bytes and digest.hexdigest() == file.sha256


def _check_samples(snapshot: Snapshot) -> Iterator[Finding]:
    for column in ("id", "image_ordinal", "label_ordinal"):
        values = snapshot.table("samples").read([column]).column(0)
        if pc.count_distinct(values).as_py() != len(values):
            yield Finding("index", f"two samples have the same {column}", snapshot.version.index["samples"].key)


def _check_features(snapshot: Snapshot) -> Iterator[Finding]:
    """Compare how many objects each sample has with how many it is said to have."""
    told = snapshot.table("samples").read(["objects"]).column(0).to_numpy()
    found = np.zeros(len(told), "i8")
    for batch in snapshot.table("features").iter_batches(["position"]):
        np.add.at(found, batch.column(0).to_numpy(), 1)
    if (found != told).any() or found.sum() != snapshot.version.features:
        reason = "there are not as many features as samples have objects"
        yield Finding("index", reason, snapshot.version.index["features"].key)


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
    samples = snapshot.table("samples").read(["bucket", "row"])
    for name, bucket in snapshot.version.buckets.items():
        named = np.sort(samples.filter(pc.equal(samples.column("bucket"), name)).column("row").to_numpy())
        size = absent = 0
        for shard in range(bucket.shards):
            try:
                index = read_shard_index(snapshot.objects, name, bucket.spec, shard)
                size += snapshot.objects.size(keys.shard(name, shard)) or 0
            except StoreError as error:
                yield Finding("shard", error.message, error.where)
                absent += 1
                if absent == _ABSENT_SHARDS:
                    yield Finding("shard", f"{bucket.shards - shard - 1} more shards were not looked at", name)
                    break
                continue
            yield from _check_unnamed(snapshot, name, shard, len(index) // bucket.spec.chunks_per_sample, named)
        if size != bucket.bytes:
            yield Finding("shard", f"the shards have {size} bytes instead of {bucket.bytes}", name)


def _check_unnamed(snapshot: Snapshot, name: str, shard: int, held: int, named: Rows) -> Iterator[Finding]:
    """Read the rows of a shard that the bucket has and no sample of the version names."""
    bucket, reader = snapshot.version.buckets[name], snapshot.chips(name)
    first = shard * bucket.spec.samples_per_shard
    rows = range(first, min(first + bucket.spec.samples_per_shard, bucket.rows))
    if held < len(rows):
        yield Finding("shard", f"it holds {held} chips instead of {len(rows)}", keys.shard(name, shard))
    of_shard = named[np.searchsorted(named, rows.start) : np.searchsorted(named, rows.stop)]
    for row in np.setdiff1d(rows[:held], of_shard).tolist():
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
