"""Edits in one commit: labels corrected, samples removed or added. Others may edit other samples meanwhile."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import ConflictError, SampleNotFoundError, UsageError
from vedastore.io.files import scratch_errors
from vedastore.model import Finding
from vedastore.ops.changes import find, label_options, next_ordinal, read_changes
from vedastore.ops.checks import ordered
from vedastore.ops.convert import write_metadata
from vedastore.ops.decisions import Refusals, decide
from vedastore.ops.excerpt import export_members, left_out
from vedastore.ops.rows import RowWriter, Tally, count_rows, put_on_top
from vedastore.ops.succession import plan_edit
from vedastore.spec.content import hash_content
from vedastore.spec.root import PARTS_LIMIT
from vedastore.store.commit import Write, read_root
from vedastore.store.ledger import Ledger
from vedastore.store.revision import check_name, flatten, name_change, now
from vedastore.store.snapshot import Snapshot, StoredFile
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from vedastore.model import LabelCoords
    from vedastore.ops.changes import Edits
    from vedastore.ops.succession import Succession
    from vedastore.spec.root import Bucket, IndexFile, Version

TRIES: Final = 40
_PAUSE_LIMIT: Final = 16
"""How many times as long as a commit takes writers wait before the next one, at most."""
_TOLD: Final = ("image_digest", "label", "split")


def edit(snapshot: Snapshot, edits: Edits, *, workers: int | None = None) -> Snapshot:
    """Commit a version with some edits, and open it; nothing is read for that.

    Where others have committed meanwhile, the edits are made to what is there now, as long as nobody has changed the
    same samples.

    Raises
    ------
    SampleNotFoundError
        When a sample that is to be changed is not there.
    UsageError
        When a sample that is to be added is there.
    ConflictError
        When the name of the version is taken, another writer was first with one of the samples, or too many writers are
        at work.
    ReleaseError
        When a label or an image would be refused by a conversion.
    """
    _check(snapshot, edits)
    head = snapshot
    for attempt in range(TRIES):
        started = time.monotonic()
        try:
            return _commit(head, edits, workers)
        except ConflictError:
            if attempt == TRIES - 1:
                raise
            longest = (time.monotonic() - started) * min(2**attempt, _PAUSE_LIMIT)
            time.sleep(random.uniform(0, longest))  # noqa: S311 - writers are to part
            head = _rebase(snapshot, edits)
    raise AssertionError


def _check(snapshot: Snapshot, edits: Edits) -> None:
    """Refuse edits that make no sense for a version."""
    where = snapshot.objects.url
    if clash := {*edits.labels, *edits.splits}.intersection(edits.removed):
        raise UsageError(f"sample {min(clash)!r} is changed and removed", where=where)
    for sample_id, position in zip(edits.touched, find(snapshot, edits.touched).tolist(), strict=True):
        if position < 0:
            raise SampleNotFoundError(f"there is no sample {sample_id!r}", where=where)
    for sample_id, position in zip(edits.added, find(snapshot, list(edits.added)).tolist(), strict=True):
        if position >= 0 and sample_id not in edits.removed:
            hint = "remove it in the same edit, or give the new one another id"
            raise UsageError(f"there is a sample {sample_id!r} already", where=where, hint=hint)
    check_name(edits.version, snapshot)
    if len(edits.removed) == snapshot.version.samples and not edits.added:
        raise UsageError("no sample would be left", where=where, hint="delete the store instead")


def _rebase(base: Snapshot, edits: Edits) -> Snapshot:
    """Return the latest version, if the samples and files that are to be changed are what they were in ``base``."""
    found = read_root(base.objects)
    url = base.objects.url
    if found is None or base.version != base.root.versions[-1]:
        hint = "open the store again, and look at what is there now"
        raise ConflictError("the store has changed since it was opened", where=url, hint=hint)
    head = Snapshot(base.objects, found[0], found[0].versions[-1])
    ids = [*edits.touched, *edits.added]
    for sample_id, before, after in zip(ids, _state(base, ids), _state(head, ids), strict=True):
        if before != after:
            hint = "open the store again, and look at what is there now"
            raise ConflictError(f"another writer has changed sample {sample_id!r} first", where=url, hint=hint)
    if edits.meta is not None and base.read_member("meta") != head.read_member("meta"):
        raise ConflictError("another writer has changed meta.json first", where=url)
    check_name(edits.version, head)
    return head


def _commit(head: Snapshot, edits: Edits, workers: int | None) -> Snapshot:
    """Make the edits to a version, and commit what comes of it."""
    with Write(head.objects, onto=head.root) as write, scratch_errors(), Ledger() as ledger:
        base = _with_room(write, head)
        buckets, reused = read_changes(write, base, ledger, edits, workers)
        plan = plan_edit(base, find(base, edits.touched), find(base, edits.removed), len(edits.added))
        named = buckets | {name: head.root.buckets()[name] for name in reused}
        version = _write_version(write, base, ledger, edits, plan, buckets=named)
        write_metadata(write, buckets)
        root = write.commit(version)
    return Snapshot(head.objects, root, version)


def _with_room(write: Write, head: Snapshot) -> Snapshot:
    """Return a version on which a part can be put; its parts are made one where they are many, or much."""
    version = head.version
    rows = sum(part.samples.rows for part in version.parts)
    if len(version.parts) < PARTS_LIMIT and rows * 2 <= version.index["samples"].rows:
        return head
    return Snapshot(head.objects, head.root, flatten(write, head))


def _write_version(
    write: Write, base: Snapshot, ledger: Ledger, edits: Edits, plan: Succession, *, buckets: dict[str, Bucket]
) -> Version:
    """Write the tables, and describe the version that they make."""
    version, classes = base.version, set(base.version.classes)
    coords: LabelCoords | None = version.label_coords
    if ledger.count():
        decisions = decide(ledger, label_options(version), base.objects.url, Refusals())
        coords, classes = coords or decisions.label_coords, classes | set(decisions.classes)
        ids = [*base.lookup.names(plan.before[plan.written & (plan.before >= 0)]), *edits.added]
        ledger.place(zip(plan.slots[plan.written].tolist(), ids, strict=True))
    with RowWriter(base, plan, edits.splits) as rows:
        for pairs in ledger.iter_pairs():
            rows.append(pairs, coords)
        rows.seal(write)
        files, _ = rows.finish()
    draft = replace(
        version,
        version=edits.version or name_change(base.root, base.version.version),
        parent=version.version,
        created=now(),
        name=edits.name or version.name,
        classes=tuple(sorted(classes)),
        label_coords=coords,
        source=_source(version, edits),
        author=edits.author,
        message=edits.message,
        skipped=tuple(entry for entry in version.skipped if entry.get("id") not in edits.added),
        buckets=buckets,
        index=version.index | _members(write, base, edits, plan),
    )
    changed, tally = put_on_top(write, base, draft, files, plan)
    snapshot = Snapshot(write.objects, base.root, changed)
    return replace(changed, content=_content(snapshot), findings=_findings(base, tally))


def _members(write: Write, base: Snapshot, edits: Edits, plan: Succession) -> dict[str, IndexFile]:
    """Write the other members where some of them change: ``meta.json``, and those of samples that are gone."""
    out = left_out(base, plan.before[plan.before >= 0]) if len(plan.removed) else np.zeros(0, bool)
    if edits.meta is None and not out.any():
        return {}
    members = list(base.iter_members())
    kept = [m for place, m in enumerate(members) if not (len(out) and out[place])]
    if edits.meta is not None:
        top, ordinal = f"{base.top}/" if base.top else "", next_ordinal(base) + 2 * len(edits.added)
        old = next((m for m in kept if m.kind == "meta"), StoredFile("meta", f"{top}meta.json", ordinal, b""))
        kept = [m for m in kept if m.kind != "meta"] + [replace(old, data=edits.meta)]
    kept.sort(key=attrgetter("ordinal"))
    with TableWriter("members") as writer:
        columns = {"name": "member", "ordinal": "ordinal", "kind": "kind", "data": "data"}
        writer.append({name: [getattr(m, attribute) for m in kept] for name, attribute in columns.items()})
        return {"members": writer.finish(write)}


def _source(version: Version, edits: Edits) -> dict[str, Any]:
    """Return where a version came from: the release, and how much has been edited since."""
    before = version.source.get("edits", {})
    now_ = {"updated": len({*edits.labels, *edits.splits}), "removed": len(edits.removed), "added": len(edits.added)}
    return version.source | {"edits": {name: before.get(name, 0) + number for name, number in now_.items()}}


def _findings(base: Snapshot, tally: Tally) -> tuple[dict[str, Any], ...]:
    """Return what is worth knowing: the flags of rows as they are, and what else the release was found to have."""
    where = base.version.source.get("url", base.objects.url).rstrip("/").rpartition("/")[2]
    counted = {finding.rule for finding in count_rows(base).flags.findings(where)}
    kept = [
        Finding(f["rule"], f["message"], f.get("where"), f.get("count", 1), tuple(f.get("samples", ())))
        for f in base.version.findings
        if f["rule"] not in counted
    ]
    return tuple(finding.to_dict() for finding in ordered((*kept, *tally.flags.findings(where))))


def _content(snapshot: Snapshot) -> dict[str, str]:
    """Return the hashes that a conversion of the version's export would have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = snapshot.table("samples")
    ids, images, labels = [], [], []
    for part in table.iter_batches(["id", "image_digest", "label"]):
        ids += part.column("id").chunks
        images += part.column("image_digest").to_pylist()
        labels += [hashlib.sha256(label).digest() for label in part.column("label").to_pylist()]
    names = pa.chunked_array(ids, "string")
    order = pc.sort_indices(names).to_pylist()
    samples = ((names[i].as_py(), images[i], labels[i]) for i in order)
    members = ((m.member, m.kind, m.data) for m in export_members(snapshot))
    return hash_content(samples, members, snapshot.top)


def _state(snapshot: Snapshot, ids: list[str]) -> list[Any]:
    """Return what two versions must share of a sample so that an edit of one is one of the other; None without it."""
    positions = find(snapshot, ids)
    rows = iter(snapshot.table("samples").take(positions[positions >= 0].tolist(), _TOLD))
    return [next(rows) if position >= 0 else None for position in positions.tolist()]
