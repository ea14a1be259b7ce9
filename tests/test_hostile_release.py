"""Releases from strangers, through the door: refused by name, in bounded memory, and nothing is left or touched.

Each group of releases is converted in a process of its own, one after the other; before each one the process forgets
the peak of its memory.
"""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter

import pytest

import vedastore as vs
from tests.figures import count
from tests.hostile import CORPUS, MIB
from vedastore.spec.rules import RULES

LIMIT_BYTES = 512 * MIB
GROUPS = 4

CHILD = """
import json, os, sys, tempfile
from pathlib import Path
import vedastore as vs
from vedastore.cli import main
from vedastore.errors import VedastoreError

def peak(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

def children(pid):
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found = (task / "children").read_text().split()
        except FileNotFoundError:  # a thread that has just ended; another one has its children
            continue
        for child in found:
            yield child
            yield from children(child)

def run(arguments):
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    kept = os.dup(1), os.dup(2)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    out.seek(0)
    err.seek(0)
    return code, out.read().decode(), err.read().decode()

for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps({"name": case["name"]}), flush=True)
    Path("/proc/self/clear_refs").write_text("5")
    code, out, err = run(["convert", case["source"], case["store"], "--workers", "2", "--json"])
    peaks = [peak("self"), *(peak(child) for child in children(os.getpid()))]
    rule = None
    if code == 3 and not case["slow"]:
        try:
            vs.convert(case["source"], case["store"])
        except VedastoreError as error:
            rule = error.rule
    told = {"code": code, "out": out, "err": err, "peak": max(peaks), "rule": rule}
    print(json.dumps({"name": case["name"], "told": told}), flush=True)
"""


def state_of(path):
    """What a source is: the kind, time and bytes of everything in it."""
    found = {}
    for place in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
        status = place.lstat()
        data = place.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size < 2**30 else b""
        found[os.fsencode(place)] = status.st_mode, status.st_mtime_ns, status.st_size, hashlib.sha256(data).digest()
    return found


def convert_all(cases, tmp_path):
    """Build the releases, convert each one, and return what is wrong with how that went, by name."""
    orders, before = [], {}
    for case in cases:
        for name in ("in", "out"):
            (tmp_path / case.name / name).mkdir(parents=True)
        source = case.build(tmp_path / case.name / "in")
        before[case.name] = source, state_of(source)
        store = tmp_path / case.name / "out" / "r.zarr"
        orders.append({"name": case.name, "source": str(source), "store": str(store), "slow": case.slow})
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="".join(json.dumps(order) + "\n" for order in orders),
        capture_output=True, text=True, timeout=60 * max(1, len(cases)), check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"the process died over {lines[-1]['name']}: {done.stderr[-2000:]}"
    told = {line["name"]: line["told"] for line in lines if "told" in line}
    return {case.name: found for case in cases if (found := judge(case, told[case.name], *before[case.name], tmp_path))}


def judge(case, told, source, state, tmp_path):
    wrong = []
    if told["peak"] > LIMIT_BYTES:
        wrong.append(f"{told['peak'] / MIB:.0f} MiB")
    if state_of(source) != state:
        wrong.append("the source was changed")
    left = sorted(p.name for p in (tmp_path / case.name / "out").iterdir())
    optional = case.rule is not None and re.fullmatch(case.rule, "")
    if case.rule is None or (optional and told["code"] == 0):
        if told["code"] != 0 or told["err"] or left != ["r.zarr"]:
            wrong.append(f"refused with {told['code']}: {told['err'][-500:]}")
        elif not vs.open(tmp_path / case.name / "out" / "r.zarr").verify(against=source).ok:
            wrong.append("it does not come back")
        return wrong
    if told["code"] != 3:
        return [*wrong, f"exit {told['code']}: {told['err'][-500:] or told['out'][:300]}"]
    if left:
        wrong.append(f"{left} are left")
    if not case.slow and not (re.fullmatch(case.rule, told["rule"] or "") and told["rule"] in RULES):
        wrong.append(f"rule {told['rule']} instead of {case.rule}")
    line = told["err"]
    if line.count("\n") != 1 or not line.endswith("\n") or not line[:-1].isprintable():
        wrong.append(f"not one line: {line!r}")
    parts = ("vedastore: ", source.name, case.member, case.words, "(")
    wrong += [f"{part!r} is not in {line!r}" for part in parts if part not in line]
    error = json.loads(told["out"])["error"]
    if not (error["message"] and error["where"] and error["hint"]) or len(line) > 2000:
        wrong.append(f"not told what, where and what to do: {error}")
    return wrong


def shown(wrong):
    return "\n\n".join(f"{name}: " + "\n  ".join(found) for name, found in wrong.items())


DEFAULT = [case for case in CORPUS if not case.slow]


def test_the_corpus_names_each_case_once():
    assert [name for name, count in Counter(case.name for case in CORPUS).items() if count > 1] == []


@pytest.mark.parametrize("group", range(GROUPS))
def test_releases(tmp_path, group):
    cases = DEFAULT[group::GROUPS]
    wrong = convert_all(cases, tmp_path)
    assert not wrong, shown(wrong)
    count("P8", hostile_releases=len(cases), unbounded=0)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CORPUS if c.slow], ids=lambda case: case.name)
def test_slow_releases(tmp_path, case):
    wrong = convert_all([case], tmp_path)
    assert not wrong, shown(wrong)
