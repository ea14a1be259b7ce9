"""Chips into shards: encode and assemble. The inner format of Zarr v3's ``sharding_indexed`` codec.

A shard is its inner chunks one behind the other, then an index of (offset, length) as little-endian uint64 pairs, then
the index's crc32c. Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, pairwise, product
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vedastore.spec.arrays import ChipSpec

MISSING: Final = 2**64 - 1
CRC_BYTES: Final = 4
ENTRY: Final = np.dtype("<u8")
_WINDOW_LOG, _HASH_LOG, _MIN_MATCH, _STEP = 17, 8, 7, 8
_LITERALS, _HUFFMAN = 1002, 1
"""What happens to bytes outside of matches: ``ZSTD_c_literalCompressionMode`` of zstd.h, nameless in the module."""
_REPETITIVE: Final = 0.5
"""What shrinks to less than this has many matches: it is drawn, or was enlarged. Little imagery does."""
_compressors = threading.local()


class Here(NamedTuple):
    """The chunks of one chip: their bytes, one behind the other and in parts of any length; and the bytes of each."""

    parts: tuple[bytes | memoryview, ...] = ()
    lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, chunks: tuple[bytes, ...]) -> Self:
        """Return chunks that are whole."""
        return cls(chunks, tuple(map(len, chunks)))

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """The chunks, each in one piece."""
        data = b"".join(self.parts)
        return tuple(data[begin:end] for begin, end in pairwise(accumulate(self.lengths, initial=0)))


def encode_chip(pixels: np.ndarray[Any, Any], spec: ChipSpec) -> Here:
    """Encode one chip (band, y, x) as its inner chunks, in the order of the shard's index."""
    parts = tuple(_encode_chunk(chunk, spec) for chunk in _split(pixels, spec))
    return Here(tuple(chain.from_iterable(parts)), tuple(len(body) + len(crc) for body, crc in parts))


