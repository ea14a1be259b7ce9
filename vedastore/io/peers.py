"""A process of its own that answers calls, several of which may be under way; its answers come as futures."""

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

from vedastore.errors import StoreError
from vedastore.io.processes import receive, send, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIPE_BYTES: Final = 2**20
"""Calls that wait for their turn: whoever makes one shall not wait for the one before it."""
_HINT: Final = "its memory may have run out; run this again, perhaps with one worker"


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
    StoreError
        When the process cannot be started.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *args: Any, keep: Sequence[int] = ()) -> None:
        replies, reply_end = os.pipe()
        self._replies = os.fdopen(replies, "rb")
        try:
            self._process = start(_serve, make, args, keep=(reply_end, *keep))
        except BaseException:
            self._replies.close()
            raise
        finally:
            os.close(reply_end)
        self._calls = cast("IO[bytes]", self._process.stdin)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # a user may have only so much for pipes
                fcntl.fcntl(self._calls, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._lock = threading.Lock()
        self._dead = False
        self._count = 0
        self._ready: Future[None] = Future()
        self._pending: dict[int, Future[Any]] = {0: self._ready}
        self._listener = threading.Thread(target=self._listen, name="vedastore-peer", daemon=True)
        self._listener.start()

    @property
    def is_ready(self) -> bool:
        """Whether it is there; a StoreError where it has died on the way."""
        if self._ready.done():
            self._ready.result()
            return True
        return False

    @property
    def pending(self) -> int:
        """How many calls are under way."""
        return len(self._pending)

    def submit(self, *args: Any) -> Future[Any]:
        """Make a call.

        The future raises what the function raised, and a StoreError where the process has died.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._dead:
                future.set_exception(self._death())
                return future
            self._count += 1
            call = pickle.dumps((self._count, args), protocol=5)
            self._pending[self._count] = future
            with suppress(BrokenPipeError):  # who listens finds out
                send(self._calls, call)
        return future

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._listener.join()
        with suppress(BrokenPipeError):
            self._calls.close()

    def _listen(self) -> None:
        """Pass every answer on, until the process ends, or says what cannot be read."""
        failure: Exception | None = None
        try:
            while (answer := receive(self._replies)) is not None:
                number, is_good, value = answer
                future = self._pending.pop(number)
                if is_good:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        except Exception as error:  # noqa: BLE001 - whoever waits for an answer raises it
            failure = error
            self._process.kill()
        self._replies.close()
        self._process.wait()
        with self._lock:
            self._dead = True
        for future in self._pending.values():
            future.set_exception(failure or self._death())

    def _death(self) -> StoreError:
        code = self._process.wait()
        told = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return StoreError(f"a process that worked for this one ended early ({told})", where=sys.executable, hint=_HINT)


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
