"""A release held against what a version exports, member by member, in any order and in bounded memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from vedastore.errors import ReleaseError
from vedastore.exchange.release import ReleaseReader, pixel_digest
from vedastore.io import tiff
from vedastore.model import Finding
from vedastore.ops.rebuild import rebuild
from vedastore.spec import release as rules
from vedastore.store.scratch import open_scratch

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from vedastore.io.member import Member
    from vedastore.model import Limits
    from vedastore.store.snapshot import Snapshot

_SCHEMA: Final = """
CREATE TABLE exported (path TEXT, digest BLOB, position INTEGER, ordinal INTEGER, seen INTEGER DEFAULT 0);
CREATE TABLE others (name TEXT, digest BLOB);
CREATE INDEX by_path ON exported (path);
"""


class Comparison:
    """Takes first every member that an export has, then a release; tells how they differ.

    Paths are compared without the top folder, so that a release may be packed differently.
    """

    def __init__(self, snapshot: Snapshot, limits: Limits) -> None:
        self._snapshot, self._top, self._limits = snapshot, snapshot.top, limits
        self._skipped = {
            rules.comparable(member, self._top): entry.get("reason")
            for entry in snapshot.version.skipped
            if isinstance(entry.get("members"), list)
            for member in entry["members"]
        }
        self._stack = ExitStack()
        self._db = self._stack.enter_context(open_scratch(_SCHEMA))
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def add(self, member: str, digest: bytes, ordinal: int, position: int | None = None) -> None:
        """Note a member of the export, in any order: the SHA-256 of its bytes, its place; of an image the position."""
        path = rules.comparable(member, self._top)
        self._db.execute("INSERT INTO exported VALUES (?, ?, ?, ?, 0)", (path, digest, position, ordinal))

    def compare(
        self, release: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
    ) -> Iterator[Finding]:
        """Yield every difference; ``counts`` has the members that are ``identical`` and ``equivalent``."""
        reader, top = ReleaseReader(release, limits=self._limits, storage_options=storage_options), ""
        for member in reader.iter_members():
            role = rules.classify(member.name, is_dir=member.is_dir)
            digest = hashlib.sha256(member.data).digest()
            if role.kind in {"image", "label"}:
                top = role.top
                place = f"{reader.where}: {member.name}"
                yield from self._look_up(role.path, digest, place, member)
            elif role.kind != "directory":  # what it is can be told once the top folder is known
                self._db.execute("INSERT INTO others VALUES (?, ?)", (member.name, digest))
        for name, digest in self._db.execute("SELECT name, digest FROM others ORDER BY rowid"):
            yield from self._look_up(rules.comparable(name, top), digest, f"{reader.where}: {name}", None)
        for (path,) in self._db.execute("SELECT path FROM exported WHERE NOT seen ORDER BY ordinal"):
            yield Finding("extra", "the release does not have this member", path)

    def _look_up(self, path: str, digest: bytes, where: str, member: Member | None) -> Iterator[Finding]:
        query = "SELECT rowid, digest, position FROM exported WHERE path = ? AND NOT seen"
        found = self._db.execute(f"{query} ORDER BY digest != ?, ordinal LIMIT 1", (path, digest)).fetchone()
        if found is None:
            reason = self._skipped.get(path)
            left = "the store does not have this member" if reason is None else f"the conversion left it out: {reason}"
            yield Finding("missing", left, where)
            return
        row, exported, position = found
        self._db.execute("UPDATE exported SET seen = 1 WHERE rowid = ?", (row,))
        if exported == digest:
            self.counts["identical"] += 1
            return
        differences = ["the bytes differ"]
        if member is not None and position is not None:
            differences = _image_differences(self._snapshot, position, member, self._limits)
        if differences:
            yield Finding("different", "; ".join(differences), where)
        else:
            self.counts["equivalent"] += 1


def _image_differences(snapshot: Snapshot, position: int, member: Member, limits: Limits) -> list[str]:
    """Tell how an image of a release differs from the one that an export writes."""
    (image,) = snapshot.read_images([position])
    try:
        if image.fidelity == "decoded":
            same = pixel_digest(tiff.decode(member.data, limits).pixels) == image.pixel_digest
            return [] if same else ["the decoded pixels differ"]
        (rebuilt,) = rebuild(snapshot, [image])
        return [rebuilt.problem.message] if rebuilt.problem else tiff.differences(member.data, rebuilt.data, limits)
    except ReleaseError as error:
        return [error.message]
