"""Gzip streams (RFC 1952), written on every core."""

from __future__ import annotations

import struct
from collections import deque
from typing import IO, TYPE_CHECKING, Final, Self

from isal import isal_zlib

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from types import TracebackType

_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no flags, no time, unknown system
_FINAL_BLOCK: Final = b"\x03\x00"  # deflate: empty, and marked as the last


class ParallelGzipWriter:
    """Compress to one gzip member, its blocks deflated side by side on an executor.

    The bytes depend on the data, ``level`` and ``block_bytes`` only, never on the executor or on the sizes of the
    writes. It is one member, so that readers which stop after the first one read everything.

    Parameters
    ----------
    sink : file
        Receives the compressed bytes in order; it is not closed here.
    executor : concurrent.futures.Executor
        Threads or processes; it is not shut down here.
    level : int
        ISA-L level, 0 (fastest) to 3 (smallest).
    block_bytes : int
        Bytes compressed independently of all others.
    max_pending : int
        Blocks in flight before ``write`` waits: bounds the memory.
    """

    def __init__(
        self, sink: IO[bytes], executor: Executor, *, level: int = 3, block_bytes: int = 1 << 20, max_pending: int = 8
    ) -> None:
        self._sink = sink
        self._executor = executor
        self._level = level
        self._block_bytes = block_bytes
        self._max_pending = max_pending
        self._block = bytearray()
        self._pending: deque[Future[bytes]] = deque()
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
        view = memoryview(data).cast("B")
        self._crc = isal_zlib.crc32(view, self._crc)
        self._size += len(view)
        while view:
            room = self._block_bytes - len(self._block)
            self._block += view[:room]
            view = view[room:]
            if len(self._block) == self._block_bytes:
                self._submit()

    def close(self) -> None:
        """Write what is pending and the end of the member; the sink stays open. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._block:
            self._submit()
        while self._pending:
            self._sink.write(self._pending.popleft().result())
        self._sink.write(_FINAL_BLOCK + struct.pack("<LL", self._crc, self._size % (1 << 32)))

    def _submit(self) -> None:
        if len(self._pending) == self._max_pending:
            self._sink.write(self._pending.popleft().result())
        self._pending.append(self._executor.submit(_deflate, bytes(self._block), self._level))
        self._block.clear()


def _deflate(block: bytes, level: int) -> bytes:
    """Deflate a block so that it ends at a byte boundary and nothing after it looks back into it."""
    deflater = isal_zlib.compressobj(level, wbits=-isal_zlib.MAX_WBITS)
    return deflater.compress(block) + deflater.flush(isal_zlib.Z_FULL_FLUSH)
