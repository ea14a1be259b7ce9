"""An extracted release under a prefix of S3: listed once, its objects read side by side and handed out in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from vedastore.errors import ArchiveError, StoreError
from vedastore.io.archive import check_listed, natural_key
from vedastore.io.member import Member
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from vedastore.io.s3 import S3, Entry
    from vedastore.model import Limits

_READS: Final = 16
"""Objects that are read side by side: most of the time that a small one takes, nothing happens."""
_BYTES: Final = 32 * 2**20
"""What those that are under way or have been read may hold; one that is larger is under way alone."""


def iter_prefix(s3: S3, where: str, limits: Limits = DEFAULT_LIMITS) -> Iterator[Member]:
    """Iterate over an extracted release on S3, with the names and in the order that `iter_directory` gives it.

    Every object is the one that was listed, or else the release is refused.

    Raises
    ------
    ArchiveError
        Nothing there, unreadable, changed meanwhile, above a limit, or with a member that no release may hold.
    """
    pending: deque[tuple[Future[Member], int]] = deque()
    held = 0
    with ThreadPoolExecutor(_READS, thread_name_prefix="vedastore-read") as threads:
        try:
            for ordinal, (name, entry) in enumerate(_plan(s3, where, limits)):
                while pending and (len(pending) == _READS or held + entry.size_bytes > _BYTES):
                    future, size = pending.popleft()
                    held -= size
                    yield future.result()
                pending.append((threads.submit(_read, s3, name, entry, ordinal, where), entry.size_bytes))
                held += entry.size_bytes
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()


def _plan(s3: S3, where: str, limits: Limits) -> list[tuple[str, Entry]]:
    """Return the names and entries of all members, in order."""
    try:
        entries: dict[str, Entry] = {}
        folders: set[str] = set()
        for entry in s3.list_entries():
            if entry.key:  # or else it stands for the prefix itself
                check_listed(entry.key, len(entries), entry.size_bytes, where, limits)
                entries[entry.key] = entry
                parts = entry.key.rstrip("/").split("/")[:-1]
                while parts and (above := "/".join(parts)) not in folders:
                    folders.add(above)
                    parts.pop()
    except StoreError as error:
        raise ArchiveError(error.message, where=s3.url, hint=error.hint) from error
    if not entries:
        hint = "name an archive, or the prefix of an extracted release"
        raise ArchiveError("there is no such object, and none under it", where=s3.url, hint=hint)
    if both := folders & entries.keys():
        raise ArchiveError("is the name of a file and of a directory", where=f"{where}: {min(both)}")
    top = f"{where}/" if {"images", "labels"} & folders or {"images/", "labels/"} & entries.keys() else ""
    told = [entry for key, entry in entries.items() if not (key.endswith("/") and key[:-1] in folders)]
    told.sort(key=lambda entry: [natural_key(part) for part in entry.key.rstrip("/").split("/")])
    return [(top + entry.key, entry) for entry in told]


def _read(s3: S3, name: str, entry: Entry, ordinal: int, where: str) -> Member:
    is_dir = name.endswith("/")
    try:
        data = s3.get(entry.key, 0, entry.size_bytes, entry.tag)[0] if entry.size_bytes else b""
    except StoreError as error:
        raise ArchiveError(error.message, where=f"{where}: {name}", hint=error.hint) from error
    return Member(name, data, ordinal, is_dir)
