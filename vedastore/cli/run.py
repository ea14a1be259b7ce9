"""One command: its exit code, and how errors are told."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vedastore.cli.output import tell_error
from vedastore.cli.parser import make_parser
from vedastore.errors import StoreError, VedastoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
_SETTINGS = {
    # NumPy would start threads that turn, and no command needs.
    "OPENBLAS_NUM_THREADS": "1",
    # Arrow takes the memory that buffers of chips have left, where its own would be 70 MiB more.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_GARBAGE_OBJECTS = 50_000
"""New objects before cycles are searched for: commands make many objects and few cycles."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(_GARBAGE_OBJECTS)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - stands for the stream that was closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in arguments
    try:
        options = make_parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
    except VedastoreError as error:
        tell_error(error, as_json=as_json)
        return error.exit_code
    except KeyboardInterrupt:
        print("vedastore: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except MemoryError:
        hint = "give it more memory, or fewer workers"
        tell_error(StoreError("there is not enough memory", hint=hint), as_json=as_json)
        return StoreError.exit_code
    except OSError as error:  # what the verbs do has named errors; only the printing is left
        hint = "the work itself is done; look where the output goes"
        tell_error(StoreError(f"the result cannot be printed: {error.strerror}", hint=hint), as_json=False)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return StoreError.exit_code
    return code
