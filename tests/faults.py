"""Commands in processes of their own, whose storage fails or which are killed at one operation.

`Runner` starts a process that imports the package once; every command runs in a child that is forked from it. There
the functions of ``os`` and ``io`` that vedastore reaches storage by are wrapped: each call on a path under the watched
folder is one operation, counted from 1 and logged before it is done. One of them may fail with an error of the system,
be cut short, or be the last thing that the process does.
"""

import builtins
import errno
import fcntl
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

from vedastore.errors import VedastoreError

ROOT = Path(__file__).resolve().parents[1]
NEEDS_SPACE = frozenset({"create", "write", "fsync", "mkdir", "link", "rename", "replace"})
_WARM = (
    *("dask", "duckdb", "geopandas", "google_crc32c", "imagecodecs", "pyarrow.pandas_compat", "pyarrow.parquet"),
    *("vedastore.cli.releases", "vedastore.cli.stores", "vedastore.io.csv", "vedastore.ops.export"),
    *("vedastore.views.stores", "xarray", "xxhash", "zstandard"),
)
"""What the first process imports, so that no child has to."""
CHANGES = NEEDS_SPACE | {"truncate", "unlink", "rmdir"}


@dataclass(frozen=True)
class Fault:
    """What happens at operation ``at``.

    ``"full"``: the disk is full from then on; ``"error"``: this operation fails with EIO; ``"dead"``: it and all later
    ones do; ``"short"``: half of what is to be written is, as ``write`` may do; ``"kill"``: SIGKILL, in the middle of a
    write, and before everything else; ``"interrupt"``: SIGINT before it.
    """

    kind: str
    at: int


@dataclass(frozen=True)
class Ran:
    """What became of a command: its exit code, negative for a signal, what it said, and its operations in order."""

    code: int
    said: str
    calls: list = field(repr=False)


