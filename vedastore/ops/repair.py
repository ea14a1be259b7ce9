"""Makes again what can be: a root document from its copy, metadata from the root, statistics from the version."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.model import Finding
from vedastore.ops.kept_stats import read_kept, stats_key
from vedastore.ops.stats import stats
from vedastore.ops.verify import VerifyReport, check_copy, check_metadata, implied_metadata, require_root, verify
from vedastore.spec import keys
from vedastore.spec.root import ATTRIBUTE, LIMIT_BYTES
from vedastore.store.copies import restore_root
from vedastore.store.snapshot import open_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.io.objects import Objects
    from vedastore.store.snapshot import Snapshot


def repair(
    objects: Objects,
    *,
    version: str | None = None,
    write_id: str | None = None,
    workers: int | None = None,
    client: Any = None,
    **options: Any,
) -> VerifyReport:
    """Repair a store as far as that can be done, and verify a version of it; see ``vedastore.repair``.

    ``options`` are those of ``verify``. What cannot be made again is a problem of the report, as without a repair.
    """
    objects.check_swaps()
    repaired = [*_restore(objects, write_id), *_write_metadata(objects)]
    snapshot = open_version(objects, version)
    report = verify(snapshot, workers=workers, client=client, **options)
    measured = set(_measure(snapshot, {note.where for note in report.notes}, workers, client))
    repaired += [Finding("statistics", "measured again", key) for key in sorted(measured)]
    notes = tuple(note for note in report.notes if note.where not in measured)
    return replace(report, notes=notes, repaired=tuple(repaired))


def _restore(objects: Objects, write_id: str | None) -> Iterator[Finding]:
    copy = restore_root(objects, write_id)
    if copy is not None:
        told = "what was being committed when its writer died may be in it"
        yield Finding("root", f"restored from the copy of write {copy}; {told}", keys.ROOT)


def _write_metadata(objects: Objects) -> Iterator[Finding]:
    """Write again what is not as the root document implies; what cannot be written stays as it is."""
    root = require_root(objects)
    documents = implied_metadata(root)
    copy = keys.root_copy(root.write_id)
    documents[copy] = documents[keys.ROOT]
    for found in (*check_metadata(objects), *check_copy(objects)):
        key = found.where or ""
        with suppress(StoreError):
            if key != keys.ROOT:
                objects.replace(key, documents[key])
            elif not _swap_root(objects, documents[key]):
                continue
            yield Finding(found.rule, "written again", key)
    if require_root(objects).write_id != root.write_id:  # a writer has removed the copy meanwhile
        objects.delete(copy)


def _swap_root(objects: Objects, document: bytes) -> bool:
    """Write the root again if nothing is damaged but what it has besides the root document; tell whether that is so."""
    found = objects.read_tagged(keys.ROOT, LIMIT_BYTES)
    if found is None or _body(found[0]) != _body(document):  # another root; or more than is known here
        return False
    objects.swap(keys.ROOT, document, found[1])
    return True


def _body(document: bytes) -> Any:
    return json.loads(document)["attributes"][ATTRIBUTE]


def _measure(snapshot: Snapshot, wrong: set[str | None], workers: int | None, client: Any) -> Iterator[str]:
    """Measure statistics again that are kept and are wrong; give their keys."""
    everything = np.arange(snapshot.version.samples)
    for bucket in (None, *snapshot.arrays):
        key = stats_key(snapshot, bucket)
        if key in wrong:
            with suppress(StoreError, UsageError):  # then the note stays
                stats(snapshot, everything, whole=True, bucket=bucket, cached=False, workers=workers, client=client)
                if read_kept(snapshot, bucket) is not None:
                    yield key
