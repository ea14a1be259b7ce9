"""The index of a version to be: its tables, row group by row group, and the document that describes it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from itertools import compress, count, islice, zip_longest
from typing import TYPE_CHECKING, Any, Final

from vedastore.ops.checks import check_release, ordered
from vedastore.ops.options import library_versions
from vedastore.ops.rows import RowWriter, put_on_top
from vedastore.ops.succession import plan_append
from vedastore.ops.workers import batched_bytes
from vedastore.spec.content import hash_content
from vedastore.spec.root import SKIPPED_INLINE, Version
from vedastore.spec.tables import SKIPPED
from vedastore.store.revision import check_name, now
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from vedastore.exchange.release import ReleaseReader
    from vedastore.ops.decisions import Decisions
    from vedastore.ops.intake import Intake
    from vedastore.ops.options import ConvertOptions
    from vedastore.spec.root import IndexFile
    from vedastore.store.commit import Write
    from vedastore.store.ledger import Ledger
    from vedastore.store.snapshot import Snapshot

_BATCH_BYTES: Final = 2 * 2**20
_MEMBER_ROWS: Final = 1024


def write_index(
    write: Write,
    ledger: Ledger,
    decisions: Decisions,
    intake: Intake,
    *,
    options: ConvertOptions,
    reader: ReleaseReader,
    parent: Snapshot | None = None,
) -> Version:
    """Write the tables row group by row group, and describe the version that they make.

    Where it follows a ``parent`` and few rows are others, they become a part on top of that one's tables. Meanwhile
    the last chips are written, and the archive is hashed: the buckets and its digest are asked for late.
    """
    plan = None if parent is None else plan_append(parent, ledger, decisions, options)
    with RowWriter(parent, plan) as rows:
        if plan is not None:
            chosen = (plan.slots[plan.written].tolist(), compress(ledger.ids(), plan.written))
            ledger.place(zip(*chosen, strict=True))
        for pairs in ledger.iter_pairs():
            rows.append(pairs, decisions.label_coords)
            intake.note_written()
        rows.seal(write)
        index = {"members": _write_members(write, ledger, parent)}
        if ledger.count_rejected() > SKIPPED_INLINE:
            index["skipped"] = _write_skipped(write, ledger)
        checked = [*check_release(ledger, decisions, options, reader.where, reader.container)]
        content = _hash_content(ledger)
        files, tally = rows.finish()
    before = {} if parent is None else parent.root.buckets()
    buckets = intake.finish() | {name: before[name] for name in intake.reused}
    version = Version(
        version=_name(options.version or decisions.meta.version, parent),
        parent=None if parent is None else parent.version.version,
        created=now(),
        name=options.name or decisions.meta.name or (parent.version.name if parent else _stem(reader.where)),
        task=decisions.task,
        classes=decisions.classes,
        label_coords=decisions.label_coords,
        samples=files["samples"].rows,
        features=tally.features,
        bounds=tally.bounds,
        fidelity=tally.fidelity,
        index=files | index,
        buckets=buckets,
        content=content,
        source=_provenance(reader, options),
        skipped=tuple(islice(ledger.iter_rejected(), SKIPPED_INLINE)),
        findings=(),
    )
    if parent is not None and plan is not None and plan.is_part:
        version, tally = put_on_top(write, parent, version, files, plan)
    findings = ordered((*checked, *tally.flags.findings(reader.where)))
    return replace(version, findings=tuple(f.to_dict() for f in findings))


def _hash_content(ledger: Ledger) -> dict[str, str]:
    samples = ((name, digest, hashlib.sha256(label).digest()) for name, digest, label in ledger.iter_contents())
    members = ((name, kind, data) for _, name, kind, data in ledger.iter_members())
    return hash_content(samples, members, ledger.read_top())


def _name(given: str | None, parent: Snapshot | None) -> str:
    """Return the name of a version: what the release says, or a number that none has."""
    check_name(given, parent)
    taken = set() if parent is None else {version.version for version in parent.root.versions}
    return given or next(name for number in count(1) if (name := str(number)) not in taken)


def _write_members(write: Write, ledger: Ledger, parent: Snapshot | None) -> IndexFile:
    """Write every member that is no half of a pair, unless they are those of the version before."""
    if parent is not None:
        before = ((m.ordinal, m.member, m.kind, m.data) for m in parent.iter_members())
        if all(a == b for a, b in zip_longest(before, ledger.iter_members())):
            return parent.version.index["members"]
    with TableWriter("members") as members:
        _append_members(members, ledger)
        return members.finish(write)


def _write_skipped(write: Write, ledger: Ledger) -> IndexFile:
    """Write the complete list of what was left out, where it is too long for the root document."""
    with TableWriter("skipped") as table:
        sized = ((entry, len(entry["reason"])) for entry in ledger.iter_rejected())
        for batch, _ in batched_bytes(sized, _BATCH_BYTES, _MEMBER_ROWS):
            table.append({name: [entry[name] for entry in batch] for name in SKIPPED})
        return table.finish(write)


def _append_members(table: TableWriter, ledger: Ledger) -> None:
    """Add every member that is no half of a pair, a bounded number of bytes at a time."""
    names = ("ordinal", "name", "kind", "data")
    others = ((row, len(row[-1])) for row in ledger.iter_members())
    for batch, _ in batched_bytes(others, _BATCH_BYTES, _MEMBER_ROWS):
        table.append({name: list(column) for name, column in zip(names, zip(*batch, strict=True), strict=True)})
        batch.clear()


def _provenance(reader: ReleaseReader, options: ConvertOptions) -> dict[str, Any]:
    return {
        "url": reader.url,
        "bytes": reader.size_bytes,
        "sha256": reader.sha256(),
        "options": {k: v for k, v in asdict(options).items() if v is not None},
        "libraries": library_versions(),
    }


def _stem(where: str) -> str:
    for suffix in (".tar.gz", ".tgz", ".tar"):
        if where.lower().endswith(suffix):
            return where[: -len(suffix)]
    return where
