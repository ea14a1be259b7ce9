"""The only compare-and-swap: how a new root document becomes the store.

Everything that the new root names is written first, under keys that no version names, and is durable; at last a copy of
the new root, from which `copies` restores one that is lost. Then one object is swapped. A refused swap may be our own
that landed after a hidden retry, so the root is read back before deciding. Once it has landed, the copy of the root
that it replaced is removed.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from vedastore.errors import ClusterError, ConflictError, StoreError, UnknownOutcomeError
from vedastore.spec import keys
from vedastore.spec.root import LIMIT_BYTES, Root, Version, check_size, dump_root, parse_root
from vedastore.store.journal import LIMIT_BYTES as JOURNAL_BYTES
from vedastore.store.journal import Journal, dump_marker, parse_marker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from vedastore.io.objects import Objects
    from vedastore.spec.arrays import ChipSpec
    from vedastore.store.shards import ShardDraft


_KEPT_BYTES: Final = 8 * 2**20
_parse_again = lru_cache(maxsize=1)(parse_root)  # a writer reads the root several times, most often the same one


def read_root(objects: Objects) -> tuple[Root, str] | None:
    """Return a store's root document and its tag; None where there is none."""
    tagged = objects.read_tagged(keys.ROOT, LIMIT_BYTES)
    if tagged is None:
        return None
    parse = _parse_again if len(tagged[0]) <= _KEPT_BYTES else parse_root
    return parse(tagged[0], f"{objects.url}/{keys.ROOT}"), tagged[1]


