"""Objects of a store on S3."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import GONE_HINT, ConflictError, StoreError, UnknownOutcomeError
from vedastore.io.s3 import PROBE, Answer
from vedastore.io.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from vedastore.io.s3 import S3

_TURNS: Final = 5
"""How often a swap is tried again that met another one under way."""
_MARKER_BYTES: Final = 2**16
_PAUSE_SECONDS: Final = 0.2
_UNKNOWN: Final = "the commit may have landed or not: {}"


class S3Objects:
    """Objects under a prefix of a bucket. Swaps are writes with a condition; nothing keeps other writers out."""

    exclusive = False
    run_bytes = 8 * 2**20
    """A request takes the time of some megabytes."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3

    @property
    def url(self) -> str:
        """The prefix's address."""
        return self._s3.url

    @property
    def options(self) -> Mapping[str, Any]:
        """What s3fs is given."""
        return self._s3.options

    def check_swaps(self) -> None:
        """Find out whether the service refuses writes whose condition does not hold."""
        self._s3.check_swaps()

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object, or a part of it."""
        try:
            return b"" if length == 0 else self._s3.get(key, start, length)[0]
        except StoreError as error:
            if isinstance(error.__cause__, Answer) and error.__cause__.absent:
                raise StoreError(error.message, where=error.where, hint=GONE_HINT) from error.__cause__
            raise

    def read_parts(self, key: str, start: int, lengths: Sequence[int]) -> list[bytes]:
        """Return parts that lie one behind the other, by one request."""
        data, parts, at = self.read(key, start, sum(lengths)), [], 0
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        return parts

    def size(self, key: str) -> int | None:
        """Return an object's bytes."""
        found = self._s3.head(key)
        return None if found is None else int(found["ContentLength"])

    def write(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write a whole object; S3 keeps what it has acknowledged."""
        with Upload(self._s3, key) as upload:
            for part in parts:
                upload.write(part)
            return upload.complete()

    def read_tagged(self, key: str, most: int) -> tuple[bytes, str] | None:
        """Return an object with the entity tag that S3 gives it."""
        found = self._s3.find(key, most + 1)
        if found is not None and len(found[0]) > most:
            raise StoreError(f"the object is too large, more than {most} bytes", where=self._s3.where(key))
        return found

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        """Replace an object if its tag is still the expected one."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        where, hint = self._s3.where(key), "open the store, and see which version is its last"
        for turn in range(_TURNS):
            try:
                self._s3.put(key, data, **condition)
            except Answer as answer:
                if answer.refused or answer.absent:
                    raise ConflictError("another writer was first", where=where, hint="run it again") from answer
                if answer.certain and not answer.busy:
                    raise self._s3.error(key, answer) from answer
                if not answer.busy:
                    raise UnknownOutcomeError(_UNKNOWN.format(answer), where=where, hint=hint) from answer
                time.sleep(_PAUSE_SECONDS * 2**turn)
            else:
                return
        # What is under way all the time may be our own: a request whose answer did not come in time was repeated.
        raise UnknownOutcomeError(_UNKNOWN.format("another write is under way"), where=where, hint=hint)

    def replace(self, key: str, data: bytes) -> None:
        """Write an object that can be made again."""
        self._s3.put(key, data)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._s3.delete(key)

    def entries(self, folder: str = "") -> Iterator[tuple[str, int, float]]:
        """Yield all objects below a folder of the prefix."""
        for entry in self._s3.list_entries(below=f"{folder}/" if folder else ""):
            yield entry.key, entry.size_bytes, entry.modified

    def sync(self, key: str) -> None:
        """Do nothing: what is there is durable."""

    def copy(self, source: str, key: str) -> None:
        """Have S3 make an object of another one."""
        self._s3.copy(source, key)

    @contextmanager
    def claim(self, marker: str, ours: Collection[str], renew: Callable[[bytes], tuple[bytes, bool]]) -> Iterator[None]:
        """Mark a place that has no store yet as one that is being written. Others may do the same."""
        for name in (entry.key for entry in self._s3.list_entries(delimiter="/")):
            # An empty name: consoles make an object of it for an empty folder. Others may be at their probe just now.
            if name.rstrip("/") not in ("", marker, *ours) and not name.startswith(PROBE):
                raise ConflictError("the prefix holds other objects", where=self.url, hint="choose another target")
        earlier = self._s3.find(marker, _MARKER_BYTES)
        self._s3.put(marker, renew(earlier[0] if earlier else b"")[0])
        try:
            yield
        except UnknownOutcomeError:
            raise
        except BaseException:
            with suppress(StoreError):  # the error that counts is another
                self._s3.delete(marker)
            raise
        self._s3.delete(marker)
