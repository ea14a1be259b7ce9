"""A process of its own that answers calls, several of which may be under way; its answers come as futures.

It keeps nothing between calls, so that whatever it was asked when it ended can be asked of somebody else.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, cast

from vedastore.io.processes import receive, send, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIPE_BYTES: Final = 2**20
"""Calls that wait for their turn: whoever makes one shall not wait for the one before it."""
_ends: set[int] = set()
"""Ends of pipes that a process which is forked from this one must not keep open."""


class GoneError(Exception):
    """The process has ended before it answered, or has answered what cannot be read."""


class Peer:
    """A process that calls what ``make(*args)`` returns, once for each call, in the order of the calls.

    It ends with `close`, or with this process.

    Parameters
    ----------
    make : callable
        A function of a module; it, its arguments, and all that is asked and answered are pickled.
    keep : sequence of int
        Descriptors that stay open in the process; there, ``make`` is given their new numbers first.

    Raises
    ------
    StoreError, OSError, RuntimeError
        When the process, or what this one needs for it, cannot be had.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *args: Any, keep: Sequence[int] = ()) -> None:
        replies, reply_end = os.pipe()
        _ends.update((replies, reply_end))
        self._replies = os.fdopen(replies, "rb")
        try:
            self._process = start(_serve, make, args, keep=(reply_end, *keep), leads=True)
        except BaseException:
            self._close_replies()
            raise
        finally:
            os.close(reply_end)
            _ends.discard(reply_end)
        self._calls = cast("IO[bytes]", self._process.stdin)
        _ends.add(self._calls.fileno())
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # a user may have only so much for pipes
                fcntl.fcntl(self._calls, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._lock = threading.Lock()
        self._gone = False
        self._count = 0
        self._ready: Future[None] = Future()
        self._pending: dict[int, Future[Any]] = {0: self._ready}
        self._listener = threading.Thread(target=self._listen, name="vedastore-peer", daemon=True)
        try:
            self._listener.start()
        except RuntimeError:
            self._process.kill()
            self._process.wait()
            self._close_replies()
            self._close_calls()
            raise

    @property
    def is_ready(self) -> bool:
        """Whether it is there: not before it can take calls, and not when it has ended."""
        return self._ready.done() and not self._gone

    @property
    def pending(self) -> int:
        """How many calls are under way."""
        return len(self._pending)

    def submit(self, *args: Any) -> Future[Any]:
        """Make a call.

        The future raises what the function raised, and a GoneError where there is no answer.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._gone:
                future.set_exception(GoneError())
                return future
            self._count += 1
            call = pickle.dumps((self._count, args), protocol=5)
            self._pending[self._count] = future
            with suppress(BrokenPipeError):  # who listens finds out
                send(self._calls, call)
        return future

    def close(self) -> None:
        """End the process and its own, whatever they do."""
        if self._process.returncode is None:  # else its number may be another one's
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._listener.join()
        self._close_calls()

    def _listen(self) -> None:
        """Pass every answer on, until the process ends, or says what cannot be read."""
        with suppress(Exception):  # whatever it is, the calls that have no answer say so
            while (answer := receive(self._replies)) is not None:
                number, is_good, value = answer
                future = self._pending.pop(number)
                if is_good:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        self._process.kill()
        self._close_replies()
        with self._lock:
            self._gone = True
        for future in self._pending.values():
            future.set_exception(GoneError())

    def _close_replies(self) -> None:
        _ends.discard(self._replies.fileno())
        self._replies.close()

    def _close_calls(self) -> None:
        if not self._calls.closed:
            _ends.discard(self._calls.fileno())
            with suppress(BrokenPipeError):
                self._calls.close()
            self._process.wait()


def _forget() -> None:
    """Let go of all pipes: this process was forked. Their numbers stay taken until the objects here are collected."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for end in _ends:
        os.dup2(nothing, end, inheritable=False)
    os.close(nothing)
    _ends.clear()


os.register_at_fork(after_in_child=_forget)


# ------------------------------------------------------------------------------------------------------ in the process


def _serve(replies: int, *told: Any) -> None:
    """Answer calls from standard input until it ends."""
    *descriptors, make, args = told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(replies, "wb") as sink:
        answer = make(*descriptors, *args)
        send(sink, pickle.dumps((0, True, None)))
        while (call := receive(sys.stdin.buffer)) is not None:
            number, given = call
            try:
                reply = pickle.dumps((number, True, answer(*given)), protocol=5)
            except Exception as error:  # noqa: BLE001 - who asked raises it again
                reply = pickle.dumps((number, False, error), protocol=5)
            send(sink, reply)
