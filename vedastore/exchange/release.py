"""Veda releases, both directions: members of an archive or directory as halves of pairs, and back into an archive."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from vedastore.errors import ArchiveError, ImageError, StoreError
from vedastore.io import archive, tiff
from vedastore.io.deflate import DEFAULT_LEVEL, ParallelGzipWriter, SectionDeflater
from vedastore.io.feed import Feed
from vedastore.io.file_digest import FileDigest, HashedFile
from vedastore.io.geojson import parse_json
from vedastore.io.gzip import GzipReader
from vedastore.io.inflate import InflatedFile, is_worth
from vedastore.io.member import Member, Unread
from vedastore.io.plain import PlainFile
from vedastore.io.prefix import iter_prefix
from vedastore.io.s3 import S3
from vedastore.io.tar import TarWriter
from vedastore.model import DEFAULT_LIMITS, ImageHalf, LabelHalf
from vedastore.spec.arrays import ChipSpec
from vedastore.spec.labels import parse_label
from vedastore.spec.places import parse_place

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from concurrent.futures import Executor

    from vedastore.io.file_digest import Kind
    from vedastore.model import LabelOptions, Limits, Look
    from vedastore.spec.release import MemberRole

_HEAD_BYTES = 512
_CORNER, _FIRST = 8, 256
EXPORT_MTIME = 315_532_800
"""1980-01-01, the date of every exported member: releases do not depend on when they were written."""

_OTHERS = {
    b"PK": "a zip archive", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"7z\xbc\xaf": "a 7-Zip archive",
    b"(\xb5/\xfd": "a Zstandard file", b"Rar!": "a RAR archive", b"<": "a page of HTML or XML",
}  # fmt: skip
"""How files begin that are sometimes taken for a release."""


class ReleaseReader:
    """One pass over a release: an archive (``.tar.gz``, ``.tgz``, ``.tar``) or an extracted directory.

    After the pass ``size_bytes`` is that of the archive; None for a directory. ``container`` is ``"gzip"``, ``"tar"``
    or ``"directory"``, which on S3 is all that is under a prefix. What is on S3 is read as it comes, and never copied
    to a disk. ``alone``: no process is started beside this one to decompress a large archive. ``hashed``: `sha256` will
    be asked for.

    A context manager: files that `iter_files` leaves unread can be read until the end of the block.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        progress: Callable[[int, int | None], None] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        storage_options: Mapping[str, Any] | None = None,
        *,
        alone: bool = False,
        hashed: bool = False,
    ) -> None:
        self.place = parse_place(source, storage_options)
        self.url = str(self.place)
        self.where = self.place.name
        self.container = "directory"
        self.size_bytes: int | None = None
        self._limits, self._alone, self._hashed = limits, alone, hashed
        self._report = progress or (lambda _done, _total: None)
        self._open = ExitStack()
        self._digest: FileDigest | None = None
        self._sha256: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._digest = None

    def sha256(self) -> str | None:
        """Return the SHA-256 of the archive that has been read; None of a directory, and of what was not to be hashed.

        To be called before the end of the block, once all files that were left unread have been read: the archive is
        checked to be what was read.

        Raises
        ------
        ArchiveError
            When it has changed meanwhile.
        """
        if self._digest is not None:
            if self._hashed:
                self._sha256 = self._digest.hexdigest()
            else:
                self._digest.check()
        return self._sha256

    def _open_digest(self, file: IO[bytes], *, compared: bool) -> FileDigest:
        self._digest = self._open.enter_context(FileDigest(file, self.where, compared=compared))
        return self._digest

    def identity(self) -> tuple[str, ...]:
        """Tell which release this is, before it is read: where it is, and of an archive what changes when it does."""
        if self.place.bucket is not None:
            s3 = S3(self.place.bucket, self.place.path, self.place.options)
            with self._refusing():
                told = s3.head("") or {}
            return self.url, str(told.get("ContentLength")), str(told.get("ETag"))
        path = Path(self.place.path).absolute()
        if not path.is_file():
            return (str(path),)
        status = path.stat()
        return str(path), str(status.st_size), str(status.st_mtime_ns)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Make a refusal of the source of what goes wrong on S3."""
        try:
            yield
        except StoreError as error:
            raise ArchiveError(error.message, where=self.url, hint=error.hint) from error

    def iter_members(self) -> Generator[Member]:
        """Yield every member in order; at the end all checks of the container have been made.

        Raises
        ------
        ArchiveError
            When it cannot be read, is damaged, is cut short, or holds what a release must not hold.
        """
        with self, closing(self.iter_files()) as found:
            for member in found:
                yield member.read(self.where) if isinstance(member, Unread) else member
            self.sha256()

    def iter_files(self) -> Generator[Member | Unread]:
        """Yield every member as `iter_members` does, but leave files on a local disk to be read by whoever has them.

        Raises
        ------
        ArchiveError
            When it cannot be read, is damaged, is cut short, or holds what a release must not hold.
        """
        if self.place.bucket is not None:
            yield from self._iter_remote(S3(self.place.bucket, self.place.path, self.place.options))
            return
        path = Path(self.place.path)
        try:
            if not path.is_dir() and path.exists() and not path.is_file():
                raise ArchiveError("this is neither a regular file nor a directory", where=self.url)
            if path.is_dir():
                yield from archive.iter_directory(path, self.where, self._limits)
                return
            file = self._open.enter_context(path.open("rb", buffering=0))
            head = file.read(_HEAD_BYTES)
            file.seek(0)
            yield from self._iter_archive(file, head, os.fstat(file.fileno()).st_size)
        except OSError as error:
            hint = "check the path and its permissions"
            raise ArchiveError(f"cannot be read: {error.strerror}", where=self.url, hint=hint) from error

    def _iter_remote(self, s3: S3) -> Iterator[Member | Unread]:
        with self._refusing():
            told = s3.head("")
            if told is None:
                yield from iter_prefix(s3, self.where, self._limits)
                return
            total, tag = int(told["ContentLength"]), told["ETag"]
            head = s3.get("", 0, min(total, _HEAD_BYTES), tag)[0] if total else b""
        feed = Feed(s3, "", total, tag)
        try:
            with feed as file:
                yield from self._iter_archive(file, head, total)
        except ArchiveError as error:
            if feed.failure is None:
                raise
            raise ArchiveError(feed.failure.message, where=self.url, hint=feed.failure.hint) from error

    def _iter_archive(self, file: IO[bytes], head: bytes, total: int) -> Iterator[Member | Unread]:
        self.size_bytes = total
        self.container = kind = archive.sniff(head)
        if kind == "unknown":
            hint = "a release is a .tar.gz, a .tar, or a directory"
            what = next((f", but {what}" for magic, what in _OTHERS.items() if head.startswith(magic)), "")
            message = f"this is neither a gzip nor a tar archive{what}" if head else "the file is empty"
            raise ArchiveError(message, where=self.where, hint=hint)

        def report(done: int) -> None:
            self._report(done, total)
            if self._hashed and self._digest is not None:
                self._digest.follow(done)

        is_local = self.place.bucket is None
        if kind == "gzip" and not self._alone and is_worth(total):
            digest = self._open_digest(file, compared=True) if is_local and self._hashed else None
            made: Kind | None = ("sha256" if digest is None else "xxh3") if self._hashed else None
            with InflatedFile(file, self.where, self._limits, report, made) as stream:
                yield from _counted(archive.iter_members(stream.read, self.where, self._limits), digest)
            if digest is None:
                self._sha256 = stream.digest
            else:
                digest.complete(stream.digest)
            return
        if kind == "tar" and is_local:
            plain, digest = PlainFile(file, report), self._open_digest(file, compared=False)
            yield from _counted(archive.iter_members(plain.read, self.where, self._limits, plain.leave), digest)
            if self._hashed:
                digest.complete()
            return
        source = HashedFile(file, report, "sha256" if self._hashed else None)
        read = GzipReader(source, self.where, self._limits).read if kind == "gzip" else source.read
        yield from archive.iter_members(read, self.where, self._limits)
        self._sha256 = source.drain()


def _counted(members: Iterator[Member | Unread], digest: FileDigest | None) -> Iterator[Member | Unread]:
    for member in members:
        if digest is not None:
            digest.count_member()
        yield member


def read_image(
    member: Member, role: MemberRole, where: str, limits: Limits = DEFAULT_LIMITS
) -> tuple[ImageHalf, np.ndarray[Any, Any]]:
    """Return an image half and its pixels (band, y, x).

    Raises
    ------
    ImageError
        When the file is no TIFF that can be given back as promised.
    """
    try:
        decoded = tiff.decode(member.data, limits)
        pages = tiff.count_pages(member.data)
    except ImageError as error:
        raise error.at(where) from error
    pixels = decoded.pixels
    spec = ChipSpec.of(pixels)
    if not spec.interleaved:
        pixels = np.ascontiguousarray(pixels)  # once, for the digest and the encoder
    half = ImageHalf(
        id=role.id,
        member=member.name,
        ordinal=member.ordinal,
        dtype=spec.dtype,
        bands=spec.bands,
        height=spec.height,
        width=spec.width,
        look=look(pixels, decoded.nodata),
        pages=pages,
        crs=decoded.crs,
        transform=decoded.transform,
        nodata=decoded.nodata,
        digest=hashlib.sha256(member.data).digest(),
        pixel_digest=pixel_digest(pixels),
        fidelity=decoded.fidelity,
        envelope=decoded.envelope,
    )
    return half, pixels


def pixel_digest(pixels: np.ndarray[Any, Any]) -> bytes:
    """Return the XXH3-128 of pixels (band, y, x), little-endian, in the order in which chunks have them by default.

    It tells equal pixels from others, and damage; against those who make pixels to deceive it, the SHA-256 of the file
    stands beside it.
    """
    import xxhash

    ordered = pixels.transpose(1, 2, 0) if ChipSpec.of(pixels).interleaved else pixels
    little = np.ascontiguousarray(ordered, pixels.dtype.newbyteorder("<"))
    return xxhash.xxh3_128_digest(little.reshape(-1).view("u1").data)


def look(pixels: np.ndarray[Any, Any], nodata: str | None) -> Look:
    """Tell whether there is anything to see on pixels (band, y, x); stops where the first difference is.

    >>> zeros = np.zeros((1, 2, 2), "u1")
    >>> look(zeros, None), look(zeros + 7, None), look(zeros + 7, "7"), look(np.arange(4).reshape(1, 2, 2), None)
    ('black', 'constant', 'black', 'varied')
    """
    if nodata is None and pixels.dtype.kind in "iu" and _differ(pixels):
        return "varied"
    if all(_is_blank(part, nodata) for part in _parts(pixels)):
        return "black"
    first = pixels[:, :1, :1]
    return "constant" if all(_is_same(part, first) for part in _parts(pixels)) else "varied"


def _differ(pixels: np.ndarray[Any, Any]) -> bool:
    """Tell whether the first pixels of the first band differ: so they do in most images, and arrays cost more."""
    first, *others = pixels[0, 0, :_CORNER].tolist()
    return any(value != first for value in others)


def _parts(pixels: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield some pixels, then rows of all bands, each time more than before: most images differ in the first.

    NumPy lets go of the interpreter's lock for more than 500 values, and has to wait for it again.
    """
    yield pixels[:, :1, : max(1, _FIRST // pixels.shape[0])]
    start, size = 0, 1
    while start < pixels.shape[1]:
        yield pixels[:, start : start + size]
        start, size = start + size, 4 * size


def _is_same(part: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> bool:
    same = part == first
    if part.dtype.kind in "fc":
        same |= np.isnan(part) & np.isnan(first)
    return bool(same.all())


def _is_blank(part: np.ndarray[Any, Any], nodata: str | None) -> bool:
    seen = part != 0
    if nodata is not None and seen.any():
        try:
            value = int(nodata) if nodata.lstrip("-").isdigit() else float(nodata)
        except ValueError:
            return False
        seen &= (part == part) if value != value else part != value  # noqa: PLR0124 - NaN is not itself
    return not seen.any()


def read_label(
    member: Member, role: MemberRole, options: LabelOptions, where: str, limits: Limits = DEFAULT_LIMITS
) -> LabelHalf:
    """Return a label half.

    Raises
    ------
    LabelError
        When the file is not one GeoJSON Feature with a label of a known form.
    """
    label = parse_label(parse_json(member.data, where, limits), options, where)
    return LabelHalf(role.id, member.name, member.ordinal, member.data, label)


@dataclass(frozen=True, slots=True)
class Section:
    """Some members of a release, as they stand in its archive.

    Attributes
    ----------
    data : bytes
        Blocks of a gzip member, or of a tar archive that is not compressed; or what stands for them to the file that
        they are written to.
    crc, size_bytes : int
        Of the tar stream.
    """

    data: Any
    crc: int
    size_bytes: int


class SectionWriter:
    """Writes members to a section, wherever it will stand in an archive; see `ReleaseWriter`."""

    def __init__(self, *, compress: bool, level: int = DEFAULT_LEVEL) -> None:
        self._deflater = SectionDeflater(level) if compress else None
        self._plain = bytearray()
        self._tar = TarWriter(self._deflater.write if self._deflater else self._plain.extend)

    def add(self, name: str, data: bytes, *, is_dir: bool = False) -> None:
        """Write one member."""
        _add_member(self._tar, name, data, is_dir=is_dir)

    def finish(self) -> Section:
        """Return the section."""
        if self._deflater:
            return Section(*self._deflater.finish())
        return Section(bytes(self._plain), 0, self._tar.written_bytes)


class ReleaseWriter:
    """Writes members to an archive in the order they come: ``.tar.gz``, ``.tgz``, or ``.tar`` without compression.

    What stands between two cuts may be made elsewhere, by a `SectionWriter`: the bytes are the same.
    """

    def __init__(self, file: IO[bytes], *, compress: bool, executor: Executor, level: int = DEFAULT_LEVEL) -> None:
        self._file = file
        self._gzip = ParallelGzipWriter(file, executor, level=level) if compress else None
        self._tar = TarWriter(self._gzip.write if self._gzip else file.write)

    def add(self, name: str, data: bytes, *, is_dir: bool = False) -> None:
        """Write one member.

        Raises
        ------
        StoreError
            For a name that no release may hold: no conversion has written it into a store.
        """
        _add_member(self._tar, name, data, is_dir=is_dir)

    def cut(self) -> None:
        """End a section: what follows is compressed as if nothing had been written before."""
        if self._gzip:
            self._gzip.cut()

    def add_section(self, section: Section) -> None:
        """Write a section."""
        self._tar.adopt(section.size_bytes)
        if self._gzip:
            self._gzip.adopt(section.data, section.crc, section.size_bytes)
        else:
            self._file.write(section.data)

    def close(self) -> None:
        """End the archive."""
        self._tar.close()
        if self._gzip:
            self._gzip.close()


def _add_member(tar: TarWriter, name: str, data: bytes, *, is_dir: bool) -> None:
    if fault := archive.name_fault(name):
        raise StoreError(f"the name of a member {fault}", where=name)
    tar.add(name, data, mtime=EXPORT_MTIME, is_dir=is_dir)
