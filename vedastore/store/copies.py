"""Copies of root documents, one a write: what a root is restored from that is lost or damaged.

A copy is written before the root is swapped, when all that it names is there, and removed when its root has been
replaced. So there is one of the root, and perhaps of writers that died before they could remove theirs.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from vedastore.errors import ConflictError, StoreError, UnknownOutcomeError, UsageError
from vedastore.spec import keys
from vedastore.spec.root import LIMIT_BYTES, digest_version, is_later, parse_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vedastore.io.objects import Objects
    from vedastore.spec.root import Bucket, Root

HINT: Final = "vedastore verify --repair may restore it from a copy"
_WRITE_ID: Final = re.compile(rb'"write_id": ?"([0-9a-f]{32})"')
_NAMED: Final = 5
"""Copies that a message names."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What a copy says: its write, its last version and when that was made, and the states up to each version."""

    write_id: str
    version: str
    created: str
    states: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{self.write_id} (version {self.version} of {self.created})"


def restore_root(objects: Objects, write_id: str | None = None) -> Copy | None:
    """Restore the root document from a copy, and return what it says; None where the root is sound.

    Parameters
    ----------
    objects : Objects
    write_id : str, optional
        Of the copy to take. Without it there has to be one that can only be the last: the others were made into it.

    Raises
    ------
    StoreError
        When there is no store, no copy that is whole, or no telling which one is the last; or when the root is of a
        later format.
    UsageError
        When there is no copy of that write, or the root is sound.
    ConflictError
        When another writer was first.
    """
    found = objects.read_tagged(keys.ROOT, LIMIT_BYTES)
    wrong = StoreError("there is no store", where=objects.url, hint="vedastore convert makes one from a release")
    if found is not None:
        try:
            root = parse_root(found[0], f"{objects.url}/{keys.ROOT}")
        except StoreError as error:
            if is_later(found[0]):
                raise
            wrong = error
        else:
            if write_id not in {None, root.write_id}:
                raise UsageError("the root document is sound", where=objects.url, hint="--root is for one that is not")
            return None
    elif write_id is None and objects.size(keys.INCOMPLETE) is not None:
        hint = "convert the release again; or name the write with --root, if you know that it had finished"
        raise StoreError("a conversion into it has not finished", where=objects.url, hint=hint)
    copies, faults = _look(objects)
    if not copies and not faults:
        raise wrong
    if not copies:
        message = f"{wrong.message}; there is no copy of its root that is whole"
        raise StoreError("; ".join([message, *faults[:_NAMED]]), where=objects.url)
    chosen = _choose(copies, write_id, b"" if found is None else found[0], objects.url)
    document, _ = _read(objects, keys.root_copy(chosen.write_id))
    try:
        objects.swap(keys.ROOT, document, None if found is None else found[1])
    except (ConflictError, UnknownOutcomeError):  # a request that is repeated may meet what it did itself
        landed = objects.read_tagged(keys.ROOT, LIMIT_BYTES)
        if landed is None or landed[0] != document:
            raise
    return chosen


def may_restore(objects: Objects) -> bool:
    """Tell whether a root document that cannot be read may be restored; one of a later format is not damaged."""
    try:
        found = objects.read_tagged(keys.ROOT, LIMIT_BYTES)
        return not (found and is_later(found[0])) and next(_iter_keys(objects), None) is not None
    except StoreError:  # credentials that may not list
        return False


def _choose(copies: list[Copy], write_id: str | None, damaged: bytes, where: str) -> Copy:
    """Return the copy to restore: the one that is named, or that of the damaged root, or else the only last one."""
    told = _WRITE_ID.search(damaged)
    wanted = write_id or (told and told[1].decode())
    earlier = {state for copy in copies for state in copy.states[:-1]}
    last = [copy for copy in copies if copy.states[-1] not in earlier]
    chosen = [copy for copy in copies if copy.write_id == wanted] or ([] if wanted else last)
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(map(str, sorted(last, key=lambda copy: copy.created)[-_NAMED:]))
    hint = f"choose with --root: {names}"
    if write_id is not None:
        raise UsageError(f"there is no copy that is whole of a write {write_id!r}", where=where, hint=hint)
    message = f"there is no copy of write {wanted}, which made it" if wanted else f"{len(last)} copies may be the last"
    raise StoreError(f"the root document is {'damaged' if damaged else 'lost'}, and {message}", where=where, hint=hint)


def _look(objects: Objects) -> tuple[list[Copy], list[str]]:
    """Return the copies of which everything is there, and what is wrong with others."""
    copies, faults = [], []
    for key in _iter_keys(objects):
        try:
            _, root = _read(objects, key)
            _check_whole(objects, root)
        except StoreError as error:
            faults.append(f"{key}: {error.message}")
            continue
        digests = (digest_version(version).encode() for version in root.versions)
        states = accumulate(digests, lambda state, digest: hashlib.sha256(state + digest).digest(), initial=b"")
        last = root.versions[-1]
        copies.append(Copy(root.write_id, last.version, last.created, tuple(states)[1:]))
    return copies, faults


def _iter_keys(objects: Objects) -> Iterator[str]:
    return (key for key, *_ in objects.entries(keys.INDEX) if keys.parse_root_copy(key))


def _read(objects: Objects, key: str) -> tuple[bytes, Root]:
    """Return a copy's bytes, and what they say; it is checked as any root is."""
    found, where = objects.read_tagged(key, LIMIT_BYTES), f"{objects.url}/{key}"
    if found is None:
        raise StoreError("the copy is absent", where=where)
    root = parse_root(found[0], where)
    if root.write_id != keys.parse_root_copy(key):
        raise StoreError("the copy is that of another write", where=where)
    return found[0], root


def _check_whole(objects: Objects, root: Root) -> None:
    """Check that every object that a root names is there, with its size."""
    for file in {file for version in root.versions for file in version.files}:
        if objects.size(file.key) != file.bytes:
            raise StoreError("it names what is not there", where=file.key)
    for name, bucket in root.buckets().items():
        if _count_bytes(objects, name, bucket) != bucket.bytes:
            raise StoreError("it names shards that are not there", where=name)


def _count_bytes(objects: Objects, name: str, bucket: Bucket) -> int | None:
    """Return the bytes of a bucket's shards; None where one is absent."""
    total = 0
    for number in range(bucket.shards):
        size = objects.size(keys.shard(name, number))
        if size is None:
            return None
        total += size
    return total