class Runner:
    """Runs commands, one after the other."""

    def __init__(self, folder):
        self._folder = folder
        told = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.faults"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=os.environ | told, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def run(self, arguments, watched=None, fault=None, *, journal=None, file_bytes=None, environment=None):
        """Run ``vedastore`` with some arguments, or Python code for ``-c``.

        ``journal`` names a folder that keeps a copy of every file as it was when it was synced; ``file_bytes`` limits
        the size of files.
        """
        log = self._folder / "calls"
        order = {
            "arguments": list(map(str, arguments)),
            "watched": None if watched is None else str(watched),
            "fault": None if fault is None else asdict(fault),
            "journal": None if journal is None else str(journal),
            "file_bytes": file_bytes,
            "environment": environment or {},
            "log": str(log),
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code, said = json.loads(self._process.stdout.readline())
        return Ran(code, said, [json.loads(line) for line in log.read_text().splitlines()])


# --------------------------------------------------------------------------------------------------- in the processes


def serve():
    """Run the commands that are asked for, each in a child."""
    for name in _WARM:
        import_module(name)
    if "AWS_ENDPOINT_URL" in os.environ:
        _hurry()
    for line in sys.stdin:
        told, tells = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(_run(json.loads(line), tells))
        os.close(tells)
        with os.fdopen(told, errors="backslashreplace") as said:  # until the child and its own children have ended
            answer = said.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(json.dumps((code, answer)) + "\n")
        sys.stdout.flush()


def _hurry():
    """Let S3 be given up sooner, and without pauses."""
    import s3fs

    from vedastore.io import remote

    s3fs.S3FileSystem.retries, s3fs.S3FileSystem.read_timeout, remote._PAUSE_SECONDS = 2, 1, 0


def _run(order, tells):
    from vedastore.cli import main

    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(os.devnull, flags)), (2, tells)):
        os.dup2(source, target)
    os.close(tells)
    sys.stderr = os.fdopen(2, "w", closefd=False)  # the old one takes descriptor 2 for what it was
    log = os.open(order["log"], flags | os.O_APPEND)
    os.environ.update(order["environment"])
    if order["file_bytes"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"],) * 2)
    if order["watched"] is not None and order["file_bytes"] is None:  # the log is a file, too
        _Storage(order, log).install()
    try:
        if order["arguments"][0] == "-c":
            sys.argv = order["arguments"]
            try:
                exec(order["arguments"][1], {"__name__": "__main__"})
            except VedastoreError as error:
                sys.stderr.write(f"vedastore: {error}\n")
                return error.exit_code
            except KeyboardInterrupt:
                return 130
            return 0
        return main(order["arguments"])
    except BaseException:  # noqa: BLE001 - a traceback is what the tests look for
        traceback.print_exc()
        return 70
    finally:
        with suppress(OSError):
            sys.stderr.flush()


class _Storage:
    """The functions that reach storage, wrapped."""

    def __init__(self, order, log):
        self._watched, self._journal, self._log = order["watched"], order["journal"], log
        self._fault = Fault(**order["fault"]) if order["fault"] else None
        self._number, self._lock, self._thread = 0, threading.Lock(), threading.local()
        self._lexists, self._isdir = os.path.lexists, os.path.isdir

    def install(self):
        for name in ("mkdir", "rmdir", "unlink", "stat", "lstat", "listdir", "scandir", "pread", "fsync"):
            setattr(os, name, self._wrapped(getattr(os, name), name))
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._wrapped(getattr(os, name), name, other=True))
        fcntl.flock = self._wrapped(fcntl.flock, "flock")
        os.remove, os.open = os.unlink, self._opened(os.open)
        io.open = builtins.open = self._file(io.open)

    def step(self, name, path, other=None):
        """Log an operation; do what is to happen there. True where it is to be cut short."""
        with self._lock, self._unseen():
            self._number += 1
            number, fault = self._number, self._fault
            told = {"call": name, "path": path, **({} if other is None else {"to": other})}
            if self._journal and name == "fsync" and not self._isdir(path):
                told["copy"] = f"{self._journal}/{number}"
                shutil.copyfile(path, told["copy"])
            os.write(self._log, json.dumps(told).encode() + b"\n")
        if fault is None or number < fault.at:
            return False
        if fault.kind == "full" and name in NEEDS_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if fault.kind == "dead" or (fault.kind == "error" and number == fault.at):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if fault.kind == "kill" and name != "write" and number == fault.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "interrupt" and number == fault.at:
            os.kill(os.getpid(), signal.SIGINT)
            return False
        return number == fault.at

    def cut(self, write, data):
        """Write half of it, and be killed then if that is to happen."""
        done = write(memoryview(data)[: max(1, len(data) // 2)])
        if self._fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    @contextmanager
    def _unseen(self):
        """Let this thread use storage for our own ends."""
        self._thread.unseen = True
        try:
            yield
        finally:
            self._thread.unseen = False

    def _place(self, path, folder=None):
        """The path of a file or descriptor where it is watched, and this call is vedastore's."""
        if getattr(self._thread, "unseen", False):
            return None
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115 - a plain text, as below
        base = "" if folder is None else os.readlink(f"/proc/self/fd/{folder}")  # noqa: PTH115
        path = os.path.abspath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH100, PTH118 - plain texts
        return path if path == self._watched or path.startswith(f"{self._watched}/") else None

    def _wrapped(self, function, name, *, other=False):
        def call(path=".", *arguments, **options):
            place = self._place(path, options.get("dir_fd"))
            if place is not None:
                self.step(name, place, self._place(arguments[0]) if other else None)
            return function(path, *arguments, **options)

        return call

    def _opened(self, function):
        def call(path, flags, *arguments, **options):
            place = self._place(path, options.get("dir_fd"))
            if place is not None:
                self._step_open(place, flags)
            return function(path, flags, *arguments, **options)

        return call

    def _step_open(self, place, flags):
        with self._unseen():
            new = bool(flags & os.O_CREAT) and not self._lexists(place)
        self.step("create" if new else "truncate" if flags & os.O_TRUNC else "open", place)

    def _file(self, function):
        def call(file, mode="r", *arguments, **options):
            place, changes = self._place(file), bool(set(mode) & set("wxa+"))
            if place is not None and not isinstance(file, int):
                self._step_open(place, changes * os.O_CREAT | ("w" in mode) * os.O_TRUNC)
            if place is None or not changes:
                return function(file, mode, *arguments, **options)
            raw = _File(file, mode.replace("b", ""))
            raw.step, raw.cut = partial(self.step, "write", place), self.cut
            return io.BufferedWriter(raw, raw._blksize)

        return call


class _File(io.FileIO):
    """A file whose writes are operations."""

    def write(self, data):
        return self.cut(super().write, data) if self.step() else super().write(data)


if __name__ == "__main__":
    serve()
