"""Chips in shards: encode, assemble, read. The inner format of Zarr v3's ``sharding_indexed`` codec.

A shard is its inner chunks one behind the other, then an index of (offset, length) as little-endian uint64 pairs, then
the index's crc32c. Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import os
import tempfile
import threading
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError
from vedastore.spec import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vedastore.io.objects import Objects
    from vedastore.spec.arrays import ChipSpec

MISSING: Final = 2**64 - 1
_CRC_BYTES: Final = 4
_ENTRY: Final = np.dtype("<u8")
INDEXES_KEPT: Final = 64
"""Indexes of shards that a reader keeps; 5 KiB each for chips of 200 KB."""
Index = np.ndarray[Any, np.dtype[np.uint64]]
_compressors = threading.local()


def encode_chip(pixels: np.ndarray[Any, Any], spec: ChipSpec) -> tuple[bytes, ...]:
    """Encode one chip (band, y, x) as its inner chunks, in the order of the shard's index."""
    return tuple(_encode_chunk(chunk, spec) for chunk in _split(pixels, spec))


def decode_chip(chunks: Iterable[bytes], spec: ChipSpec, where: str) -> np.ndarray[Any, Any]:
    """Return the chip (band, y, x) of its inner chunks.

    Raises
    ------
    StoreError
        When a chunk's checksum does not fit, it does not decode to a chunk's bytes, or there is no memory for the chip.
    """
    (height, width), (rows, columns) = spec.tile, spec.tiles
    shape, dtype = (spec.bands, height, width), np.dtype(spec.dtype).newbyteorder("<")
    tiles = (np.frombuffer(_decode_chunk(c, spec, where), dtype).reshape(shape) for c in chunks)
    try:
        if rows == columns == 1:
            (tile,) = tiles
            return tile
        chip = np.empty((spec.bands, rows * height, columns * width), dtype)
        for (row, column), tile in zip(product(range(rows), range(columns)), tiles, strict=True):
            chip[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    except MemoryError:
        told = f"a chip of {spec.bands} x {spec.height} x {spec.width} {spec.dtype}"
        hint = "use a larger machine, if you trust the store"
        raise StoreError(f"there is no memory for {told}", where=where, hint=hint) from None
    return chip[:, : spec.height, : spec.width]


def _split(pixels: np.ndarray[Any, Any], spec: ChipSpec) -> Iterator[np.ndarray[Any, Any]]:
    (height, width), (rows, columns) = spec.tile, spec.tiles
    if rows == columns == 1:
        yield pixels
        return
    for row, column in product(range(rows), range(columns)):
        part = pixels[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        yield np.pad(part, ((0, 0), (0, height - part.shape[1]), (0, width - part.shape[2])))


def _encode_chunk(pixels: np.ndarray[Any, Any], spec: ChipSpec) -> bytes:
    import google_crc32c

    raw = np.ascontiguousarray(pixels, np.dtype(spec.dtype).newbyteorder("<"))
    body = _compress(raw, spec)
    crc: bytes = google_crc32c.value(body).to_bytes(_CRC_BYTES, "little")
    return body + crc


def _decode_chunk(chunk: bytes, spec: ChipSpec, where: str) -> bytes:
    import google_crc32c

    body, crc = chunk[:-_CRC_BYTES], chunk[-_CRC_BYTES:]
    if google_crc32c.value(body).to_bytes(_CRC_BYTES, "little") != crc:
        raise StoreError("pixels are damaged: the chunk's checksum does not fit", where=where)
    wanted = int(np.prod(spec.chunk_shape)) * spec.itemsize
    raw = _decompress(body, spec, wanted, where)
    if len(raw) != wanted:
        raise StoreError(f"pixels are damaged: a chunk of {len(raw)} bytes instead of {wanted}", where=where)
    return raw


def _compress(raw: np.ndarray[Any, Any], spec: ChipSpec) -> bytes:
    codec = spec.compressor["configuration"]
    if spec.compressor["name"] == "zstd":
        import zstandard

        if not hasattr(_compressors, "zstd"):
            _compressors.zstd = zstandard.ZstdCompressor(level=codec["level"])
        compressed: bytes = _compressors.zstd.compress(raw.reshape(-1).view("u1"))
        return compressed
    from numcodecs import blosc

    return bytes(blosc.compress(raw, codec["cname"].encode(), codec["clevel"], blosc.BITSHUFFLE, codec["blocksize"]))


def _decompress(body: bytes, spec: ChipSpec, wanted: int, where: str) -> bytes:
    if spec.compressor["name"] == "zstd":
        import zstandard

        try:
            if zstandard.frame_content_size(body) != wanted:  # it would be allocated unread
                raise StoreError("pixels are damaged: the chunk's header does not fit", where=where)
            return bytes(zstandard.ZstdDecompressor().decompress(body, max_output_size=wanted))
        except zstandard.ZstdError as error:
            raise StoreError(f"pixels are damaged: {error}", where=where) from None
    from numcodecs import blosc

    # blosc's header: raw size at 4, compressed size at 12; both are trusted by what follows.
    if len(body) < 16 or [int.from_bytes(body[i : i + 4], "little") for i in (4, 12)] != [wanted, len(body)]:  # noqa: PLR2004
        raise StoreError("pixels are damaged: the chunk's header does not fit", where=where)
    try:
        return bytes(blosc.decompress(body))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"pixels are damaged: {error}", where=where) from None


class Spill:
    """One temporary file for the chunks of all shards that do not stay in memory; any thread may read it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._end = 0

    def write(self, data: bytes) -> tuple[int, int]:
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


class ShardDraft:
    """One shard under way: its chunks in memory, or spilled when told to, and its index."""

    def __init__(self, spec: ChipSpec, spill: Spill) -> None:
        self.spec = spec
        self.samples = 0
        self.memory_bytes = 0
        self._spill = spill
        self._offset = 0
        self._entries: list[tuple[int, int]] = []
        self._parts: list[bytes | tuple[int, int]] = []

    def append(self, chunks: tuple[bytes, ...]) -> None:
        """Add one chip."""
        for chunk in chunks:
            self._parts.append(chunk)
            self._entries.append((self._offset, len(chunk)))
            self._offset += len(chunk)
            self.memory_bytes += len(chunk)
        self.samples += 1

    @property
    def full(self) -> bool:
        """Whether the shard has all its chips."""
        return self.samples == self.spec.samples_per_shard

    def spill(self) -> None:
        """Move the chunks from memory to the temporary file."""
        self._parts = [self._spill.write(part) if isinstance(part, bytes) else part for part in self._parts]
        self.memory_bytes = 0

    def parts(self) -> Iterator[bytes]:
        """Yield the whole shard."""
        import google_crc32c

        for part in self._parts:
            yield part if isinstance(part, bytes) else self._spill.read(part)
        slots = self.spec.samples_per_shard * self.spec.chunks_per_sample
        index = np.full((slots, 2), MISSING, _ENTRY)
        index[: len(self._entries)] = self._entries
        raw = index.tobytes()
        yield raw + google_crc32c.value(raw).to_bytes(_CRC_BYTES, "little")


class ShardReader:
    """Reads chips of one bucket: one ranged read and one decompression a chip. Any number of threads may share it."""

    def __init__(self, objects: Objects, bucket: str, spec: ChipSpec) -> None:
        self._objects, self._bucket, self._spec = objects, bucket, spec
        self._index: dict[int, Index] = {}

    def read(self, row: int) -> np.ndarray[Any, Any]:
        """Return the chip (band, y, x) of one row; the array is read-only.

        Raises
        ------
        StoreError
            When the shard is absent, has no such row, or is damaged.
        """
        shard, slot = divmod(row, self._spec.samples_per_shard)
        per_sample = self._spec.chunks_per_sample
        key = keys.shard(self._bucket, shard)
        where = f"{self._objects.url}/{key}: row {row}"
        entries = self._entries(shard)[slot * per_sample : (slot + 1) * per_sample].tolist()
        if len(entries) != per_sample:
            raise StoreError("the shard has no such row", where=where)
        start = entries[0][0]
        data = self._objects.read(key, start, sum(length for _, length in entries))
        chunks = [data[offset - start : offset - start + length] for offset, length in entries]
        return decode_chip(chunks, self._spec, where)

    def _entries(self, shard: int) -> Index:
        entries = self._index.get(shard)
        if entries is None:
            entries = read_shard_index(self._objects, self._bucket, self._spec, shard)
            kept = self._index if len(self._index) < INDEXES_KEPT else {}
            self._index = kept | {shard: entries}
        return entries


def read_shard_index(objects: Objects, bucket: str, spec: ChipSpec, shard: int) -> Index:
    """Return the (offset, length) of every inner chunk that a shard has: in order, gapless, inside the shard."""
    import google_crc32c

    key = keys.shard(bucket, shard)
    where = f"{objects.url}/{key}"
    slots = spec.samples_per_shard * spec.chunks_per_sample
    index_bytes = slots * 2 * _ENTRY.itemsize
    size = objects.size(key)
    if size is None or size < index_bytes + _CRC_BYTES:
        raise StoreError("the shard is absent" if size is None else "the shard is too short", where=where)
    body_bytes = size - index_bytes - _CRC_BYTES
    tail = objects.read(key, body_bytes, index_bytes + _CRC_BYTES)
    raw, crc = tail[:-_CRC_BYTES], tail[-_CRC_BYTES:]
    if google_crc32c.value(raw).to_bytes(_CRC_BYTES, "little") != crc:
        raise StoreError("the shard's index is damaged: its checksum does not fit", where=where)
    index = np.frombuffer(raw, _ENTRY).reshape(-1, 2)
    used = int((index != MISSING).all(1).sum())
    offsets, lengths = index[:used, 0], index[:used, 1]
    ends = np.cumsum(lengths, dtype="u8")
    inside = (index[:used] <= body_bytes).all()  # or else the sum may have wrapped around
    gapless = np.array_equal(np.append(offsets, np.uint64(body_bytes)), np.append(np.uint64(0), ends))
    if not (inside and gapless) or not (index[used:] == MISSING).all():
        raise StoreError("the shard's index is damaged: its chunks are not one behind the other", where=where)
    return index[:used].copy()
