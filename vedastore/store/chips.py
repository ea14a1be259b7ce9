"""Chips out of shards: one ranged read and one decompression a chip; see `shards` for the format."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError
from vedastore.spec import keys
from vedastore.store.shards import CRC_BYTES, ENTRY, MISSING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vedastore.io.objects import Objects
    from vedastore.spec.arrays import ChipSpec

INDEXES_KEPT: Final = 64
"""Indexes of shards that a reader keeps; 5 KiB each for chips of 200 KB."""
Index = np.ndarray[Any, np.dtype[np.uint64]]


def decode_chip(chunks: Iterable[bytes], spec: ChipSpec, where: str) -> np.ndarray[Any, Any]:
    """Return the chip (band, y, x) of its inner chunks.

    Raises
    ------
    StoreError
        When a chunk's checksum does not fit, it does not decode to a chunk's bytes, or there is no memory for the chip.
    """
    (height, width), (rows, columns) = spec.tile, spec.tiles
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    tiles = (_arrange(np.frombuffer(_decode_chunk(c, spec, where), dtype), spec) for c in chunks)
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


def _arrange(values: np.ndarray[Any, Any], spec: ChipSpec) -> np.ndarray[Any, Any]:
    """Return the values of a chunk as (band, y, x)."""
    height, width = spec.tile
    if spec.interleaved:
        return values.reshape(height, width, spec.bands).transpose(2, 0, 1)
    if spec.delta:
        values = np.cumsum(values, dtype=values.dtype)
        values.flags.writeable = False
    return values.reshape(spec.bands, height, width)


def _decode_chunk(chunk: bytes, spec: ChipSpec, where: str) -> bytes:
    import google_crc32c

    body, crc = chunk[:-CRC_BYTES], chunk[-CRC_BYTES:]
    if google_crc32c.value(body).to_bytes(CRC_BYTES, "little") != crc:
        raise StoreError("pixels are damaged: the chunk's checksum does not fit", where=where)
    wanted = int(np.prod(spec.chunk_shape)) * spec.itemsize
    raw = _decompress(body, spec, wanted, where)
    if len(raw) != wanted:
        raise StoreError(f"pixels are damaged: a chunk of {len(raw)} bytes instead of {wanted}", where=where)
    return raw


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
    index_bytes = slots * 2 * ENTRY.itemsize
    size = objects.size(key)
    if size is None or size < index_bytes + CRC_BYTES:
        raise StoreError("the shard is absent" if size is None else "the shard is too short", where=where)
    body_bytes = size - index_bytes - CRC_BYTES
    tail = objects.read(key, body_bytes, index_bytes + CRC_BYTES)
    raw, crc = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
    if google_crc32c.value(raw).to_bytes(CRC_BYTES, "little") != crc:
        raise StoreError("the shard's index is damaged: its checksum does not fit", where=where)
    index = np.frombuffer(raw, ENTRY).reshape(-1, 2)
    used = int((index != MISSING).all(1).sum())
    offsets, lengths = index[:used, 0], index[:used, 1]
    ends = np.cumsum(lengths, dtype="u8")
    inside = (index[:used] <= body_bytes).all()  # or else the sum may have wrapped around
    gapless = np.array_equal(np.append(offsets, np.uint64(body_bytes)), np.append(np.uint64(0), ends))
    if not (inside and gapless) or not (index[used:] == MISSING).all():
        raise StoreError("the shard's index is damaged: its chunks are not one behind the other", where=where)
    return index[:used].copy()
