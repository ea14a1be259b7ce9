"""Gzip streams (RFC 1952), written on every core, or in sections on many machines."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Final, Self

from isal import isal_zlib

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future
    from types import TracebackType

_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no flags, no time, unknown system
_FINAL_BLOCK: Final = b"\x03\x00"  # deflate: empty, and marked as the last
LEVELS: Final = range(1, 10)
BLOCK_BYTES: Final = 2**20
DEFAULT_LEVEL: Final = 2
_ISAL_LEVELS: Final = (1, 2)
_SMALL_BLOCKS: Final = 2
"""What ISA-L calls memory decides how often it makes new Huffman codes: for imagery, often is 2 % smaller, as fast."""


class ParallelGzipWriter:
    """Compress to one gzip member, its blocks deflated side by side on an executor.

    The bytes depend on the data, ``level``, ``block_bytes`` and where `cut` is called, never on the executor or on the
    sizes of the writes. It is one member, so that readers which stop after the first one read everything. Each byte is
    copied once, into its block.

    Parameters
    ----------
    sink : file
        Receives the compressed bytes in order; it is not closed here.
    executor : concurrent.futures.Executor
        Threads or processes; it is not shut down here.
    level : int
        1 and 2 are ISA-L's, 3 to 9 those of zlib, a tenth as fast.
    block_bytes : int
        Bytes compressed independently of all others.
    max_pending : int
        Blocks in flight before ``write`` waits: bounds the memory.
    """

    def __init__(
        self,
        sink: IO[bytes],
        executor: Executor,
        *,
        level: int = DEFAULT_LEVEL,
        block_bytes: int = BLOCK_BYTES,
        max_pending: int = 8,
    ) -> None:
        self._sink = sink
        self._executor = executor
        self._level = level
        self._max_pending = max_pending
        self._blocks = _Blocks(self._submit, block_bytes)
        self._pending: deque[Future[tuple[bytes, int, int]]] = deque()
        self._crc = 0
        self._size = 0
        self._closed = False
        sink.write(_HEADER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # what was written stays without its end, so that nobody takes it for whole
            self._closed = True
            while self._pending:
                self._pending.pop().cancel()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; waits while ``max_pending`` blocks are in flight."""
        if self._closed:
            raise ValueError("write to a closed ParallelGzipWriter")
        self._blocks.write(data)

    def cut(self) -> None:
        """End the block: what follows is compressed as if nothing had been written before."""
        self._blocks.cut()

    def adopt(self, deflated: Any, crc: int, size: int) -> None:
        """Append what a `SectionDeflater` has made of ``size`` bytes, or what stands for it to the sink."""
        self.cut()
        while self._pending:
            self._drain()
        self._put(deflated, crc, size)

    def close(self) -> None:
        """Write what is pending and the end of the member; the sink stays open. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.cut()
        while self._pending:
            self._drain()
        self._sink.write(_FINAL_BLOCK + struct.pack("<LL", self._crc, self._size % (1 << 32)))

    def _submit(self, block: bytes) -> None:
        if len(self._pending) == self._max_pending:
            self._drain()
        self._pending.append(self._executor.submit(_deflate, block, self._level))

    def _drain(self) -> None:
        self._put(*self._pending.popleft().result())

    def _put(self, deflated: Any, crc: int, size: int) -> None:
        self._sink.write(deflated)
        self._crc = isal_zlib.crc32_combine(self._crc, crc, size)
        self._size += size


class SectionDeflater:
    """Compress what a gzip member has between two cuts, wherever it will stand in it."""

    def __init__(self, level: int = DEFAULT_LEVEL, block_bytes: int = BLOCK_BYTES) -> None:
        self._level = level
        self._blocks = _Blocks(self._add, block_bytes)
        self._deflated: list[bytes] = []
        self._crc = 0
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self._blocks.write(data)

    def finish(self) -> tuple[bytes, int, int]:
        """Return the compressed bytes, and the CRC and the number of what was written."""
        self._blocks.cut()
        return b"".join(self._deflated), self._crc, self._size

    def _add(self, block: bytes) -> None:
        deflated, crc, size = _deflate(block, self._level)
        self._deflated.append(deflated)
        self._crc = isal_zlib.crc32_combine(self._crc, crc, size)
        self._size += size


class _Blocks:
    """Divides what is written into blocks of one size; those in front of a cut may be shorter."""

    def __init__(self, emit: Callable[[bytes], None], block_bytes: int) -> None:
        self._emit, self._block_bytes = emit, block_bytes
        self._parts: list[memoryview] = []
        self._room = block_bytes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        # It is kept until its block is full.
        view = memoryview(data if isinstance(data, bytes) else bytes(memoryview(data)))
        while view:
            part, view = view[: self._room], view[self._room :]
            self._parts.append(part)
            self._room -= len(part)
            if not self._room:
                self.cut()

    def cut(self) -> None:
        if self._parts:
            self._emit(b"".join(self._parts))
            self._parts.clear()
            self._room = self._block_bytes


def _deflate(block: bytes, level: int) -> tuple[bytes, int, int]:
    """Deflate a block so that it ends at a byte boundary and nothing after it looks back; with its CRC and size."""
    if level in _ISAL_LEVELS:
        fast = isal_zlib.compressobj(level, wbits=-isal_zlib.MAX_WBITS, memLevel=_SMALL_BLOCKS)
        deflated = fast.compress(block) + fast.flush(isal_zlib.Z_FULL_FLUSH)
    else:
        slow = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
        deflated = slow.compress(block) + slow.flush(zlib.Z_FULL_FLUSH)
    return deflated, isal_zlib.crc32(block), len(block)
