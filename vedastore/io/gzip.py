"""Gzip streams (RFC 1952), read strictly.

The reader verifies what the standard library's ``tarfile`` does not look at: the CRC and size of every member, and that
nothing but zero padding follows the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isal import igzip_lib, isal_zlib

from vedastore.errors import ArchiveError
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from _typeshed import SupportsRead

    from vedastore.model import Limits

_MAGIC: Final = b"\x1f\x8b"
_FIRST_FEED_BYTES: Final = 4096
_FIXED_BYTES, _DEFLATE = 10, 8  # of a header: its length without optional fields, and the only method
_HEADER_CRC, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0  # its flags


class GzipReader:
    """Decompress a stream of one or more gzip members, checked to its last byte.

    Memory is bounded by ``chunk_bytes`` and the size asked for; time is linear in the compressed and the
    decompressed size, however small the members are.

    Parameters
    ----------
    source : readable
        The compressed bytes. Its ``OSError`` passes through, and it is not closed here.
    where : str
        Name of the stream, for messages.
    limits : Limits
        How far the stream may expand.
    chunk_bytes : int
        Compressed bytes read and held at a time.
    """

    def __init__(
        self,
        source: SupportsRead[bytes],
        where: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        chunk_bytes: int = 1 << 20,
    ) -> None:
        self._source = source
        self._where = where
        self._limits = limits
        self._given = 0  # decompressed bytes
        self._chunk_bytes = chunk_bytes
        self._chunk = b""
        self._taken = 0  # bytes of the chunk that are done with
        self._before = 0  # bytes of the source before the chunk
        self._member: igzip_lib.IgzipDecompressor | None = None
        self._feed_bytes = 0
        self._begun = False

    @property
    def compressed_bytes(self) -> int:
        """Compressed bytes taken so far."""
        return self._before + self._taken

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes, and ``b""`` only at the verified end of the stream.

        Raises
        ------
        ArchiveError
            Not gzip, damaged, cut short, followed by other data, or above the limits.
        ValueError
            ``size`` below 1.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        while member := self._member or self._next_member():
            feed = self._next_feed() if member.needs_input else b""
            try:
                data = member.decompress(feed, size)
            except igzip_lib.IsalError as error:  # type: ignore[misc]  # isal's stub calls the class an instance
                reason = f"the gzip stream is damaged before its byte {self.compressed_bytes}: {error}"
                raise ArchiveError(reason, where=self._where) from error
            if member.eof:
                self._taken -= len(member.unused_data)
                self._member = None
            if data:
                self._given += len(data)
                if self._given > self._limits.archive_trusted_bytes:
                    self._refuse_bomb()
                return data
        return b""

    def _refuse_bomb(self) -> None:
        expansion = self._given / max(self.compressed_bytes, 1)
        if expansion > self._limits.archive_expansion:
            raise ArchiveError(
                f"{self._given} bytes came out of {self.compressed_bytes}, above the limit of "
                f"{self._limits.archive_expansion} for each: it may be a decompression bomb",
                where=self._where,
                hint="--limit archive_expansion=N raises it, if you trust the archive",
                rule="archive-limit",
            )

    def _next_member(self) -> igzip_lib.IgzipDecompressor | None:
        head = self._peek(len(_MAGIC))
        if head == _MAGIC:
            self._begun = True
            self._take_header()
            self._feed_bytes = _FIRST_FEED_BYTES
            self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER)
            return self._member
        if not self._begun:
            raise ArchiveError("is not gzip" if head else "is empty", where=self._where)
        while self._peek(1):
            if self._chunk[self._taken :].strip(b"\0"):
                raise ArchiveError("other data follows the end of the gzip stream", where=self._where)
            self._taken = len(self._chunk)
        return None

    def _take_header(self) -> None:
        """Pass over a member's header, whole: isal loses its place in one that comes in two parts (RFC 1952, 2.3)."""
        head = self._peek(_FIXED_BYTES)
        size = len(head)
        if size == _FIXED_BYTES:
            method, flags = head[2], head[3]
            if method != _DEFLATE or flags & _RESERVED:
                raise ArchiveError("the gzip stream is damaged: its header is of no known kind", where=self._where)
            if flags & _EXTRA:
                size += 2 + int.from_bytes(self._peek(size + 2)[size:], "little")
            size = self._skip_text(size) if flags & _NAME else size
            size = self._skip_text(size) if flags & _COMMENT else size
            size += 2 if flags & _HEADER_CRC else 0
            head = self._peek(size)
        if len(head) < size or len(head) < _FIXED_BYTES:
            raise ArchiveError("the gzip stream ends early: it was cut short", where=self._where)
        if head[3] & _HEADER_CRC and int.from_bytes(head[-2:], "little") != isal_zlib.crc32(head[:-2]) & 0xFFFF:
            raise ArchiveError("the gzip stream is damaged: a header's checksum does not fit", where=self._where)
        self._taken += size

    def _skip_text(self, start: int) -> int:
        """Return where the text that begins at a place of the header ends, its zero included."""
        size = start
        while (end := self._peek(size).find(b"\0", start)) < 0:
            if len(self._peek(size)) < size:
                return size  # cut short: the caller finds the header shorter than this
            size = 2 * size
            if size > self._limits.header_bytes:
                raise ArchiveError(
                    f"a gzip header is longer than the limit of {self._limits.header_bytes} bytes",
                    where=self._where,
                    hint="--limit header_bytes=N raises it, if you trust the archive",
                    rule="archive-limit",
                )
        return end + 1

    def _next_feed(self) -> memoryview:
        """Take input for the member: little at first, so that a tiny member gives little back."""
        if not self._peek(1):
            raise ArchiveError("the gzip stream ends early: it was cut short", where=self._where)
        feed = memoryview(self._chunk)[self._taken : self._taken + self._feed_bytes]
        self._taken += len(feed)
        self._feed_bytes *= 2
        return feed

    def _peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes without taking them; fewer only at the end of the source."""
        while len(self._chunk) - self._taken < size and (more := self._source.read(self._chunk_bytes)):
            self._before += self._taken
            self._chunk = self._chunk[self._taken :] + more
            self._taken = 0
        return self._chunk[self._taken : self._taken + size]
