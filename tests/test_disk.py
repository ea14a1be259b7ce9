"""A real disk that is full: a small file system of its own, and a limit on the size of files."""

import shutil
import subprocess

import pytest

from tests.builders import make_release
from tests.faults import Runner
from tests.figures import count
from tests.operations import OPERATIONS
from tests.rig import FULL, UNKNOWN, Rig

SPACE = [operation for operation in OPERATIONS if operation.name not in {"clean", "stats"}]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    with Runner(folder) as runner:
        yield Rig(runner, folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file system of one MiB, and what fills it."""
    folder = tmp_path_factory.mktemp("small")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def disk(small):
    yield small
    for path in small.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(path, left):
    """Fill a disk but for some bytes: pages of 4096 of them."""
    free = shutil.disk_usage(path.parent).free
    path.write_bytes(bytes(max(0, free - left)))


@pytest.mark.slow
@pytest.mark.parametrize("operation", SPACE, ids=str)
def test_a_full_disk(rig, disk, operation):
    """More and more space, a page at a time, until it is enough."""
    ready = rig.ready(operation)
    refused = 0
    for pages in range(0, 200, 4):
        scene = ready.scene.copy(disk / "scene")
        fill(disk / "full", 4096 * pages)
        ran = rig.run(scene, operation)
        told = f"{operation} with {pages} pages: exit {ran.code}, {ran.said}"
        there = rig.check(ready, scene, ran.code, told)
        (disk / "full").unlink()
        if ran.code == 0:
            break
        assert ran.code == FULL or (ran.code == UNKNOWN and there == ready.new), told
        assert scene.files() == ready.scene.files(), told
        refused += 1
        if pages == 0:
            rig.retry(ready, scene, there, told)
    assert ran.code == 0
    assert refused
    count("P1", full_disks=refused)


@pytest.mark.slow
@pytest.mark.parametrize("operation", SPACE, ids=str)
def test_files_may_not_grow(rig, operation, tmp_path):
    ready = rig.ready(operation)
    for number, file_bytes in enumerate((1, 1000)):
        scene = ready.scene.copy(tmp_path / str(number))
        ran = rig.run(scene, operation, file_bytes=file_bytes)
        told = f"{operation} with {file_bytes} bytes: exit {ran.code}, {ran.said}"
        assert ran.code == FULL, told
        there = rig.check(ready, scene, ran.code, told)
        assert scene.files() == ready.scene.files(), told
    rig.retry(ready, scene, there, told)
    count("P1", full_disks=2)


def test_a_full_temporary_directory(rig, disk, tmp_path):
    """What grows with a release is kept there; when it is full, the store is as it was, and the message says where."""
    source = make_release(60).tar_gz(tmp_path / "r.tar.gz")
    fill(disk / "full", 8192)
    environment = {"TMPDIR": str(disk)}
    ran = rig.runner.run(["convert", source, tmp_path / "r.zarr"], environment=environment)
    (disk / "full").unlink()
    assert (ran.code, str(disk) in ran.said) == (FULL, True), ran.said
    assert not (tmp_path / "r.zarr").exists()
    assert not [*disk.iterdir()]
