"""Hashes of what a release holds, the same however it was packed. Source: ``docs/format.md``."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from vedastore.spec.release import comparable

if TYPE_CHECKING:
    from collections.abc import Iterable


def hash_content(
    samples: Iterable[tuple[str, bytes, bytes]], members: Iterable[tuple[str, str, bytes]], top: str
) -> dict[str, str]:
    """Return hashes of a release's samples, of its other members, and of both.

    The order of members, the top folder and the container do not count.

    Parameters
    ----------
    samples : iterable of (id, SHA-256 of the image file, SHA-256 of the label file)
        By id.
    members : iterable of (name, kind, bytes)
        All other members.
    top : str
        The release's top folder.
    """
    records = (_record(name.encode(), image, label) for name, image, label in samples)
    others = sorted(
        _record(comparable(name, top).encode(), hashlib.sha256(data).digest())
        for name, kind, data in members
        if kind != "directory"
    )
    parts = {"samples": _digest(records), "members": _digest(others)}
    return {**parts, "all": _digest(p.encode() for p in parts.values())}


def _record(*fields: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(f)) + f for f in fields)


def _digest(records: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(record)
    return digest.hexdigest()
