"""Child processes that serve one function of ours.

They are started as a new interpreter: neither forked, which threads forbid, nor by importing the caller's main module.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, cast

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_START: Final = "import sys, pickle; sys.path[:] = pickle.load(sys.stdin.buffer); serve, args = \
pickle.load(sys.stdin.buffer); serve(*args)"
_FIRST_FREE: Final = 3
_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}
"""Tells glibc to keep the memory of buffers that come and go, instead of asking the system for new pages each time."""


def start(serve: Callable[..., None], *args: Any, keep: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process that calls ``serve(*keep, *args)``, a function of a module, and nothing else.

    ``keep`` are descriptors that stay open in it; they may have other numbers there. Its standard input is a pipe that
    is the function's to read; whatever it prints goes nowhere.

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
            env={**os.environ, **_ALLOCATOR},
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
