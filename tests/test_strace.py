"""What is opened while releases from strangers are converted: nothing that they name, and no network.

``strace`` tells every file that the process and its children open, make, rename or remove, and every network call.
"""

import json
import os
import re
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.figures import count
from tests.hostile import CORPUS, pair, vrt
from tests.tracing import calls_of, needs_strace, paths_of

CHILD = """
import contextlib, io, json, sys
from vedastore.cli import main

for line in sys.stdin:
    source, store = json.loads(line)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["convert", source, store, "--workers", "2", "--json"])
"""
NETWORK = {"connect", "sendto", "sendmsg", "sendmmsg", "bind", "listen", "accept", "accept4"}
CHANGES = {"creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link",
           "linkat", "symlink", "symlinkat", "mknod", "mknodat", "truncate", "chmod", "fchmodat", "chown", "fchownat",
           "lchown", "utime", "utimensat", "setxattr"}  # fmt: skip


def installation():
    """Where Python, its libraries and the package itself are, and what the system gives to every program."""
    python = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *site.getsitepackages()}
    python |= {path for path in sys.path if os.path.isabs(path)}  # noqa: PTH117 - plain texts
    package = Path(__file__).resolve().parents[1]
    libraries = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"}
    # /proc and /sys: the number of cores, limits of memory. /etc: the loader's cache, the time zone, OpenSSL's settings
    # (hashlib). /usr/share/locale: what gettext knows languages by (argparse).
    system = {"/proc", "/sys", "/etc/ld.so.cache", "/etc/localtime", "/etc/ssl/openssl.cnf", "/usr/share/locale"}
    system |= {"/dev/null", "/dev/urandom", "/dev/shm"}
    return {os.path.realpath(p) for p in (*python, package, *libraries)} | {*python, str(package), *libraries, *system}


def under(path, roots):
    return any(path == root or path.startswith(f"{root}/") for root in roots)


@needs_strace
@pytest.mark.slow
def test_nothing_outside_is_opened_and_nothing_is_sent(tmp_path):
    bait = tmp_path / "elsewhere" / "secret"
    bait.parent.mkdir()
    bait.write_text("a secret")
    (tmp_path / "tmp").mkdir()
    baits = [
        pair("vrt-secret", vrt(bait), rule="image-.*"),
        pair("vrt-relative", vrt("../../elsewhere/secret"), rule="image-.*"),
        pair("vrt-vsigzip", vrt(f"/vsigzip/{bait}"), rule="image-.*"),
    ]
    cases = [c for c in CORPUS if not c.slow and not c.name.startswith(("tiff-deflate", "tiff-zstd", "label-of"))]
    orders = []
    for case in [*baits, *cases]:
        for name in ("in", "out"):
            (tmp_path / "work" / case.name / name).mkdir(parents=True)
        source = case.build(tmp_path / "work" / case.name / "in")
        orders.append([str(source), str(tmp_path / "work" / case.name / "out" / "r.zarr")])
    log = tmp_path / "log"
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["strace", "-f", "-y", "-s", "4096", "-o", log, "-e", "trace=%file,%network", sys.executable, "-c", CHILD]
    text = "".join(json.dumps(order) + "\n" for order in orders)
    subprocess.run(command, input=text, text=True, env=environment, cwd=tmp_path / "work", check=True, timeout=300)

    readable = {*installation(), str(tmp_path / "work"), str(tmp_path / "tmp")}
    writable = {str(tmp_path / "tmp"), *(str(Path(store).parent) for _, store in orders), "/dev/null", "/dev/shm"}
    opened, changed, sent, touched = set(), set(), set(), set()
    for name, arguments, result in calls_of(log):
        if name in NETWORK:
            sent |= {f"{name}({arguments})"} if not harmless(arguments) else set()
            continue
        paths = paths_of(arguments, str(tmp_path / "work"))
        touched |= {p for p in paths if p in {str(bait), "/etc/passwd"}}
        if result.startswith("-"):
            continue
        if name in {"open", "openat", "openat2", "execve"}:
            opened |= set(paths[:1])
            if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", arguments):
                changed |= {p for p in paths if not under(p, writable)}
        elif name in CHANGES:
            changed |= {f"{name} {p}" for p in paths if not under(p, writable)}
    archives = {source for source, _ in orders if Path(source).is_file()}
    assert archives <= opened  # the trace is whole
    outside = {path for path in opened if not under(path, readable)}
    assert not outside, f"opened: {sorted(outside)}"
    assert not touched, f"looked at: {sorted(touched)}"
    assert not changed, f"changed: {sorted(changed)}"
    assert not sent, f"sent: {sorted(sent)}"
    assert not list((tmp_path / "tmp").iterdir())
    assert bait.read_text() == "a secret"
    count("P9", releases=len(orders), files_opened=len(opened), outside=0)


def harmless(arguments):
    """Whether a network call stays on the machine: sockets of UNIX, pairs of them, and answers of the kernel.

    urllib3, which rasterio loads where boto3 is installed, binds a socket to no port of ::1 to see if there is IPv6.
    """
    looks = "htons(0)" in arguments and '"::1"' in arguments
    return looks or "AF_UNIX" in arguments or "AF_NETLINK" in arguments or "UNIX" in arguments
