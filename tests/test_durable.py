"""What was acknowledged survives a power cut, and at no moment does a power cut leave anything but a whole version."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import CHANGES, ROOT, Fault, Runner
from tests.figures import count
from tests.operations import OPERATIONS
from tests.powerless import Disk, restore
from tests.rig import Rig
from tests.tracing import calls_of, needs_strace, paths_of

DURABLE = [operation for operation in OPERATIONS if operation.durable]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("durable")
    with Runner(folder) as runner:
        yield Rig(runner, folder)


def journaled(rig, scene, operation, folder, fault=None):
    folder.mkdir()
    return rig.run(scene, operation, fault, journal=folder)


def check(ready, scene, survivors, allowed, told):
    restore(survivors, scene.place)
    assert scene.seen() in allowed, f"{ready.operation}: {told}"
    scene.verify(f"{ready.operation}: {told}", notes=False)  # statistics that are kept may be lost: they are made again


@pytest.mark.parametrize("operation", [o for o in DURABLE if o.name in {"overwrite", "export"}], ids=str)
def test_the_moment_of_the_swap_and_the_end(rig, tmp_path, operation):
    """What is not synced when the new name appears is lost with the power, and when the command has ended."""
    ready = rig.ready(operation)
    scene = ready.scene.copy(tmp_path / "scene")
    disk, ran = Disk(scene.place), journaled(rig, scene, operation, tmp_path / "journal")
    publishing = [number for number, call in enumerate(ran.calls) if call["call"] in {"replace", "rename", "link"}]
    for number, call in enumerate(ran.calls):
        disk.apply(call)
        if number == publishing[-1]:
            check(ready, scene, disk.survivors("hasty"), {ready.new}, call)
            check(ready, scene, disk.survivors("lazy"), {ready.old, ready.new}, call)
    check(ready, scene, disk.survivors("lazy"), {ready.new}, "at the end")


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_any_moment(rig, tmp_path, operation):
    ready = rig.ready(operation)
    scene = ready.scene.copy(tmp_path / "scene")
    disk, ran = Disk(scene.place), journaled(rig, scene, operation, tmp_path / "journal")
    looked = set()
    for call in ran.calls:
        disk.apply(call)
        for kind in ("lazy", "hasty"):
            survivors = disk.survivors(kind)
            if (state := frozenset(survivors.items())) not in looked:
                looked.add(state)
                check(ready, scene, survivors, {ready.old, ready.new}, call)
                if scene.seen() == ready.old:
                    assert rig.run(scene, operation).code == 0, call
                    assert scene.seen() == ready.new, call
    for kind in ("lazy", "hasty") if operation.durable else ():
        check(ready, scene, disk.survivors(kind), {ready.new}, "at the end")
    count("P2", power_cuts=len(looked), lost=0)


@pytest.mark.slow
@pytest.mark.parametrize("operation", DURABLE, ids=str)
def test_a_retry_is_as_durable(rig, tmp_path, operation):
    """What a killed process had made, but not synced, is synced by the one that goes on with it."""
    ready = rig.ready(operation)
    first, *places = ready.places("kill")
    places = [first, *places[:3], *places[3::4]]
    for place in places:
        scene = ready.scene.copy(tmp_path / "scene")
        disk = Disk(scene.place)
        killed = journaled(rig, scene, operation, tmp_path / f"killed{place}", Fault("kill", place))
        again = journaled(rig, scene, operation, tmp_path / f"again{place}")
        if again.code == 0:
            for call in [*killed.calls[:-1], *again.calls]:
                disk.apply(call)
            restore(disk.survivors("lazy"), scene.place)
            assert ready.new in scene.seen(), ready.calls[place - 1]
    count("P2", power_cuts=len(places), lost=0)


def changes_of(log, place):
    """Yield the calls of a trace that change what is below a folder: the rig's word, the path, whether it was done."""
    for name, arguments, result in calls_of(log):
        opened = re.match(r"\d+<([^>]*)>", arguments) if name in {"write", "fsync"} else None
        path = opened[1] if opened else paths_of(arguments, ROOT)[0]
        word = {"openat": "create", "linkat": "link"}.get(name, name)
        if path.startswith(str(place)) and (word != "create" or "O_CREAT" in arguments):
            yield word, path, not result.startswith("-")


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("operation", [o for o in DURABLE if o.name in {"overwrite", "export"}], ids=str)
def test_the_system_sees_what_the_log_tells(rig, tmp_path, operation):
    """strace sees the same changes, and everything synced before the new name, and its folder after."""
    ready = rig.ready(operation)
    scene = ready.scene.copy(tmp_path / "scene")
    log = tmp_path / "log"
    names = "openat,write,mkdir,fsync,rename,link,linkat,unlink,rmdir"
    command = [sys.executable, "-m", "vedastore.cli", *scene.arguments(operation.command)]
    traced = ["strace", "-f", "-y", "-s", "512", "-o", log, "-e", f"trace={names}"]
    subprocess.run([*traced, *command], cwd=ROOT, check=True, capture_output=True)
    calls = [*changes_of(log, scene.place)]
    told = Counter(c["call"].replace("replace", "rename") for c in ready.calls if c["call"] in CHANGES)
    found = Counter(name for name, _, _ in calls)
    assert {name: found[name] for name in told} == told

    done = [(name, path) for name, path, is_done in calls if is_done]
    published = max(n for n, (name, _) in enumerate(done) if name in {"rename", "link"})
    synced = {path for name, path in done[:published] if name == "fsync"}
    made = {path for name, path in done[:published] if name in {"create", "mkdir"}}
    made -= {path for name, path in done if name in {"unlink", "rename"}}
    assert made <= synced
    assert {str(Path(path).parent) for path in made} - {str(scene.place)} <= synced
    target = scene.store if operation.name == "overwrite" else scene.place
    assert ("fsync", str(target)) in done[published:]
