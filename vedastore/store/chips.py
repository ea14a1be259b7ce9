"""Chips out of shards: ranged reads, and one decompression a chip into its place; see `shards` for the format.

Nothing here is locked and no file stays open, so readers are as sound in a forked process as in any thread.
"""

from __future__ import annotations

import math
import threading
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import GONE_HINT, StoreError
from vedastore.spec import keys
from vedastore.store.shards import CRC_BYTES, ENTRY, MISSING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.io.objects import Objects
    from vedastore.spec.arrays import ChipSpec

ENTRIES_KEPT: Final = 2**22
"""Inner chunks whose places a reader remembers; 16 bytes each."""
Array = np.ndarray[Any, Any]
Index = np.ndarray[Any, np.dtype[np.uint64]]
_CRC_OF_SEALED: Final = 0x48674BC7
"""The crc32c of any bytes that end in their own crc32c."""
_GROWTH_SHARE, _GROWTH_BYTES = 64, 1024
"""No codec makes more of a chunk than the chunk, this part of it, and these bytes: pixels that do not shrink stay."""
_decompressors = threading.local()


def decode_chip(chunks: Sequence[bytes], spec: ChipSpec, where: str) -> Array:
    """Return the chip (band, y, x) of its inner chunks; the array is read-only.

    Raises
    ------
    StoreError
        When a chunk's checksum does not fit, it does not decode to a chunk's bytes, or there is no memory for the chip.
    """
    chip: Array = allocate(spec, 1, where)[0]
    _decode_into(chip, chunks, spec, where)
    chip.flags.writeable = False
    return chip


def allocate(spec: ChipSpec, count: int, where: str) -> Array:
    """Return room for chips, (sample, band, y, x): in memory as in the chunks, with bands last where they are there.

    Raises
    ------
    StoreError
        When there is no memory for it.
    """
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    try:
        if spec.interleaved:
            chips: Array = np.empty((count, spec.height, spec.width, spec.bands), dtype).transpose(0, 3, 1, 2)
        else:
            chips = np.empty((count, *spec.shape), dtype)
    except (MemoryError, ValueError):  # ValueError: more than an address can tell
        told = f"{count} of {spec.bands} x {spec.height} x {spec.width} {spec.dtype}"
        hint = "take fewer at a time, or a larger machine, if you trust the store"
        raise StoreError(f"there is no memory for chips: {told}", where=where, hint=hint) from None
    return chips


