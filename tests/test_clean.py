"""What no version names is removed, and nothing else: never what a reader or a writer may still need."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

import vedastore as vs
from tests.builders import assert_store_ok, make_release

DAY = 86_400


@pytest.fixture
def release():
    return make_release(6)


@pytest.fixture
def store(tmp_path, release):
    vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    return tmp_path / "r.zarr"


def files(store):
    return {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()}


def age(store, days, *keys):
    """Make files look as if they had been written so long ago; all of them without names."""
    for key in keys or files(store):
        os.utime(store / key, (time.time() - days * DAY,) * 2)


def test_what_an_overwrite_replaced_goes_and_the_rest_stays(tmp_path, store):
    before = files(store)
    other = make_release(5, seed=3)
    vs.convert(other.tar(tmp_path / "o.tar"), store, mode="overwrite")
    left = files(store) & before - {"zarr.json", "chips/zarr.json"}
    assert left
    size = sum((store / key).stat().st_size for key in left)
    told = vs.clean(store, grace_days=0, dry_run=True)
    assert (told.removed, told.bytes, told.waiting, told.foreign, told.dry_run) == (len(left), size, 0, 0, True)
    assert left < files(store)
    assert vs.clean(store, grace_days=0) == type(told)(str(store), len(left), size, 0, 0, False)
    assert not files(store) & left
    assert_store_ok(store, other)
    assert vs.clean(store, grace_days=0).removed == 0


def test_who_reads_what_was_replaced_and_cleaned_is_told_to_open_it_again(tmp_path, store):
    reader = vs.open(store)
    vs.convert(make_release(5, seed=3).tar(tmp_path / "o.tar"), store, mode="overwrite")
    assert reader[0].image.sum() > 0
    vs.clean(store, grace_days=0)
    for read in (lambda: reader[0].image, lambda: reader[0].label):
        with pytest.raises(vs.errors.StoreError) as refused:
            read()
        assert "open the store again" in refused.value.hint


def test_every_version_keeps_what_it_names(store, release):
    collection = vs.open(store).split().assign(seen=1)
    collection.stats()
    vs.open(store, version="1.0.1").stats()
    before = files(store)
    assert len(vs.open(store).versions) == 3
    assert any("stats" in key for key in before)
    assert vs.clean(store, grace_days=0).removed == 0
    assert files(store) == before
    assert_store_ok(store, release)


def test_nothing_goes_before_the_grace_period_is_over(tmp_path, store):
    """A reader that has opened the version before goes on reading it."""
    old = vs.open(store)
    age(store, 30)
    vs.convert(make_release(5, seed=3).tar(tmp_path / "o.tar"), store, mode="overwrite")
    told = vs.clean(store)
    assert told.removed == 0
    assert told.waiting > 3
    assert [s.image.shape for s in old] == [(3, 32, 40)] * 6
    assert vs.clean(store, grace_days=7).waiting == told.waiting
    age(store, 8, "zarr.json")
    assert vs.clean(store, grace_days=7).removed == told.waiting
    assert vs.open(store).verify().ok


def test_what_a_writer_has_begun_stays(store):
    mine = "index/" + "5c0ffee1" * 4
    (store / mine).mkdir()
    for name in ("samples.parquet", "features.parquet"):
        (store / mine / name).write_bytes(b"half")
    age(store, 30)
    age(store, 0, f"{mine}/features.parquet")
    told = vs.clean(store)
    assert (told.removed, told.waiting) == (1, 1)
    assert f"{mine}/features.parquet" in files(store)


def test_what_is_none_of_a_store_s_is_left_alone(tmp_path, store):
    (tmp_path / "outside.txt").write_text("mine")
    foreign = ["notes.txt", "chips/readme", "index/5c0ffee1/samples.parquet", "chips/uint8-3x32x40/image/c/0/0/0/1"]
    for key in foreign:
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_text("mine")
    (store / "link").symlink_to(tmp_path / "outside.txt")
    told = vs.clean(store, grace_days=0)
    assert (told.removed, told.foreign) == (0, len(foreign) + 1)
    assert {*foreign, "link"} <= files(store)


def test_leftovers_of_a_killed_conversion_go(tmp_path, store):
    """A conversion onto a store is killed after its first objects; what it wrote is named by nobody."""
    code = (
        "import os, sys, vedastore as vs\n"
        "from vedastore.store.commit import Write\n"
        "Write.commit = lambda *_: os._exit(9)\n"
        "vs.convert(sys.argv[1], sys.argv[2], mode='overwrite')"
    )
    source = make_release(5, seed=3).tar(tmp_path / "o.tar")
    before = files(store)
    assert subprocess.run([sys.executable, "-c", code, source, store], check=False).returncode == 9
    left = files(store) - before
    assert left
    age(store, 30)
    assert vs.clean(store).removed == len(left)
    assert files(store) == before
    assert vs.open(store).verify().ok


def test_what_is_refused(tmp_path, store):
    with pytest.raises(vs.errors.StoreError, match="there is no store"):
        vs.clean(tmp_path)
    lost = store.with_name("lost.zarr")
    shutil.copytree(store, lost)
    (lost / "zarr.json").unlink()
    before = files(lost)
    with pytest.raises(vs.errors.StoreError, match="there is no store"):
        vs.clean(lost, grace_days=0)
    assert files(lost) == before
    for days in (-1, float("nan"), float("inf"), "7"):
        with pytest.raises(vs.errors.UsageError, match="grace"):
            vs.clean(store, grace_days=days)


def test_the_command(store):
    def run(*arguments):
        command = [sys.executable, "-m", "vedastore.cli", "clean", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "0 objects removed" in run(store, "--grace", "0")
    assert json.loads(run(store, "--dry-run", "--json"))["dry_run"] is True
