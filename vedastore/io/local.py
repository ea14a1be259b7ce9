"""Objects of a store as files of a local directory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import sys
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vedastore.errors import GONE_HINT, ConflictError, StoreError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")
_MARKER_BYTES = 2**16
_HINT = "check the path, its permissions, and the space that is left"


class LocalObjects:
    """Objects as files of a local directory. POSIX: the lock is ``flock`` on the directory itself."""

    exclusive = True
    run_bytes = 2**20
    """What fits in a core's cache until it is decompressed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path.absolute(),)  # other processes may be elsewhere

    @property
    def url(self) -> str:
        """The directory's path."""
        return str(self.path)

    @property
    def options(self) -> Mapping[str, Any]:
        """None: a directory needs none."""
        return {}

    def check_swaps(self) -> None:
        """Do nothing: a lock makes swaps of files safe."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object, or a part of it."""
        with self._opened(key) as (descriptor, size):
            return self._read_part(descriptor, key, start, size - start if length is None else length)

    def read_parts(self, key: str, start: int, lengths: Sequence[int]) -> list[bytes]:
        """Return parts that lie one behind the other; each is read into bytes of its own, which saves a copy."""
        parts: list[bytes] = []
        with self._opened(key) as (descriptor, _):
            for length in lengths:
                parts.append(self._read_part(descriptor, key, start, length))
                start += length
        return parts

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int]]:
        """Give a descriptor of a regular file, and its bytes. Opening takes 4 us: too little to keep files open for."""
        with self._translated(key, GONE_HINT):
            # NONBLOCK: a FIFO would wait for ever. Put together as text: that takes a third of the time of a Path.
            descriptor = os.open(f"{self.path}/{key}", os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise StoreError("the object is no regular file", where=f"{self.url}/{key}")
                yield descriptor, status.st_size
            finally:
                os.close(descriptor)

    def _read_part(self, descriptor: int, key: str, start: int, length: int) -> bytes:
        data = os.pread(descriptor, length, start)
        while len(data) < length and (more := os.pread(descriptor, length - len(data), start + len(data))):
            data += more
        if len(data) != length:
            raise StoreError(f"the object ends at byte {start + len(data)}", where=f"{self.url}/{key}")
        return data

    def size(self, key: str) -> int | None:
        """Return an object's bytes."""
        with self._none_if_missing(), self._translated(key):
            return (self.path / key).stat().st_size
        return None

    def write(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write a whole object, a file and its directory, both synced; it has its name once it is whole.

        One that is there is replaced, never written over: versions share some, and an interrupted write spoils none. So
        is a link, which is not followed.
        """
        path = self.path / key
        draft = _draft_of(path)
        with self._translated(key):
            self._make_directory(path.parent)
            try:
                with draft.open("xb") as file:
                    size = sum(file.write(part) for part in parts)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, path)  # noqa: PTH105 - a link of that name is replaced, and not followed
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _sync_directory(path.parent)
        return size

    def read_tagged(self, key: str, most: int) -> tuple[bytes, str] | None:
        """Return an object with the SHA-256 of its bytes as tag. It is opened once: another one may take its place."""
        with self._none_if_missing(), self._opened(key) as (descriptor, size):
            if size > most:
                raise StoreError(f"the object is too large, {size} bytes", where=f"{self.url}/{key}")
            data = self._read_part(descriptor, key, 0, size)
            return data, hashlib.sha256(data).hexdigest()
        return None

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        """Replace an object atomically, under the directory's lock."""
        path = self.path / key
        with self._translated(key), self._locked():
            current = self.read_tagged(key, sys.maxsize)
            if (current[1] if current else None) != expected:
                raise ConflictError("another writer was first", where=f"{self.url}/{key}", hint="run it again")
            _replace(path, data)

    def replace(self, key: str, data: bytes) -> None:
        """Replace a file; a link is replaced and not followed, and no link leads out of the store."""
        path = self.path / key
        with self._translated(key):
            if path.parent.resolve() != self.path.resolve() / path.parent.relative_to(self.path):
                raise StoreError("a link leads out of the store", where=f"{self.url}/{key}")
            _replace(path, data)

    def delete(self, key: str) -> None:
        """Remove a file, and the directories that it leaves empty."""
        path = self.path / key
        with self._translated(key):
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.path:
                    break
                with suppress(FileNotFoundError):  # nothing of it was made
                    if any(parent.iterdir()):
                        break
                    parent.rmdir()

    def entries(self, folder: str = "") -> Iterator[tuple[str, int, float]]:
        """Yield all files below a folder, and links as they are."""
        with self._translated(""):
            for found, _, names in os.walk(self.path / folder):
                for path in (Path(found, name) for name in names):
                    with suppress(FileNotFoundError):  # it has gone meanwhile
                        status = path.lstat()
                        yield path.relative_to(self.path).as_posix(), status.st_size, status.st_mtime

    def sync(self, key: str) -> None:
        """Sync a file; `claim` has done so with directories."""
        with self._translated(key):
            descriptor = os.open(self.path / key, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def copy(self, source: str, key: str) -> None:
        """Make a file of another one."""
        self.write(key, [self.read(source)])

    @contextmanager
    def claim(self, marker: str, ours: Collection[str], renew: Callable[[bytes], tuple[bytes, bool]]) -> Iterator[None]:
        """Own a place that has no store yet, until the block ends; clear what an interrupted owner left, or keep it.

        The marker file stands in the directory meanwhile, locked by its owner. ``ours`` are the top-level names that
        may be cleared beside a marker. An error leaves the directory as it was; an unknown outcome leaves it untouched.
        """
        made = self._missing(self.path)
        try:
            descriptor = self._open_marker(marker, ours)
            try:
                with self._translated(""):
                    self._lock(descriptor, wait=False)
                    self._check_claim(descriptor, marker, ours)
                try:
                    with self._translated(""):
                        told, keeps = renew(os.pread(descriptor, _MARKER_BYTES, 0))
                        self._clear([*self._drafts(), *(self._drafts_below(ours) if keeps else ours)])
                        for folder, _, _ in os.walk(self.path):  # whoever made them may not have come so far
                            _sync_directory(Path(folder))
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, told, 0)
                        os.fsync(descriptor)
                    yield
                except UnknownOutcomeError:
                    raise
                except BaseException:
                    with suppress(OSError):  # the next owner clears what remains; the error that counts is another
                        self._clear([*ours, *self._drafts(), marker])
                    raise
                with self._translated(""):
                    self._clear([marker])
            finally:
                os.close(descriptor)
        except BaseException:
            with suppress(OSError):  # where anything is in them, they stay
                for path in made:
                    path.rmdir()
            raise

    def _open_marker(self, marker: str, ours: Collection[str]) -> int:
        with self._translated(""):
            if self.path.exists() and not self.path.is_dir():
                raise ConflictError("there is a file of that name", where=self.url, hint="choose another target")
            self._make_directory(self.path)
            _sync_directory(self.path.parent)  # a killed writer may have made it, and not come so far
            if self._foreign(marker, ours) or (any(self.path.iterdir()) and not (self.path / marker).exists()):
                raise ConflictError("the directory holds other files", where=self.url, hint="choose another target")
            return os.open(self.path / marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _drafts(self) -> set[str]:
        """Names of root documents whose swap was cut short."""
        return {entry.name for entry in self.path.iterdir() if _DRAFT.fullmatch(entry.name)}

    def _drafts_below(self, names: Collection[str]) -> Iterator[str]:
        """Yield the files of some directories that were being written."""
        for name in names:
            for folder, _, files in os.walk(self.path / name):
                yield from (f"{folder}/{file}" for file in files if _DRAFT.fullmatch(file))

    def _foreign(self, marker: str, ours: Collection[str]) -> set[str]:
        return {entry.name for entry in self.path.iterdir()} - {marker, *ours, *self._drafts()}

    def _check_claim(self, descriptor: int, marker: str, ours: Collection[str]) -> None:
        """Check that nobody has finished here between our look at the directory and our lock."""
        try:
            held = os.path.samestat(os.fstat(descriptor), (self.path / marker).stat())
        except FileNotFoundError:
            held = False
        if not held or self._foreign(marker, ours):
            if held:
                self._clear([marker])
            raise ConflictError("another writer was first", where=self.url, hint="choose another target")

    def _lock(self, descriptor: int, *, wait: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConflictError("another writer is at work here", where=self.url, hint="wait for it to end") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    def _clear(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _make_directory(self, path: Path) -> None:
        """Make a directory and its parents, durable."""
        missing = self._missing(path)
        path.mkdir(parents=True, exist_ok=True)
        for made in missing:
            _sync_directory(made.parent)

    def _missing(self, path: Path) -> tuple[Path, ...]:
        """Return what there is not of a directory and its parents, the deepest first."""
        with self._translated(""):
            return tuple(p for p in (path, *path.parents) if not p.exists())

    @contextmanager
    def _none_if_missing(self) -> Iterator[None]:
        """Leave the block where there is no such object."""
        try:
            yield
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise

    @contextmanager
    def _translated(self, key: str, gone_hint: str = _HINT) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.url}/{key}" if key else self.url
            hint = gone_hint if isinstance(error, FileNotFoundError) else _HINT
            raise StoreError(error.strerror or str(error), where=where, hint=hint) from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file by renaming a draft: it has the old bytes or the new ones, and the new ones on return."""
    draft = _draft_of(path)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _draft_of(path: Path) -> Path:
    """Return where a file is written that will take another one's place."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
