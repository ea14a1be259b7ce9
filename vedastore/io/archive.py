"""Tar streams and extracted directories, read strictly and never extracted.

Reads ustar, GNU and pax headers (POSIX.1-2024, ``pax``; GNU tar manual, "Basic Tar Format"). What a release has no use
for (links, devices, sparse files, names that point elsewhere) and whatever two tar programs could read differently is
refused by name.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from vedastore.errors import ArchiveError
from vedastore.io.member import Member, MemberError, OverLimitError, RefusalError, Unread, refusals
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vedastore.model import Limits

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_READ_BYTES: Final = 16 << 20
_SHOWN_CHARS: Final = 200

_HEADER: Final = struct.Struct("100s 8s 8s 8s 12s 12s 8x c 100x 8s 80x 155s 12x")  # the fields of _parse_header
_CHECKSUM: Final = slice(148, 156)
_POSIX, _GNU, _V7 = b"ustar\0", b"ustar  \0", bytes(8)
_OCTAL: Final = re.compile(rb" *([0-7]*)[ \0]*")
_ID_MOST: Final = 2**32 - 1
_BASE_256: Final = b"\x80\xff"  # first byte of a field that is so, of 0 or more and below 0
_PAX_SIZE: Final = re.compile(rb"[0-9]{1,18}")
_PAX_RECORD: Final = re.compile(rb"([0-9]{1,18}) ([^=\n]+)=")

_FILES, _DIRECTORY = (b"0", b"\0", b"7"), b"5"
_EXTENSIONS: Final = {b"x": "a pax header", b"g": "a global pax header", b"L": "a long name", b"K": "a long link name"}
_REFUSED_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"D": "a GNU directory dump",
    b"M": "a part of a multi-volume archive",
    b"S": "a sparse file",
    b"V": "a volume label",
}
_REFUSED_NAMES: Final = (
    (re.compile(r"\A\Z"), "is empty"),
    (re.compile(r"\A/"), "is absolute"),
    (re.compile(r"\A[A-Za-z]:"), "begins with a drive letter"),
    (re.compile(r"(?:\A|/)\.\.(?:/|\Z)"), "holds '..'"),
    (re.compile(r"\\"), "holds a backslash"),
    (re.compile(r"[\x00-\x1f\x7f-\x9f]"), "holds a control character"),
)
_ANY_REFUSED: Final = re.compile("|".join(pattern.pattern for pattern, _ in _REFUSED_NAMES))


def sniff(head: bytes) -> Literal["gzip", "tar", "unknown"]:
    """Tell the container from its first 512 bytes."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    block = head[:_BLOCK]
    if block[257:262] == b"ustar" or block == _ZEROS or (len(block) == _BLOCK and _checksum_holds(block)):
        return "tar"
    return "unknown"


