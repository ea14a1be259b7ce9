"""Calls in processes of their own: a codec that crashes, hangs or eats memory does it where nothing is lost.

Native decoders meet bytes from strangers, and no check in front of them finds every way to break them. They run in
child processes that hold nothing but the one call. A child that dies is a named error; the next call has a new one.
Children are kept for further calls, one for each thread that calls at a time, and end with this process. They are
started as a new interpreter: neither forked, which threads forbid, nor by importing the caller's main module.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from vedastore.errors import ImageError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.model import Limits

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

BASE_BYTES: Final = 2 * 2**30
"""Address space of a child besides what a call needs: libraries, their threads' stacks and arenas."""
_COPIES: Final = 8
"""How often an image may be in memory while it is decoded, encoded again, and compared."""
_LENGTH: Final = struct.Struct("<Q")
_START: Final = "import sys; from pickle import load; sys.path[:] = load(sys.stdin.buffer); \
from vedastore.io.isolation import serve; serve()"
_HINT: Final = "nothing else was harmed; leave the sample out with --on-error=skip"

_lock = threading.Lock()
_idle: list[_Child] = []
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
    with _lock:
        child = _idle.pop() if _idle else None
    child = child or _Child()
    try:
        ok, value = child.call((cpu_seconds, memory_bytes, function, args, kwargs))
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


class _Child:
    """One child process, seen from its parent."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            self._process = subprocess.Popen([sys.executable, "-c", _START], **pipes)  # type: ignore[call-overload]  # noqa: S603
        except OSError as error:
            message = f"the process that decodes images cannot be started: {error.strerror}"
            raise StoreError(message, where=sys.executable, hint="check the limits on processes and memory") from error
        self._write(pickle.dumps(sys.path))

    def call(self, request: tuple[Any, ...]) -> tuple[bool, Any]:
        """Send a call; return whether it succeeded, with its result or its error."""
        body = pickle.dumps(request, protocol=5)
        self._write(_LENGTH.pack(len(body)), body)
        reply = _receive(cast("IO[bytes]", self._process.stdout))
        if reply is None:
            raise self._death()
        return cast("tuple[bool, Any]", pickle.loads(reply))  # noqa: S301 - our own code wrote it

    def _write(self, *parts: bytes) -> None:
        stream = cast("IO[bytes]", self._process.stdin)
        try:
            for part in parts:
                stream.write(part)
            stream.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _death(self) -> ImageError:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGXCPU:
            hint = "--limit image_seconds=N gives it more time, if you trust the file"
            return ImageError("decoding it takes too long", hint=hint, rule="image-crash")
        return ImageError(f"the codec that decodes it crashed ({name})", hint=_HINT, rule="image-crash")

    def close(self) -> None:
        """Let the child end by itself."""
        cast("IO[bytes]", self._process.stdin).close()
        self._process.wait()
        cast("IO[bytes]", self._process.stdout).close()

    def kill(self) -> None:
        """End the child, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def forget(self) -> None:
        """Leave the child to the process that started it: this one was forked from it."""
        for stream in (self._process.stdin, self._process.stdout):
            cast("IO[bytes]", stream).close()  # an idle child's pipes are empty: nothing is flushed
        self._process.returncode = 0


def _receive(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def _forget_idle() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when this process was forked
    _lock = threading.Lock()
    while _idle:
        _idle.pop().forget()


atexit.register(_close_idle)
os.register_at_fork(after_in_child=_forget_idle)


# ------------------------------------------------------------------------------------------------------- in the child


def risk_this_process() -> None:
    """Make calls plain ones from now on: this process is the one that may crash."""
    global _inside  # noqa: PLW0603 - said once, at the start of a process
    _inside = True


def serve() -> None:
    """Answer calls from standard input until it ends; whatever libraries print goes nowhere."""
    import resource

    risk_this_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (request := _receive(source)) is not None:
        cpu_seconds, memory_bytes, function, args, kwargs = pickle.loads(request)  # noqa: S301 - our own code wrote it
        del request
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds)
        _limit(resource.RLIMIT_AS, BASE_BYTES + memory_bytes)
        reply = _answer(function, args, kwargs)
        del args, kwargs
        sink.write(_LENGTH.pack(len(reply)))
        sink.write(reply)
        sink.flush()


def _limit(what: int, soft: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps((True, function(*args, **kwargs)), protocol=5)
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        return pickle.dumps((False, error), protocol=5)
