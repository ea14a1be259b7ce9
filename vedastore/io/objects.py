"""Objects of a store by key: whole, in part, and compare-and-swap; in a local directory or on S3.

``Objects`` is the interface that the floors above use. Every key comes from ``spec.keys``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from vedastore.io.local import LocalObjects
from vedastore.spec.places import parse_place

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager


class Objects(Protocol):
    """What a store needs of its place."""

    @property
    def exclusive(self) -> bool:
        """Whether `claim` keeps other writers out; where it does not, two may write, and the first swap wins."""

    @property
    def run_bytes(self) -> int:
        """How many bytes are best read at once of an object of which more will be read."""

    @property
    def url(self) -> str:
        """The place, as the user would write it."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The storage options that the place was opened with. They may be secret."""

    def check_swaps(self) -> None:
        """Find out whether `swap` can be trusted here. StoreError where it cannot."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object, or ``length`` bytes of it from ``start``. StoreError where it is absent or shorter."""

    def read_parts(self, key: str, start: int, lengths: Sequence[int]) -> list[bytes]:
        """Return parts of an object that lie one behind the other from ``start``, as one read."""

    def size(self, key: str) -> int | None:
        """Return an object's bytes; None where it is absent."""

    def write(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write a whole object, durable on return; give its bytes."""

    def read_tagged(self, key: str, most: int) -> tuple[bytes, str] | None:
        """Return an object with its entity tag; None where it is absent. StoreError above ``most`` bytes."""

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        """Write an object if it still has the expected tag (None: if it is absent). ConflictError otherwise.

        UnknownOutcomeError where nobody can tell whether it was written.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Write an object that can be made again; durable, and readers see the old one or the new one, whole."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where it is absent."""

    def entries(self, folder: str = "") -> Iterator[tuple[str, int, float]]:
        """Yield every object below a folder: key, bytes, and when it was written, seconds since 1970."""

    def sync(self, key: str) -> None:
        """Make an object durable that another writer may have left; `write` has done so for one's own."""

    def copy(self, source: str, key: str) -> None:
        """Make an object of another one, as it is now."""

    def claim(
        self, marker: str, ours: Collection[str], renew: Callable[[bytes], tuple[bytes, bool]]
    ) -> AbstractContextManager[None]:
        """Own a place that has no store yet, until the block ends: ConflictError where anything but ``ours`` is.

        ``renew`` is given what an interrupted owner's marker says, empty without one; it returns what the marker is to
        say, and whether that owner's objects stay.
        """


def open_objects(location: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Objects:
    """Return the objects of a place: a local directory, or ``s3://bucket/prefix``.

    Raises
    ------
    UsageError
        For another URL, and for options of a local directory.
    """
    place = parse_place(location, storage_options)
    if place.bucket is None:
        return LocalObjects(place.path)
    from vedastore.io.remote import S3Objects
    from vedastore.io.s3 import S3

    return S3Objects(S3(place.bucket, place.path, place.options))