def _split(pixels: np.ndarray[Any, Any], spec: ChipSpec) -> Iterator[np.ndarray[Any, Any]]:
    (height, width), (rows, columns) = spec.tile, spec.tiles
    if rows == columns == 1:
        yield pixels
        return
    for row, column in product(range(rows), range(columns)):
        part = pixels[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        yield np.pad(part, ((0, 0), (0, height - part.shape[1]), (0, width - part.shape[2])))


def _encode_chunk(pixels: np.ndarray[Any, Any], spec: ChipSpec) -> tuple[bytes, bytes]:
    """Return a chunk's body and its checksum: to join them is to copy it."""
    import google_crc32c

    ordered = pixels.transpose(1, 2, 0) if spec.interleaved else pixels
    raw = np.ascontiguousarray(ordered, np.dtype(spec.dtype).newbyteorder("<"))
    body = _compress(_differences(raw) if spec.delta else raw, spec)
    return body, google_crc32c.value(body).to_bytes(CRC_BYTES, "little")


def _differences(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values = raw.reshape(-1)
    differences = np.empty_like(values)
    differences[0] = values[0]
    np.subtract(values[1:], values[:-1], out=differences[1:])
    return differences


def _compress(raw: np.ndarray[Any, Any], spec: ChipSpec) -> bytes:
    codec = spec.compressor["configuration"]
    if spec.compressor["name"] == "zstd":
        return _compress_zstd(raw.reshape(-1).view("u1"), codec["level"])
    from numcodecs import blosc

    return bytes(blosc.compress(raw, codec["cname"].encode(), codec["clevel"], blosc.BITSHUFFLE, codec["blocksize"]))


def _compress_zstd(raw: np.ndarray[Any, Any], level: int) -> bytes:
    """Return a frame that any decoder reads; the search for matches steps over bytes unless there are many."""
    if not hasattr(_compressors, "zstd"):
        _compressors.zstd = _open_zstd(level, _STEP), _open_zstd(level)
    in_steps, everywhere = _compressors.zstd
    frame: bytes = in_steps.compress(raw, in_steps.FLUSH_FRAME)
    if len(frame) < raw.nbytes * _REPETITIVE:
        frame = min(frame, everywhere.compress(raw, everywhere.FLUSH_FRAME), key=len)
    return frame


def _open_zstd(level: int, step: int | None = None) -> Any:
    """Return a compressor of a level that looks for long matches only: imagery has few of them.

    The search would take half of the time. Imagery is up to 3 % larger without short matches, and with a ``step``.
    """
    zstd = zstd_module()
    of = zstd.CompressionParameter
    options = {
        of.compression_level: level,
        of.window_log: _WINDOW_LOG,
        of.hash_log: _HASH_LOG,
        of.min_match: _MIN_MATCH,
    }
    if step is not None:  # bytes outside of matches would stay as they are, as at the levels below 0
        options |= {of.target_length: step, _LITERALS: _HUFFMAN}
    return zstd.ZstdCompressor(options=options)


def zstd_module() -> Any:
    """Return the standard library's Zstandard, which has a package of its own for Pythons below 3.14."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class Spill:
    """One temporary file for the chunks of all shards that do not stay in memory; any thread may read it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._end = 0

    def write(self, data: bytes | memoryview) -> tuple[int, int]:
        """Append bytes; give their place, (offset, length)."""
        self._file.write(data)
        self._file.flush()
        place = (self._end, len(data))
        self._end += len(data)
        return place

    def read(self, place: tuple[int, int]) -> bytes:
        """Return the bytes of a place."""
        return os.pread(self._file.fileno(), place[1], place[0])

    def close(self) -> None:
        """Give the file up."""
        self._file.close()


class Holder(Protocol):
    """Chunks of some chips in the memory of another process, or shared with one."""

    @property
    def size_bytes(self) -> int:
        """What it takes, there and on the way there, as long as it is held."""

    def take(self, positions: Sequence[int]) -> Sequence[bytes | memoryview]:
        """Return the chunks of some of its chips, one behind the other, in parts of any length."""


@dataclass(frozen=True, slots=True)
class Away:
    """The chunks of one chip that are not here: who holds them, which of his they are, and the bytes of each."""

    holder: Holder
    position: int
    lengths: tuple[int, ...]


Chunks = Here | Away


class ShardDraft:
    """One shard under way: its chunks in memory, here or elsewhere, or spilled when told to; and its index."""

    def __init__(self, spec: ChipSpec, spill: Spill) -> None:
        self.spec = spec
        self.samples = 0
        self.memory_bytes = 0
        self.ids: list[str] = []
        self._chips: list[Chunks] = []
        self._origins: set[str | None] = set()
        self._spill = spill
        self._spilled: list[tuple[int, int]] = []
        self._offset = 0
        self._entries: list[tuple[int, int]] = []

    def append(self, chunks: Chunks, sample_id: str = "", origin: tuple[str, int] | None = None) -> None:
        """Add one chip, the image of a sample; ``origin`` is a shard, and where these very chunks begin in it."""
        self.ids.append(sample_id)
        self._origins.add(origin[0] if origin and origin[1] == self._offset else None)
        if isinstance(chunks, Away):
            last = self._chips[-1] if self._chips else None
            if not (isinstance(last, Away) and last.holder is chunks.holder):
                self.memory_bytes += chunks.holder.size_bytes
        else:
            self.memory_bytes += sum(chunks.lengths)
        for length in chunks.lengths:
            self._entries.append((self._offset, length))
            self._offset += length
        self._chips.append(chunks)
        self.samples += 1

    @property
    def full(self) -> bool:
        """Whether the shard has all its chips."""
        return self.samples == self.spec.samples_per_shard

    @property
    def origin(self) -> str | None:
        """The shard that has exactly these chunks, in this order, from its beginning; None where there is none."""
        return next(iter(self._origins)) if len(self._origins) == 1 else None

    @property
    def chunks_bytes(self) -> int:
        """Bytes of all chunks, and so the place of the index."""
        return self._offset

    def places(self) -> Iterator[tuple[int, list[int]]]:
        """Yield for each chip where it begins, and the lengths of its chunks."""
        step = self.spec.chunks_per_sample
        for at in range(0, len(self._entries), step):
            yield self._entries[at][0], [length for _, length in self._entries[at : at + step]]

    @property
    def away(self) -> list[Away] | None:
        """All its chips where every one is elsewhere."""
        away = [chunks for chunks in self._chips if isinstance(chunks, Away)]
        return away if len(away) == self.samples else None

    def spill(self) -> None:
        """Move the chunks from memory, here or elsewhere, to the temporary file."""
        self._spilled += [self._spill.write(b"".join(parts)) for parts in self._iter_memory()]
        self._chips, self.memory_bytes = [], 0

    def parts(self) -> Iterator[bytes | memoryview]:
        """Yield the whole shard."""
        yield from map(self._spill.read, self._spilled)
        yield from chain.from_iterable(self._iter_memory())
        yield self.index()

    def index(self) -> bytes:
        """Return the shard's index, which stands at its end."""
        import google_crc32c

        slots = self.spec.samples_per_shard * self.spec.chunks_per_sample
        index = np.full((slots, 2), MISSING, ENTRY)
        index[: len(self._entries)] = self._entries
        raw = index.tobytes()
        crc: bytes = google_crc32c.value(raw).to_bytes(CRC_BYTES, "little")
        return raw + crc

    def _iter_memory(self) -> Iterator[Sequence[bytes | memoryview]]:
        """Yield the parts of the chips that are not spilled, by chip; those of one holder are asked for at once."""
        for holder, chips in groupby(self._chips, lambda chunks: chunks.holder if isinstance(chunks, Away) else None):
            if holder is None:
                yield from (chunks.parts for chunks in chips if isinstance(chunks, Here))
            else:
                yield holder.take([chunks.position for chunks in chips if isinstance(chunks, Away)])