class Write:
    """One write to a store, from its first object to the commit.

    A context manager: leaving it without a commit removes every object that was written. ``overwrite`` replaces the
    versions of an existing store, and ``onto`` adds to those of a root that has been read; without either, an existing
    store is a conflict. ``fingerprint`` tells what a first conversion converts, and how: one of the same that was
    interrupted goes on. Its writes are ``earlier`` then; where the place is exclusive, this is the last of them again.
    """

    def __init__(
        self, objects: Objects, *, overwrite: bool = False, onto: Root | None = None, fingerprint: str = ""
    ) -> None:
        self.objects = objects
        self.write_id = uuid.uuid4().hex
        self.earlier: tuple[str, ...] = ()
        self.journalled = 0
        self._overwrite, self._onto, self._fingerprint = overwrite, onto, fingerprint
        self._base: tuple[Root, str] | None = None
        self._written: list[str] = []
        self._swapping = self._landed = False
        self._claim = ExitStack()

    def __enter__(self) -> Self:
        self._base = read_root(self.objects)
        if self._onto is not None:
            if self._base is None or self._base[0].write_id != self._onto.write_id:
                hint = "open it again, and see what is there now"
                raise ConflictError("the store has changed since it was opened", where=self.objects.url, hint=hint)
        elif self._base is not None and not self._overwrite:
            hint = "use mode='overwrite' or --overwrite to replace it"
            raise ConflictError("there is a store already", where=self.objects.url, hint=hint)
        self.objects.check_swaps()
        if self._base is None:
            self._claim.enter_context(self.objects.claim(keys.INCOMPLETE, (keys.CHIPS, keys.INDEX), self._renew))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Keep what landed or may have landed, whatever went wrong afterwards; remove everything else."""
        if isinstance(error, ClusterError) and (self.journalled or self.earlier):  # another one of the same can go on
            kind, error = UnknownOutcomeError, UnknownOutcomeError(error.message)
        elif self._swapping and not self._landed and not isinstance(error, UnknownOutcomeError):
            try:
                self._landed = self._is_ours()
            except UnknownOutcomeError as nobody_knows:
                kind, error = UnknownOutcomeError, nobody_knows
        unknown = isinstance(error, UnknownOutcomeError)
        kept = self._landed or unknown
        if self._landed:
            self._remove_copy()
        if kept and not unknown:  # where nobody knows, the claim leaves its place as it is
            kind = error = traceback = None
        elif not kept:
            for key in self._written:
                with suppress(StoreError):  # it belongs to no version; the error that counts is another
                    self.objects.delete(key)
        if self._landed:
            with suppress(StoreError):  # they are in nobody's way
                for number in range(self.journalled):
                    self.objects.delete(keys.journal(self.write_id, number))
        with suppress(StoreError) if kept else nullcontext():  # a marker that stays hides no commit, and no other error
            self._claim.__exit__(kind, error, traceback)

    def _renew(self, marker: bytes) -> tuple[bytes, bool]:
        """Return what the marker of the place is to be, and whether what stands beside it is of use."""
        self.earlier = parse_marker(marker, self._fingerprint) if self._fingerprint else ()
        if self.earlier and self.objects.exclusive:
            self.write_id = self.earlier[0]
            return marker, True
        return dump_marker(self._fingerprint, (self.write_id, *self.earlier)), bool(self.earlier)

    def name_bucket(self, spec: ChipSpec) -> str:
        """Return the name of the bucket that this write makes for chips of a shape."""
        alone = self._base is None and self.objects.exclusive
        return keys.bucket(spec.dtype, *spec.shape, write_id="" if alone else self.write_id)

    def name_gathered(self, spec: ChipSpec) -> str:
        """Return the name of the bucket that this write makes for chips of a shape which others have written."""
        return keys.bucket(spec.dtype, *spec.shape, write_id=keys.second_half(self.write_id))

    @property
    def first(self) -> bool:
        """Whether there is no store at the place yet."""
        return self._base is None

    @contextmanager
    def open_journal(self) -> Iterator[Journal]:
        """Give what interrupted writes have noted down."""
        with Journal(self.objects, self.earlier) as journal:
            self.journalled = journal.documents if self.write_id in self.earlier else 0
            yield journal

    @property
    def witness(self) -> tuple[str, str]:
        """Key of an object that is there while this write is under way, and the id of a write that it has to name.

        Who does not see it sees another place, or works for a writer that is dead. No id is needed where all keys have
        that of this write.
        """
        return (keys.INCOMPLETE, self.write_id if self.objects.exclusive else "") if self.first else (keys.ROOT, "")

    def note(self, key: str) -> None:
        """Note that an object is being written, by whomever: what is of this write is removed if it fails."""
        if keys.is_of_write(key, self.write_id):
            self._written.append(key)

    def log(self, document: bytes) -> None:
        """Note down what a shard holds, so that a first conversion goes on after it."""
        if len(document) <= JOURNAL_BYTES:
            self.put(keys.journal(self.write_id, self.journalled), [document])
            self.journalled += 1

    def keeps(self, key: str, draft: ShardDraft) -> int | None:
        """Return the bytes of a shard that has been written as it is to be, or is copied from one; None if it is not.

        Its chunks have been proved one by one; what remains is that nothing else is in it, and the index behind them.
        """
        origin, index = draft.origin, draft.index()
        if origin is None:
            return None
        size = draft.chunks_bytes + len(index)
        try:
            if self.objects.size(origin) != size or self.objects.read(origin, draft.chunks_bytes) != index:
                return None
            self.note(key)
            if origin == key:
                self.objects.sync(key)  # who wrote it may not have come so far
            else:
                self.objects.copy(origin, key)
        except StoreError:  # its writer may be at work still, and remove it
            return None
        return size

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write one object, durable on return; give its bytes. May be called from any thread."""
        self.note(key)
        return self.objects.write(key, parts)

    def commit(self, version: Version) -> Root:
        """Publish the version as the store's only one, or behind those that it is added to; return the root document.

        Raises
        ------
        ConflictError
            Another writer was first.
        UnknownOutcomeError
            The swap failed on the way, and the root may be ours.
        """
        root = Root(self.write_id, (*(self._onto.versions if self._onto else ()), version))
        document = dump_root(root)
        try:
            check_size(document, self.objects.url)
        except StoreError as error:
            message = f"the root document would be too large for any reader, {len(document)} bytes"
            hint = "have fewer shapes of images, or fewer versions: convert the release to a new store"
            raise StoreError(message, where=self.objects.url, hint=hint) from error
        self.put(keys.root_copy(self.write_id), [document])
        self._swapping = True
        try:
            self.objects.swap(keys.ROOT, document, self._base[1] if self._base else None)
        except (ConflictError, UnknownOutcomeError):
            if not self._is_ours():
                raise
        except StoreError as error:
            if self._is_ours():
                hint = "verify the store before using it"
                raise UnknownOutcomeError(
                    f"the commit may not be durable: {error.message}", where=error.where, hint=hint
                ) from error
            raise
        self._landed = True
        return root

    def _remove_copy(self) -> None:
        """Remove the copy of the root that was replaced: there is one of ours."""
        if self._base is not None:
            with suppress(StoreError):  # one more does no harm
                self.objects.delete(keys.root_copy(self._base[0].write_id))

    def _is_ours(self) -> bool:
        try:
            current = read_root(self.objects)
        except StoreError as error:
            message = f"the commit failed, and the root cannot be read back: {error.message}"
            raise UnknownOutcomeError(message, where=error.where) from error
        if current is None:
            return False
        built = any(keys.is_of_write(file.key, self.write_id) for v in current[0].versions for file in v.files)
        return built or current[0].write_id == self.write_id  # others may have built on ours meanwhile