def name_fault(name: str) -> str | None:
    """Say what makes a name one that no release may hold; None for all others.

    >>> name_fault("../a"), name_fault("images/1.tif")
    ("holds '..'", None)
    """
    if not _ANY_REFUSED.search(name):
        return None
    return next(reason for pattern, reason in _REFUSED_NAMES if pattern.search(name))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return what the names in a directory are sorted by: numbers compare as numbers.

    >>> sorted(["10.tif", "9.tif", "09.tif"], key=natural_key)
    ['09.tif', '9.tif', '10.tif']
    """
    parts = re.split("([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def check_listed(name: str, ordinal: int, size_bytes: int, where: str, limits: Limits) -> None:
    """Check a member that another place than an archive or a local directory lists.

    Raises
    ------
    ArchiveError
        Above a limit, or a member that no release may hold.
    """
    with refusals(f"{where}: {_shown(name.encode('utf-8', 'surrogatepass'))}"):
        _checked_name(name.encode("utf-8", "surrogatepass"), limits)
        if name.endswith("/") and size_bytes:
            raise MemberError("is a directory with data of its own")
        _check_counts(ordinal, size_bytes, limits)


def iter_members(
    read: Callable[[int], bytes],
    where: str,
    limits: Limits = DEFAULT_LIMITS,
    leave: Callable[[int], tuple[int, int] | None] | None = None,
) -> Iterator[Member | Unread]:
    """Iterate over the members of a tar stream, and check that it ends as it must.

    Memory is bounded by twice the largest member. The stream is read to its very end, so that a stream which checks
    itself there, as gzip does, has done so.

    Parameters
    ----------
    read : callable
        Returns 1 to ``size`` bytes, and ``b""`` at the end of the stream. Its exceptions pass through.
    where : str
        Name of the archive, for messages.
    limits : Limits
    leave : callable, optional
        Passes over so many bytes and returns where they are, (descriptor, offset); None where they have to be read.

    Raises
    ------
    ArchiveError
        Damaged, cut short, followed by other data, above a limit, or with a member that no release may hold.
    """
    return _Tar(read, where, limits, leave or (lambda _size: None)).members()


def iter_directory(root: Path, where: str, limits: Limits = DEFAULT_LIMITS) -> Iterator[Member | Unread]:
    """Iterate over an extracted release in natural order, with the names that its archive would have.

    Its files are not read here.

    They begin with the folder's own name when it holds ``images`` or ``labels`` itself. Directories are told only
    when they are empty.

    Raises
    ------
    ArchiveError
        Unreadable, above a limit, or with a member that no release may hold. Links are never followed.
    """
    with refusals(where):
        top = root.resolve(strict=True)
        is_release = (top / "images").is_dir() or (top / "labels").is_dir()
        todo = [(f"{top.name}/{entry.name}" if is_release else entry.name, entry) for entry in _scan(top)]
    ordinal = 0
    while todo:
        path, entry = todo.pop()
        try:
            name = _checked_name(os.fsencode(path), limits)
            status = entry.stat(follow_symlinks=False)
            if is_dir := stat.S_ISDIR(status.st_mode):
                inside = _scan(entry)
                todo += [(f"{path}/{below.name}", below) for below in inside]
                if inside:
                    continue
            elif not stat.S_ISREG(status.st_mode):
                raise MemberError(f"is {'a symbolic link' if entry.is_symlink() else 'a device, FIFO or socket'}")
            _check_counts(ordinal, 0 if is_dir else status.st_size, limits)
        except (RefusalError, OSError):
            with refusals(f"{where}: {path}"):  # here, and not around it all: it takes time, and there are many files
                raise
        if is_dir:
            yield Member(f"{name}/", b"", ordinal, is_dir)
        else:
            yield Unread(name, ordinal, status.st_size, entry.path)
        ordinal += 1


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    kind: bytes
    size: int


class _Tar:
    """A tar stream that is being read."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        where: str,
        limits: Limits,
        leave: Callable[[int], tuple[int, int] | None],
    ) -> None:
        self._read = read
        self._leave = leave
        self._where = where
        self._limits = limits
        self._offset = 0

    def members(self) -> Iterator[Member | Unread]:
        ordinal = padding = 0
        pending: dict[bytes, bytes] = {}  # the extensions in front of the next member, by kind
        while (block := self._take(padding + _BLOCK)[padding:]) != _ZEROS:
            place: str | bytes = f"header at byte {self._offset - _BLOCK}"
            try:  # not refusals, which would cost more than all the rest: there are millions of members
                header = _parse_header(block)
                if header.kind in _EXTENSIONS:
                    self._take_extension(header, pending)
                    padding = -header.size % _BLOCK
                    continue
                place = header.name
                if pending:
                    header = _extended(header, pending)
                    place = header.name
                is_dir = _is_directory(header)
                name = _checked_name(header.name, self._limits)
                _check_counts(ordinal, header.size, self._limits)
            except RefusalError as error:
                raise error.at(f"{self._where}: {place if isinstance(place, str) else _shown(place)}") from None
            place_of_data = self._leave(header.size)
            if place_of_data is None:
                yield Member(name, self._take(header.size), ordinal, is_dir)
            else:
                self._offset += header.size
                yield Unread(name, ordinal, header.size, *place_of_data)
            ordinal += 1
            padding = -header.size % _BLOCK
            pending = {}
        if pending:
            raise ArchiveError("the archive ends where a header announces one more member", where=self._where)
        self._check_end()

    def _take_extension(self, header: _Header, pending: dict[bytes, bytes]) -> None:
        what = _EXTENSIONS[header.kind]
        if header.size > self._limits.header_bytes:
            raise OverLimitError(f"{what} of {header.size} bytes", "header_bytes", self._limits)
        if header.kind in pending:
            raise MemberError(f"{what} follows {what} of the same member")
        payload = self._take(header.size)
        if header.kind != b"g":
            pending[header.kind] = payload
        elif {"path", "linkpath", "size"} & _parse_pax(payload).keys():
            raise MemberError(f"{what} sets the name or size of all members at once")

    def _take(self, size: int) -> bytes:
        """Read exactly ``size`` bytes, and hold no more than the stream really gives."""
        data = self._read(min(size, _READ_BYTES)) if size else b""
        if len(data) < size:
            gathered = (
                io.BytesIO()
            )  # a list of pieces of a few bytes each would cost more, and joining it twice as much
            while data:
                gathered.write(data)
                data = self._read(min(size - gathered.tell(), _READ_BYTES)) if gathered.tell() < size else b""
            if gathered.tell() < size:
                raise ArchiveError("the archive ends without its end marker: it was cut short", where=self._where)
            data = gathered.getvalue()
        self._offset += size
        return data

    def _check_end(self) -> None:
        if self._take(_BLOCK) != _ZEROS:
            raise ArchiveError("the archive has only half of an end marker: it is damaged", where=self._where)
        padding = 0
        while rest := self._read(1 << 20):
            if rest != bytes(len(rest)):
                raise ArchiveError("a second archive or other data follows the end of the archive", where=self._where)
            padding += len(rest)
            if padding > self._limits.padding_bytes:
                raise OverLimitError("what follows the end of the archive", "padding_bytes", self._limits).at(
                    self._where
                )


