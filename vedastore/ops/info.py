"""What a store holds, told from its root document alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vedastore.store.snapshot import open_snapshot

if TYPE_CHECKING:
    import os

    from vedastore.spec.root import Version


@dataclass(frozen=True, slots=True)
class InfoReport:
    """One version of a store, and the names of all."""

    store: str
    version: Version
    versions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        version = self.version
        return {
            "store": self.store,
            "name": version.name,
            "task": version.task,
            "classes": list(version.classes),
            "samples": version.samples,
            "features": version.features,
            "version": version.version,
            "versions": list(self.versions),
            "buckets": {name: b.rows for name, b in version.arrays.items()},
            "bounds": None if version.bounds is None else list(version.bounds),
            "bytes": version.bytes,
            "label_coords": version.label_coords,
            "fidelity": version.fidelity,
            "content": version.content,
            "created": version.created,
            "source": {"url": None} | version.source,
            "skipped": list(version.skipped),
            "findings": list(version.findings),
        }


def info(store: str | os.PathLike[str], version: str | None = None) -> InfoReport:
    """Describe a version, the latest without a name.

    Raises
    ------
    StoreError
        When there is no store, or its root document is damaged.
    UsageError
        When there is no such version.
    """
    snapshot = open_snapshot(store, version)
    return InfoReport(snapshot.objects.url, snapshot.version, tuple(v.version for v in snapshot.root.versions))


def versions(store: str | os.PathLike[str]) -> tuple[Version, ...]:
    """Return all versions of a store, oldest first."""
    return open_snapshot(store).root.versions