def _decode_into(chip: Array, chunks: Sequence[bytes], spec: ChipSpec, where: str) -> None:
    """Decode the inner chunks of one chip into its place (band, y, x)."""
    if len(chunks) == 1:
        _decode_chunk(chunks[0], _flat(chip, spec), spec, where)
        return
    (height, width), (rows, columns) = spec.tile, spec.tiles
    tile = np.empty(spec.chunk_shape[1:], chip.dtype)
    if spec.interleaved:
        tile = tile.reshape(height, width, spec.bands).transpose(2, 0, 1)
    for (row, column), chunk in zip(product(range(rows), range(columns)), chunks, strict=True):
        _decode_chunk(chunk, _flat(tile, spec), spec, where)
        place = chip[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        place[:] = tile[:, : place.shape[1], : place.shape[2]]


def _flat(pixels: Array, spec: ChipSpec) -> Array:
    """Return the bytes of pixels (band, y, x) in the order of a chunk; a view."""
    return (pixels.transpose(1, 2, 0) if spec.interleaved else pixels).reshape(-1).view("u1")


def check_chunk(chunk: bytes, where: str) -> None:
    """Refuse a chunk whose checksum does not fit."""
    import google_crc32c

    if google_crc32c.value(chunk) != _CRC_OF_SEALED:  # holds the interpreter's lock, but a tenth as long as the rest
        raise StoreError("pixels are damaged: the chunk's checksum does not fit", where=where)


def _decode_chunk(chunk: bytes, out: Array, spec: ChipSpec, where: str) -> None:
    check_chunk(chunk, where)
    decompress = _decompress_zstd if spec.compressor["name"] == "zstd" else _decompress_blosc
    length = decompress(memoryview(chunk)[:-CRC_BYTES], out, where)
    if length != len(out):
        raise StoreError(f"pixels are damaged: a chunk of {length} bytes instead of {len(out)}", where=where)
    if spec.delta:
        import imagecodecs

        imagecodecs.delta_decode(out, out=out)


def _decompress_zstd(body: memoryview, out: Array, where: str) -> int:
    import zstandard

    if not hasattr(_decompressors, "zstd"):
        _decompressors.zstd = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(body) != len(out):
            raise StoreError("pixels are damaged: the chunk's header does not fit", where=where)
        length: int = _decompressors.zstd.stream_reader(body).readinto(out)
    except zstandard.ZstdError as error:
        raise StoreError(f"pixels are damaged: {error}", where=where) from None
    return length


def _decompress_blosc(body: Any, out: Any, where: str) -> int:
    import imagecodecs

    # blosc's header: raw size at 4, compressed size at 12; both are trusted by what follows.
    if len(body) < 16 or [int.from_bytes(body[i : i + 4], "little") for i in (4, 12)] != [len(out), len(body)]:  # noqa: PLR2004
        raise StoreError("pixels are damaged: the chunk's header does not fit", where=where)
    try:
        return len(imagecodecs.blosc_decode(body, numthreads=1, out=out))
    except imagecodecs.BloscError as error:
        raise StoreError(f"pixels are damaged: {error}", where=where) from None


def plan_runs(rows: Array, spec: ChipSpec, run_bytes: int = 2**20) -> list[Array]:
    """Group rows for reading, each group neighbours in one shard that are read at once: so many raw bytes at most.

    Returns
    -------
    list of array
        Indices into ``rows``; those of one group in the order of the shard, where a row may occur again.

    Examples
    --------
    >>> from vedastore.spec.arrays import ChipSpec
    >>> [run.tolist() for run in plan_runs(np.array([7, 3, 8, 4, 7]), ChipSpec("uint8", 3, 256, 256))]
    [[1, 3], [0, 4, 2]]
    """
    order = np.argsort(rows, kind="stable")
    shards, ordered = rows[order] // spec.samples_per_shard, rows[order]
    breaks = np.flatnonzero((np.diff(ordered) > 1) | (np.diff(shards) > 0)) + 1
    most = max(1, run_bytes // (spec.itemsize * spec.bands * spec.height * spec.width))
    return [run[at : at + most] for run in np.split(order, breaks) for at in range(0, len(run), most)]


class ShardReader:
    """Reads chips of one bucket. Any number of threads may share it."""

    def __init__(self, objects: Objects, bucket: str, spec: ChipSpec) -> None:
        self.spec = spec
        self._objects, self._bucket = objects, bucket
        self._per_shard, self._per_sample = spec.samples_per_shard, spec.chunks_per_sample
        self._index: dict[int, Index] = {}

    def read(self, row: int) -> Array:
        """Return the chip (band, y, x) of one row; the array is read-only.

        Raises
        ------
        StoreError
            When the shard is absent, has no such row, or is damaged.
        """
        chunks = self._read_chunks(row, row)
        return decode_chip(chunks, self.spec, self._where(row))

    def read_chunks(self, row: int) -> tuple[bytes, ...]:
        """Return the inner chunks of one row, as they are stored."""
        return tuple(self._read_chunks(row, row))

    def read_rows(self, rows: Sequence[int] | Array) -> Array:
        """Return the chips (sample, band, y, x) of some rows, in their order; one ranged read for neighbours.

        In memory the bands come last where the bucket is interleaved: the array is a view then, not a copy.

        Raises
        ------
        StoreError
            When a shard is absent, has no such row, or is damaged, or there is no memory for the chips.
        """
        wanted, spec = np.asarray(rows, "i8"), self.spec
        chips = allocate(spec, len(wanted), f"{self._objects.url}: {self._bucket}")
        for run in plan_runs(wanted, spec, self._objects.run_bytes):
            first = int(wanted[run[0]])
            chunks = self._read_chunks(first, int(wanted[run[-1]]))
            for at in run.tolist():
                row = int(wanted[at])
                start = (row - first) * self._per_sample
                _decode_into(chips[at], chunks[start : start + self._per_sample], spec, self._where(row))
        return chips

    def survey(self, shard: int) -> tuple[int, int]:
        """Return how many chips a shard holds, and its bytes; its index is read where it has not been.

        Raises
        ------
        StoreError
            When the shard is absent, or its index is damaged.
        """
        entries = self._entries(shard)
        slots = self._per_shard * self._per_sample
        body_bytes = int(entries[:, 1].sum())  # they lie one behind the other
        return len(entries) // self._per_sample, body_bytes + slots * 2 * ENTRY.itemsize + CRC_BYTES

    def _where(self, row: int) -> str:
        key = keys.shard(self._bucket, row // self._per_shard)
        return f"{self._objects.url}/{key}: row {row}"

    def _read_chunks(self, first: int, last: int) -> list[bytes]:
        """Return the inner chunks of neighbouring rows of one shard, with one ranged read."""
        shard, slot = divmod(first, self._per_shard)
        per_sample, count = self._per_sample, last - first + 1
        entries = self._entries(shard)[slot * per_sample : (slot + count) * per_sample].tolist()
        if len(entries) != count * per_sample:
            raise StoreError("the shard has no such row", where=self._where(first + len(entries) // per_sample))
        lengths = [length for _, length in entries]
        return self._objects.read_parts(keys.shard(self._bucket, shard), entries[0][0], lengths)

    def _entries(self, shard: int) -> Index:
        entries = self._index.get(shard)
        if entries is None:
            entries = read_shard_index(self._objects, self._bucket, self.spec, shard)
            if len(self._index) >= ENTRIES_KEPT // (self._per_shard * self._per_sample):
                self._index = {}
            self._index[shard] = entries
        return entries


def read_shard_index(objects: Objects, bucket: str, spec: ChipSpec, shard: int) -> Index:
    """Return the (offset, length) of every inner chunk that a shard has: in order, gapless, inside, of sound length."""
    import google_crc32c

    key = keys.shard(bucket, shard)
    where = f"{objects.url}/{key}"
    slots = spec.samples_per_shard * spec.chunks_per_sample
    index_bytes = slots * 2 * ENTRY.itemsize
    size = objects.size(key)
    if size is None:
        raise StoreError("the shard is absent", where=where, hint=GONE_HINT)
    if size < index_bytes + CRC_BYTES:
        raise StoreError("the shard is too short", where=where)
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
    raw_bytes = math.prod(spec.chunk_shape) * spec.itemsize
    if (lengths > raw_bytes + raw_bytes // _GROWTH_SHARE + _GROWTH_BYTES).any():  # it would be read into memory whole
        raise StoreError("the shard's index is damaged: a chunk is longer than its pixels", where=where)
    return index[:used].copy()
