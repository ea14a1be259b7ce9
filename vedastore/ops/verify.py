"""Reads everything of a version again and checks it; with a release, compares member by member."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow.compute as pc

from vedastore.errors import StoreError
from vedastore.io import geometry
from vedastore.model import DEFAULT_LIMITS, Finding, Limits
from vedastore.ops.comparison import Comparison
from vedastore.ops.excerpt import export_members
from vedastore.ops.inspection import PIECE_BYTES, inspect, iter_pieces
from vedastore.ops.stats import check_kept
from vedastore.ops.workers import open_team
from vedastore.spec import arrays, keys
from vedastore.spec.places import check_options
from vedastore.spec.root import dump_json, dump_root
from vedastore.spec.tables import GEOMETRY_COLUMNS
from vedastore.store.commit import read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from vedastore.io.objects import Objects
    from vedastore.ops.workers import Team
    from vedastore.spec.root import IndexFile, Root, Version
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
    counts: Counter[str] = Counter()
    with open_team(snapshot, workers, client) as team:
        problems = [*check_metadata(snapshot.objects), *_check_index(snapshot, team)]
        if not any(p.rule == "index" for p in problems):
            with Comparison(snapshot, limits) as comparison:
                problems += _check_shards(snapshot, team, comparison, counts, progress)
                if against is not None:
                    _add_others(snapshot, comparison)
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


def check_metadata(objects: Objects) -> list[Finding]:
    """Compare the metadata with what the root document says, and the copy of the root with it, where there is one.

    Where another writer commits meanwhile, that is done again with the new root: its metadata are others.
    """
    while True:
        root = require_root(objects)
        found = [*_compare_metadata(objects, root)]
        if not found or require_root(objects).write_id == root.write_id:
            return found


def _compare_metadata(objects: Objects, root: Root) -> Iterator[Finding]:
    expected = implied_metadata(root)
    copy = keys.root_copy(root.write_id)
    if objects.size(copy) is not None:
        expected[copy] = expected[keys.ROOT]
    for key, wanted in expected.items():
        try:
            found = objects.read_tagged(key, len(wanted))
            if found is None or found[0] != wanted:
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


def _check_index(snapshot: Snapshot, team: Team) -> Iterator[Finding]:
    """Check the bytes of every index file, and every value in it: what follows can rely on them."""
    version, unread = snapshot.version, set()
    for file, (read, found) in zip(version.files, team.map(_check_file, _each(version.files), _REQUESTS), strict=True):
        unread |= set() if read else {file.key}
        yield from found
    tables = [table for table in version.index if unread.isdisjoint(_files_behind(version, table))]
    for found in team.map(_check_table, _each(tables), _REQUESTS):
        yield from found


def _files_behind(version: Version, table: str) -> set[str]:
    """Return the keys of what a table is read from: in a version with parts, those of ``samples`` tell what counts."""
    if not version.parts or table not in {"samples", "features"}:
        return {version.index[table].key}
    parts = [file for part in version.parts for file in (part.samples, part.removed) if file is not None]
    features = [version.index["features"], *(part.features for part in version.parts)] if table == "features" else []
    return {file.key for file in (version.index["samples"], *parts, *features)}


def _each(items: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    return ((item, 1) for item in items)


def _check_file(snapshot: Snapshot, file: IndexFile) -> tuple[bool, list[Finding]]:
    """Read an index file; tell whether it could be, and whether its bytes are not those that were committed."""
    digest = hashlib.sha256()
    try:
        for start in range(0, file.bytes, _READ_BYTES):
            digest.update(snapshot.objects.read(file.key, start, min(_READ_BYTES, file.bytes - start)))
        sound = snapshot.objects.size(file.key) == file.bytes and digest.hexdigest() == file.sha256
    except StoreError as error:
        return False, [Finding("index", error.message, file.key)]
    told = "the index file is not the one that was committed"
    return True, [] if sound else [Finding("index", told, file.key)]


def _check_table(snapshot: Snapshot, table: str) -> list[Finding]:
    """Read every value of a table."""
    try:
        for batch in snapshot.table(table).iter_batches():
            for column in GEOMETRY_COLUMNS[table]:
                geometry.parse_wkb(batch.column(column).to_pylist())
        checks = {"samples": _check_samples, "features": _check_features}
        return [*checks[table](snapshot)] if table in checks else []
    except StoreError as error:
        key = (error.where or "").removeprefix(f"{snapshot.objects.url}/") or snapshot.version.index[table].key
        return [Finding("index", error.message, key)]


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


def _check_shards(
    snapshot: Snapshot,
    team: Team,
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
    for done in team.map(inspect, iter_pieces(snapshot, given_up), PIECE_BYTES):
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
    for member in chain(snapshot.iter_labels(), export_members(snapshot)):
        if member.kind != "directory":
            comparison.add(member.member, hashlib.sha256(member.data).digest(), member.ordinal)
