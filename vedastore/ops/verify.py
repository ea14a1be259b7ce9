"""Reads everything of a version again and checks it; with a release, compares member by member."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import pyarrow.compute as pc

from vedastore.errors import StoreError
from vedastore.io import geometry
from vedastore.model import DEFAULT_LIMITS, Finding, Limits
from vedastore.ops.comparison import Comparison
from vedastore.ops.inspection import PIECE_BYTES, inspect, iter_pieces
from vedastore.ops.stats import check_kept
from vedastore.ops.workers import open_crew
from vedastore.spec import arrays, keys
from vedastore.spec.places import check_options
from vedastore.spec.root import dump_json, dump_root
from vedastore.spec.tables import GEOMETRY_COLUMNS
from vedastore.store.commit import read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from vedastore.ops.workers import Crew
    from vedastore.store.snapshot import Snapshot

_REQUESTS: Final = 8
"""Objects of the index and of metadata that a thread may have in front of it."""
_READ_BYTES: Final = 8 * 2**20
_ABSENT_SHARDS: Final = 1000
"""Shards of a bucket that are looked for in vain before the rest is taken for absent too."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Without a release, ``byte_identical`` and ``equivalent`` count the images that come back as they were converted.
    With one they count the release's members, all kinds, by what the export of the version has in their place.
    ``notes`` tell what is wrong with statistics that the store keeps: nothing depends on them, and they can be made
    again.
    """

    ok: bool
    version: str
    samples: int
    byte_identical: int
    equivalent: int
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()


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
    counts: Counter[str] = Counter()
    with open_crew(snapshot, workers, client) as crew:
        problems = [*_check_metadata(snapshot, crew), *_check_index(snapshot, crew)]
        if not any(p.rule == "index" for p in problems):
            with Comparison(snapshot, limits) as comparison:
                problems += _check_shards(snapshot, crew, comparison, counts, progress)
                if against is not None:
                    _add_others(snapshot, comparison)
                    problems += comparison.compare(against, storage_options or snapshot.objects.options)
                    counts = comparison.counts
    notes = () if problems else tuple(check_kept(snapshot, workers=workers, client=client))
    return VerifyReport(
        ok=not problems,
        version=snapshot.version.version,
        samples=snapshot.version.samples,
        byte_identical=counts["identical"],
        equivalent=counts["equivalent"],
        problems=tuple(problems),
        notes=notes,
    )


def _check_metadata(snapshot: Snapshot, crew: Crew) -> Iterator[Finding]:
    """Compare the root and every group's and array's metadata with what this version of the format writes."""
    root = read_root(snapshot.objects)
    if root is None:
        raise StoreError("there is no store any more", where=snapshot.objects.url)
    expected = {keys.ROOT: dump_root(root[0]), keys.chips_metadata(): dump_json(arrays.group_metadata())}
    for name, bucket in root[0].buckets().items():
        documents = arrays.bucket_documents(name, bucket.spec, bucket.rows)
        expected |= {key: dump_json(document) for key, document in documents.items()}
    for found in crew.map(_check_document, ((item, 1) for item in expected.items()), _REQUESTS):
        yield from found


def _check_document(snapshot: Snapshot, item: tuple[str, bytes]) -> list[Finding]:
    key, wanted = item
    try:
        found = snapshot.objects.read_tagged(key, len(wanted))
    except StoreError as error:
        return [Finding("metadata", error.message, key)]
    if found is None or found[0] != wanted:
        return [Finding("metadata", "the metadata is not what the root document says", key)]
    return []


def _check_index(snapshot: Snapshot, crew: Crew) -> Iterator[Finding]:
    """Check the bytes of every index file, and every value in it: what follows can rely on them."""
    for found in crew.map(_check_table, ((table, 1) for table in snapshot.version.index), _REQUESTS):
        yield from found


def _check_table(snapshot: Snapshot, table: str) -> list[Finding]:
    file, digest = snapshot.version.index[table], hashlib.sha256()
    found = []
    try:
        for start in range(0, file.bytes, _READ_BYTES):
            digest.update(snapshot.objects.read(file.key, start, min(_READ_BYTES, file.bytes - start)))
        if snapshot.objects.size(file.key) != file.bytes or digest.hexdigest() != file.sha256:
            found.append(Finding("index", "the index file is not the one that was committed", file.key))
        for batch in snapshot.table(table).iter_batches():
            for column in GEOMETRY_COLUMNS[table]:
                geometry.parse_wkb(batch.column(column).to_pylist())
        if table == "samples":
            found += _check_samples(snapshot)
    except StoreError as error:
        found.append(Finding("index", error.message, file.key))
    return found


def _check_samples(snapshot: Snapshot) -> Iterator[Finding]:
    for column in ("id", "image_ordinal", "label_ordinal"):
        values = snapshot.table("samples").read([column]).column(0)
        if pc.count_distinct(values).as_py() != len(values):
            yield Finding("index", f"two samples have the same {column}", snapshot.version.index["samples"].key)


def _check_shards(
    snapshot: Snapshot,
    crew: Crew,
    comparison: Comparison,
    counts: Counter[str],
    progress: Callable[[int, int | None], None] | None,
) -> list[Finding]:
    """Read every shard once: rebuild the images, which are counted and noted, and check what is besides."""
    total = 2 * snapshot.version.samples + snapshot.version.index["members"].rows
    of_images: list[tuple[int, Finding]] = []
    found: list[Finding] = []
    sizes, absent = Counter[str](), Counter[str]()
    given_up: dict[str, Finding] = {}
    for done in crew.map(inspect, iter_pieces(snapshot, given_up), PIECE_BYTES):
        for image in done.images:
            comparison.add(image.member, image.digest, image.ordinal, image.position)
            counts[image.outcome] += 1
            of_images += [] if image.problem is None else [(image.ordinal, image.problem)]
        if progress:
            progress(counts.total(), total)
        name, shards = done.bucket, snapshot.version.buckets[done.bucket].shards
        if not done.first or name in given_up:
            continue
        found += done.findings
        sizes[name] += done.shard_bytes or 0
        absent[name] += done.shard_bytes is None
        if absent[name] == _ABSENT_SHARDS:
            message = f"{shards - done.shard - 1} more shards were not looked at"
            given_up[name] = Finding("shard", message, name)
    if progress:
        progress(total, total)  # labels and other members were read with the index
    for name, bucket in snapshot.version.buckets.items():
        found += [given_up[name]] if name in given_up else []
        if sizes[name] != bucket.bytes:
            found.append(Finding("shard", f"the shards have {sizes[name]} bytes instead of {bucket.bytes}", name))
    return [finding for _, finding in sorted(of_images, key=itemgetter(0))] + found


def _add_others(snapshot: Snapshot, comparison: Comparison) -> None:
    """Note the members that are kept byte for byte."""
    for member in chain(snapshot.iter_labels(), snapshot.iter_members()):
        if member.kind != "directory":
            comparison.add(member.member, hashlib.sha256(member.data).digest(), member.ordinal)
