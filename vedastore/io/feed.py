"""An object of S3 as a file with a descriptor: it is read in pieces side by side, and passes through a pipe."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import IO, TYPE_CHECKING, Final

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vedastore.io.s3 import S3

_PIECE_BYTES: Final = 4 * 2**20
_PIECES: Final = 4
"""Pieces that are there or under way."""


class Feed:
    """A context manager that gives the file; after it has been read, `failure` tells why it ended too early."""

    def __init__(self, s3: S3, key: str, size_bytes: int, tag: str) -> None:
        self.failure: StoreError | None = None
        self._s3, self._key, self._size_bytes, self._tag = s3, key, size_bytes, tag
        reader, self._sink = os.pipe()
        self._file = os.fdopen(reader, "rb", buffering=0)
        self._thread = Thread(target=self._run, name="vedastore-feed", daemon=True)

    def __enter__(self) -> IO[bytes]:
        self._thread.start()
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()  # the thread writes to nobody then, and ends
        self._thread.join()

    def _run(self) -> None:
        pending: deque[Future[tuple[bytes, str]]] = deque()
        with ThreadPoolExecutor(_PIECES, thread_name_prefix="vedastore-read") as threads:
            try:
                for start in range(0, self._size_bytes, _PIECE_BYTES):
                    length = min(_PIECE_BYTES, self._size_bytes - start)
                    pending.append(threads.submit(self._s3.get, self._key, start, length, self._tag))
                    if len(pending) == _PIECES:
                        self._pass_on(pending.popleft().result()[0])
                while pending:
                    self._pass_on(pending.popleft().result()[0])
            except StoreError as error:
                self.failure = error
            except BrokenPipeError:  # nobody reads any more
                pass
            finally:
                for future in pending:
                    future.cancel()
                os.close(self._sink)

    def _pass_on(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._sink, left) :]
