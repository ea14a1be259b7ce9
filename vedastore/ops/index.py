"""The index of a version to be: its tables, row group by row group, and the document that describes it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from vedastore.ops.checks import FlagCount, check_release, ordered
from vedastore.ops.workers import batched_bytes
from vedastore.spec import release as rules
from vedastore.spec.root import SKIPPED_INLINE, Version
from vedastore.spec.tables import SKIPPED
from vedastore.store.rows import plan_rows
from vedastore.store.tables import TableWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vedastore.exchange.release import ReleaseReader
    from vedastore.ops.decisions import Decisions
    from vedastore.ops.options import ConvertOptions
    from vedastore.spec.root import Bucket, IndexFile
    from vedastore.store.commit import Write
    from vedastore.store.ledger import Ledger

_BATCH_BYTES: Final = 2 * 2**20
_MEMBER_ROWS: Final = 1024
_LIBRARIES: Final = ("vedastore", "imagecodecs", "numcodecs", "pyarrow", "pyproj", "rasterio", "zstandard")


def write_index(
    write: Write,
    ledger: Ledger,
    decisions: Decisions,
    buckets: dict[str, Bucket],
    *,
    options: ConvertOptions,
    reader: ReleaseReader,
) -> Version:
    """Write the three tables row group by row group, and describe the version that they make."""
    fidelity, flags = {"exact": 0, "equivalent": 0, "decoded": 0}, FlagCount()
    with TableWriter("samples") as samples, TableWriter("features") as features, TableWriter("members") as members:
        for pairs in ledger.iter_pairs():
            sample_rows, feature_rows = plan_rows(pairs, decisions.label_coords)
            samples.append(sample_rows.columns, sample_rows.shapes)
            features.append(feature_rows.columns, feature_rows.shapes)
            for sample_id, kind, flagged in zip(pairs.id, pairs.fidelity, sample_rows.columns["flags"], strict=True):
                fidelity[kind] += 1
                flags.add(sample_id, flagged)
        _append_members(members, ledger)
        index: dict[str, IndexFile] = {w.table: w.finish(write) for w in (samples, features, members)}
        bounds = samples.bounds
    skipped = tuple(islice(ledger.iter_rejected(), SKIPPED_INLINE))
    if ledger.count_rejected() > SKIPPED_INLINE:
        index["skipped"] = _write_skipped(write, ledger)
    checked = check_release(ledger, decisions, options, reader.where, reader.container)
    findings = ordered((*checked, *flags.findings(reader.where)))
    return Version(
        version=options.version or decisions.meta.version or "1",
        parent=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=options.name or decisions.meta.name or _stem(reader.where),
        task=decisions.task,
        classes=decisions.classes,
        label_coords=decisions.label_coords,
        samples=decisions.samples,
        features=index["features"].rows,
        bounds=bounds,
        fidelity=fidelity,
        index=index,
        buckets=buckets,
        content=_content(ledger),
        source=_provenance(reader, options),
        skipped=skipped,
        findings=tuple(f.to_dict() for f in findings),
    )


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


def _content(ledger: Ledger) -> dict[str, str]:
    """Return hashes of what the release holds, the same however it was packed.

    ``samples`` covers ids, image files and label files, ``members`` the names and bytes of all other files, ``all``
    both; the order of members, the top folder and the container do not count.
    """
    samples = (_record(i.encode(), digest, _sha256(label)) for i, digest, label in ledger.iter_contents())
    top = ledger.read_top()
    members = sorted(
        _record(rules.comparable(name, top).encode(), _sha256(data))
        for _, name, kind, data in ledger.iter_members()
        if kind != "directory"
    )
    parts = {"samples": _digest(samples), "members": _digest(members)}
    return {**parts, "all": _digest(p.encode() for p in parts.values())}


def _record(*fields: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(f)) + f for f in fields)


def _digest(records: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(record)
    return digest.hexdigest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _provenance(reader: ReleaseReader, options: ConvertOptions) -> dict[str, Any]:
    return {
        "url": reader.url,
        "bytes": reader.size_bytes,
        "sha256": reader.sha256,
        "options": {k: v for k, v in asdict(options).items() if v is not None},
        "libraries": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that what is stored depends on."""
    return {name: library_version(name) for name in _LIBRARIES}


def _stem(where: str) -> str:
    for suffix in (".tar.gz", ".tgz", ".tar"):
        if where.lower().endswith(suffix):
            return where[: -len(suffix)]
    return where
