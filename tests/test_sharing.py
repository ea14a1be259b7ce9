"""One store in many hands: threads of a process, forked children, and readers that are older than what was done."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

import vedastore as vs
from tests.builders import gnu_tar_members
from tests.operations import seen_of
from tests.writers import BASE, pair

WRITERS, TIMES = 2, 4


@pytest.fixture
def store(tmp_path):
    return vs.convert(BASE.tar(tmp_path / "r.tar"), tmp_path / "s.zarr")


def add_some(collection, number):
    """Add samples from a collection that falls behind at every commit of another writer."""
    for turn in range(TIMES):
        collection = collection.add({f"{number}-{turn}": pair(number, turn)})
    return collection.versions


def test_threads_share_a_collection(store):
    """Writers and a reader have one object: it stays the version that it is."""
    before = seen_of(store)
    with ThreadPoolExecutor(WRITERS + 1) as pool:
        told = [pool.submit(add_some, store, number) for number in range(WRITERS)]
        seen = {pool.submit(seen_of, store).result() for _ in range(4)}
        assert all(len(future.result()) <= 1 + WRITERS * TIMES for future in told)
    assert seen == {before}
    last = vs.open(store.store)
    assert len(last.versions) == 1 + WRITERS * TIMES
    assert {s.id for s in last} == {s.id for s in store} | {f"{n}-{t}" for n in range(WRITERS) for t in range(TIMES)}
    assert last.verify().ok


def test_children_that_are_forked_write_and_read(store):
    """What was read before the fork serves in the child, which commits as any process does."""
    added = store.add({"here": pair(9, 0)})  # a version in parts, and all its readers are open
    before = seen_of(added)
    children = []
    for number in range(WRITERS):
        child = os.fork()
        if child == 0:
            status = 70
            try:
                assert seen_of(added) == before
                add_some(added, number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * WRITERS
    assert seen_of(added) == before
    last = vs.open(store.store)
    assert len(last) == 7 + WRITERS * TIMES
    assert last.verify().ok


def test_an_old_collection_reads_on(store, tmp_path):
    """Edits that write tables and buckets together, and clean, take nothing from whoever has opened a version."""
    found, held = store, []
    for turn in range(12):
        found = found.add({f"0-{turn}": pair(0, turn)})
        held.append((found, vs.open(found.store), len(found)))  # one is read now, the other never before the end
        found["0"].read_files()
    versions = found._snapshot.root.versions
    assert len({v.index["samples"].key for v in versions}) > 2
    assert any(b.rows > 1 for name, b in versions[-1].buckets.items() if "~" in name)
    assert vs.clean(found.store).removed == 0
    vs.clean(found.store, grace_days=0)
    for used, fresh, samples in held:
        assert len(fresh) == len(used) == samples
        assert seen_of(used) == seen_of(fresh) == seen_of(vs.open(found.store, used.version))
    store.export(tmp_path / "back.tar")
    assert gnu_tar_members(tmp_path / "back.tar", tmp_path / "back") == BASE.members


def test_a_reader_outlives_an_overwrite_within_the_grace(store, tmp_path):
    """What no version names any more is kept for those who read it, and goes when nobody may."""
    found = store.add({"new": pair(0, 0)})
    before = seen_of(found)
    vs.convert(tmp_path / "r.tar", store.store, mode="overwrite")
    assert vs.clean(store.store).waiting > 0
    assert seen_of(found) == before
    vs.clean(store.store, grace_days=0)
    with pytest.raises(vs.errors.StoreError, match="the index file is absent"):
        seen_of(pickle.loads(pickle.dumps(found)))
    assert vs.open(store.store).verify().ok
