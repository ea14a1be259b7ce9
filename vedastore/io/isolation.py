"""Calls in processes of their own: a codec that crashes, hangs or eats memory does it where nothing is lost.

Native decoders meet bytes from strangers, and no check in front of them finds every way to break them. Most run in
child processes that hold nothing but the one call. A child that dies is a named error; the next call has a new one.
Children are kept for further calls, one for each thread that calls at a time, and end with this process.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from vedastore.errors import ImageError, StoreError
from vedastore.io.processes import not_started, receive, send, start

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.model import Limits

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

BASE_BYTES: Final = 2 * 2**30
"""Address space of a child besides what a call needs: libraries, their threads' stacks and arenas."""
_COPIES: Final = 8
"""How often an image may be in memory while it is decoded, encoded again, and compared."""
_PATIENCE: Final = 10
"""How many times its processor time a call may last: a machine may be busy, a codec may wait for ever."""
_LEAVE_SECONDS: Final = 2
_M_PERTURB: Final = -6  # of malloc.h
_HINT: Final = "nothing else was harmed; leave the sample out with --on-error=skip"

_lock = threading.Lock()
_idle: list[_Child] = []
_all: weakref.WeakSet[_Child] = weakref.WeakSet()
_forgotten: list[_Child] = []
_inside = False
"""True where calls are plain calls."""


def call(
    cpu_seconds: int,
    memory_bytes: int,
    function: Callable[Parameters, Result],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Result:
    """Return ``function(*args, **kwargs)``, computed in a child process.

    Parameters
    ----------
    cpu_seconds : int
        Processor time after which the call is ended.
    memory_bytes : int
        What the call may allocate.
    function
        Of a module; it and its arguments, its result and its errors are pickled.

    Raises
    ------
    ImageError
        When the child dies of the call, or takes longer than it may.
    StoreError
        When no child can be started.
    Exception
        Whatever the function raises.
    """
    if _inside:
        return function(*args, **kwargs)
    child = _take_idle() or _Child()
    try:
        ok, value = child.call((cpu_seconds, memory_bytes, function, args, kwargs), _PATIENCE * cpu_seconds)
    except BaseException:
        child.kill()
        raise
    with _lock:
        _idle.append(child)
    if ok:
        return cast("Result", value)
    raise value


def with_codecs(
    limits: Limits, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Make a call that decodes one or two images within the limits on time and size."""
    return call(limits.image_seconds, _COPIES * limits.image_bytes, function, *args, **kwargs)


def _take_idle() -> _Child | None:
    """Take a child that waits for a call; one that died meanwhile, as the system may kill any process, is let go."""
    while True:
        with _lock:
            child = _idle.pop() if _idle else None
        if child is None or child.alive:
            return child
        child.kill()


class _Child:
    """One child process, seen from its parent."""

    def __init__(self) -> None:
        replies, reply_end = os.pipe()
        self._replies = os.fdopen(replies, "rb")
        try:
            self._process = start(serve, keep=[reply_end])
        except StoreError:
            self._replies.close()
            raise
        finally:
            os.close(reply_end)
        _all.add(self)
        if receive(self._replies) is None:
            code = self._process.wait()
            raise not_started(f"it ended with exit code {code}")

    @property
    def alive(self) -> bool:
        """Whether it can take a call."""
        return self._process.poll() is None

    def call(self, request: tuple[Any, ...], seconds: int) -> tuple[bool, Any]:
        """Send a call; return whether it succeeded, with its result or its error."""
        try:
            send(cast("IO[bytes]", self._process.stdin), pickle.dumps(request, protocol=5))
        except BrokenPipeError:
            raise self._death() from None
        waiting = select.poll()
        waiting.register(self._replies, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            raise _too_long()
        reply = receive(self._replies)
        if reply is None:
            raise self._death()
        return cast("tuple[bool, Any]", reply)

    def _death(self) -> ImageError:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGXCPU:
            return _too_long()
        return ImageError(f"the codec that decodes it crashed ({name})", hint=_HINT, rule="image-crash")

    def close(self) -> None:
        """Let the child end by itself, if it does so soon: a process that was forked may hold its input open."""
        cast("IO[bytes]", self._process.stdin).close()
        try:
            self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()

    def kill(self) -> None:
        """End the child, whatever it does."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            cast("IO[bytes]", self._process.stdin).close()
        self._replies.close()

    def forget(self) -> None:
        """Leave the child to the process that started it: this one was forked from it, perhaps in the middle of a call.

        The pipes' ends become ends of nothing; their buffers may be locked for ever by a thread that is not here.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (cast("IO[bytes]", self._process.stdin), self._replies):
            os.dup2(nothing, stream.fileno(), inheritable=False)
        os.close(nothing)
        self._process.returncode = 0
        _forgotten.append(self)


def _too_long() -> ImageError:
    hint = "--limit image_seconds=N gives it more time, if you trust the file"
    return ImageError("decoding it takes too long", hint=hint, rule="image-crash")


def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def _forget_idle() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when this process was forked
    _lock = threading.Lock()
    _idle.clear()
    for child in list(_all):
        child.forget()
    _all.clear()


atexit.register(_close_idle)
os.register_at_fork(after_in_child=_forget_idle)


# ------------------------------------------------------------------------------------------------------- in the child


def risk_this_process() -> None:
    """Make calls plain ones from now on: this process is the one that may crash."""
    global _inside  # noqa: PLW0603 - said once, at the start of a process
    _inside = True


def fill_new_memory(byte: int) -> None:
    """Have new memory begin with a byte, where the C library can: what is read without being written tells itself so.

    0 turns it off. Only for a process that does nothing else.
    """
    import ctypes

    with suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(_M_PERTURB, byte)


def serve(replies: int) -> None:
    """Answer calls from standard input on a descriptor until it ends; whatever libraries print goes nowhere."""
    import resource

    risk_this_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, os.fdopen(replies, "wb")
    send(sink, pickle.dumps(True))  # it is there
    while (request := receive(source)) is not None:
        cpu_seconds, memory_bytes, function, args, kwargs = request
        del request
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds)
        _limit(resource.RLIMIT_AS, BASE_BYTES + memory_bytes)
        reply = _answer(function, args, kwargs)
        del args, kwargs
        send(sink, reply)


def _limit(what: int, soft: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps((True, function(*args, **kwargs)), protocol=5)
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        return pickle.dumps((False, error), protocol=5)