# What follows is pure, but for the last one.


def _parse_header(block: bytes) -> _Header:
    name, mode, user, group, size, time, kind, magic, prefix = _HEADER.unpack(block)
    is_posix = magic.startswith(_POSIX)
    if not _checksum_holds(block) or not (is_posix or magic in (_GNU, _V7)):
        raise RefusalError("is damaged, or is no tar header")
    for field in (mode, user, group):  # of no use here, but some programs stop at what is no number
        if not _OCTAL.fullmatch(field) and _parse_number(field) > _ID_MOST:
            raise RefusalError(f"is damaged: {field!r} is no number of an owner")
    if time[0] not in _BASE_256 and not _OCTAL.fullmatch(time):
        raise RefusalError(f"is damaged: {time!r} is no number")
    name, prefix = name.partition(b"\0")[0], prefix.partition(b"\0")[0]
    full_name = prefix + b"/" + name if is_posix and prefix else name
    return _Header(full_name, kind, _parse_number(size))


def _checksum_holds(header: bytes) -> bool:
    try:
        stored = _parse_number(header[_CHECKSUM])
    except ValueError:
        return False
    summed = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
    unsigned = sum(summed)
    # Some old programs summed signed characters.
    return stored == unsigned or stored == unsigned - 256 * sum(byte >> 7 for byte in summed)


def _parse_number(field: bytes) -> int:
    """Parse an octal number, or GNU's base-256 for what does not fit; blank is 0."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    if not (octal := _OCTAL.fullmatch(field)):
        raise RefusalError(f"is damaged: {field!r} is no number of 0 or more")
    return int(octal[1] or b"0", 8)


def _parse_pax(payload: bytes) -> dict[str, bytes]:
    """Parse ``length key=value`` lines; a later one of the same key wins."""
    records: dict[str, bytes] = {}
    start = 0
    while start < len(payload):
        record = _PAX_RECORD.match(payload, start)
        end = start + int(record[1]) if record else 0
        if not record or record.end() >= end or payload[end - 1 : end] != b"\n":
            raise RefusalError("its pax header is malformed")
        key = record[2].decode("utf-8", "backslashreplace")
        if key.startswith("GNU.sparse."):
            raise MemberError("is a sparse file, which no release may hold")
        records[key] = payload[record.end() : end - 1]
        start = end
    return records


def _extended(header: _Header, pending: dict[bytes, bytes]) -> _Header:
    """Apply the extensions in front of a member, as GNU tar does."""
    records = _parse_pax(pending.get(b"x", b""))
    size = header.size
    if "size" in records:
        if not _PAX_SIZE.fullmatch(records["size"]):
            raise RefusalError("its pax header has a size that is no number of 0 or more")
        size = int(records["size"])
    if b"L" in pending and "path" in records:
        raise MemberError("has two long names")
    if b"L" in pending and not pending[b"L"].endswith(b"\0"):
        raise RefusalError("its long name has no end")
    name = pending[b"L"].rstrip(b"\0") if b"L" in pending else records.get("path", header.name)
    return _Header(name, header.kind, size)


def _is_directory(header: _Header) -> bool:
    """Refuse what is neither file nor directory, or only half of either."""
    if header.kind not in _FILES and header.kind != _DIRECTORY:
        kind = _REFUSED_KINDS.get(header.kind) or f"of the unknown kind {header.kind!r}"
        raise MemberError(f"is {kind}, which no release may hold")
    ends_in_slash = header.name.endswith(b"/")
    is_dir = header.kind == _DIRECTORY or (header.kind == b"\0" and ends_in_slash)  # before ustar only the slash told
    if is_dir and header.size:
        raise MemberError("is a directory with data of its own")
    if ends_in_slash and not is_dir:
        raise MemberError("is a file with the name of a directory")
    return is_dir


def _checked_name(raw: bytes, limits: Limits) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MemberError("its name is not UTF-8") from None
    if len(name) > limits.name_chars:
        raise OverLimitError(f"its name of {len(name)} characters", "name_chars", limits)
    if fault := name_fault(name):
        raise MemberError(f"its name {fault}")
    return name


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _check_counts(ordinal: int, size_bytes: int, limits: Limits) -> None:
    if ordinal >= limits.members:
        raise OverLimitError("the number of members", "members", limits)
    if size_bytes > limits.member_bytes:
        raise OverLimitError(f"its size of {size_bytes} bytes", "member_bytes", limits)


def _scan(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """List a directory, last first (a stack's order)."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: natural_key(entry.name), reverse=True)
