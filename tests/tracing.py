"""What a process and its children ask of the system, as ``strace`` tells it."""

import os
import re
import shutil
import subprocess

import pytest

# One call of a process: the number of the process may stand in front; the result behind the last "=".
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+|\?)")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def can_trace():
    if not shutil.which("strace"):
        return False
    done = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False)
    return done.returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or tracing is forbidden")


def calls_of(log):
    """Yield the name, the arguments and the result of every call; one that was interrupted is joined again."""
    unfinished = {}
    for line in log.read_text(errors="backslashreplace").splitlines():
        number = line.partition(" ")[0]
        if line.endswith("<unfinished ...>"):
            unfinished[number] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        if "resumed>" in line:
            line = unfinished.pop(number, "") + line.partition("resumed>")[2]  # noqa: PLW2901
        if call := CALL.match(line):
            yield call[1], call[2], call[3]


def paths_of(arguments, folder):
    """The paths that a call names, absolute; those relative to a descriptor are shown by strace's -y."""
    found = []
    base = re.match(r"(?:AT_FDCWD|\d+)<([^>]*)>", arguments)
    for text in TEXT.findall(arguments):
        path = text.encode().decode("unicode_escape", "backslashreplace")
        found.append(os.path.normpath(os.path.join(base[1] if base else folder, path)))  # noqa: PTH118 - plain texts
    return found
