"""Child processes that serve one function of ours.

They are started as a new interpreter: neither forked, which threads forbid, nor by importing the caller's main module.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, cast

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_START: Final = """
import gc, pickle, sys
gc.set_threshold(50_000)
sys.path[:] = pickle.load(sys.stdin.buffer)
serve, args = pickle.load(sys.stdin.buffer)
serve(*args)
"""  # many objects come and go, and few cycles: the default would search for them all the time
_FIRST_FREE: Final = 3
_SETTINGS: Final = {
    # glibc keeps the memory of buffers that come and go, instead of asking the system for new pages each time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    # NumPy starts no threads that nobody here needs: they are a third of the time that its import takes.
    "OPENBLAS_NUM_THREADS": "1",
}
_LENGTH: Final = struct.Struct("<Q")


def start(serve: Callable[..., None], *args: Any, keep: Sequence[int], leads: bool = False) -> subprocess.Popen[bytes]:
    """Start a process that calls ``serve(*keep, *args)``, a function of a module, and nothing else.

    ``keep`` are descriptors that stay open in it; they may have other numbers there. Its standard input is a pipe that
    is the function's to read; whatever it prints goes nowhere. ``leads``: it and what it starts are a group of their
    own, which can be ended at once.

    Raises
    ------
    StoreError
        When it cannot be started.
    """
    # Not -c alone: that would put the current directory, which may be a stranger's, in front of all modules.
    command = [sys.executable, "-P", "-c", _START]
    given: list[int] = []
    try:
        # Where this process was started without standard streams, a descriptor may have the number of one of them.
        given += [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for descriptor in keep]
        process = subprocess.Popen(  # noqa: S603 - our own code
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=given,
            env={**os.environ, **_SETTINGS},
            process_group=0 if leads else None,
        )
    except OSError as error:
        raise not_started(str(error.strerror)) from error
    finally:
        for descriptor in given:
            os.close(descriptor)
    stream = cast("IO[bytes]", process.stdin)
    with suppress(BrokenPipeError):  # it died at once: whoever waits for it finds out
        stream.write(pickle.dumps(sys.path) + pickle.dumps((serve, (*given, *args))))
        stream.flush()
    return process


def not_started(why: str) -> StoreError:
    """Say that a process could not be started."""
    message = f"a process that this one needs cannot be started: {why}"
    return StoreError(message, where=sys.executable, hint="check the limits on processes and memory")


def send(stream: IO[bytes], body: bytes) -> None:
    """Write a message, pickled, for `receive`."""
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read the next message of a process of ours; None where there is none, or only a part of it."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return pickle.loads(body) if len(body) == length else None  # noqa: S301 - our own code wrote it
