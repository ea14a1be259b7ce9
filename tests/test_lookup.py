"""What selections read, and keep: no more than the question takes, in threads, forks and odd stores too."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely

import vedastore as vs
from tests import synthetic
from tests.test_hostile_store import key_of, put_table, version
from tests.test_select import CLASSES, SAMPLES, ids, samples_file
from vedastore.io.objects import LocalObjects
from vedastore.store import lookup
from vedastore.store.kept import Kept
from vedastore.store.tables import GROUP_ROWS

GROUPS = -(-SAMPLES // GROUP_ROWS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("lookup") / "s.zarr"
    synthetic.build(path, SAMPLES)
    return path


@pytest.fixture(scope="module")
def collection(store):
    return vs.open(store)


@pytest.fixture(scope="module")
def frame(store):
    """What geopandas makes of the samples' file."""
    return geopandas.read_parquet(samples_file(store))


@pytest.fixture
def reads(monkeypatch):
    """Every read of an object: its key and its bytes."""
    found, read = [], LocalObjects._read_part

    def counted(self, descriptor, key, start, length):
        data = read(self, descriptor, key, start, length)
        found.append((key, len(data)))
        return data

    monkeypatch.setattr(LocalObjects, "_read_part", counted)
    return found


# ------------------------------------------------------------------------------------------------------- what is read


def test_opening_reads_the_root_document_and_nothing_else(store, reads):
    collection = vs.open(store)
    assert (len(collection), collection.name, collection.bounds is None) == (SAMPLES, "Synthetic", False)
    repr(collection)
    assert len(collection[10:2000:7]) == 285
    assert {key for key, _ in reads} == {"zarr.json"}
    assert len(reads) == 1


def test_columns_are_read_once(store, groups):
    collection = vs.open(store)
    for _ in range(3):
        collection.select(classes="car", bbox=(0, 0, 10, 10))
        collection.select(split="train")
        collection.select(ids=[])
    blocks = [[0, 1, 2, 3], [4]]
    assert groups == [("samples", [c], b) for c, b in
                      [("classes", blocks[0]), ("bbox", blocks[0]), ("classes", blocks[1]), ("bbox", blocks[1]),
                       ("split", blocks[0]), ("split", blocks[1]), ("id", blocks[0]), ("id", blocks[1])]]  # fmt: skip


def test_only_the_row_groups_of_a_selection_are_read(store, groups):
    collection = vs.open(store)
    part = collection[5000:5010]
    assert len(part.samples) == 10
    assert len(part.features) == part.samples.objects.sum()
    assert part.bounds is not None
    assert [(table, chosen) for table, _, chosen in groups] == [
        ("samples", [1]),
        ("features", [1]),
        ("samples", [0, 1, 2, 3]),
    ]
    groups.clear()
    part.select(where="objects > 1")
    part.select(intersects=shapely.box(*part.bounds))
    assert [chosen for _, _, chosen in groups] == [[1], [1]]
    assert [*groups[0][1]] == ["position", "objects"]
    groups.clear()
    assert len(collection.select(split="train", limit=5)) == 5
    assert [chosen for _, _, chosen in groups] == [[0, 1, 2, 3]]


def test_a_sample_reads_one_row_group_and_its_label_only_when_asked(store, reads, groups):
    collection = vs.open(store)
    sample = collection[12_345]
    assert [chosen for _, _, chosen in groups] == [[3]]
    light = sum(size for key, size in reads if key != "zarr.json")
    assert "label" not in groups[0][1]
    assert sample.label == {}
    assert [(columns, chosen) for _, columns, chosen in groups[1:]] == [(("label",), [3])]
    count = len(reads)
    assert collection[12_346].label == {}
    assert next(iter(collection[12_300:])).label == {}
    assert len(reads) == count
    assert light < samples_file(store).stat().st_size / GROUPS


def test_iterating_reads_each_row_group_once(store, groups):
    assert sum(1 for _ in vs.open(store)) == SAMPLES
    assert [chosen for _, _, chosen in groups] == [[n] for n in range(GROUPS)]


def test_what_is_kept_is_bounded(store, monkeypatch, groups):
    """With no room for all, the answers are the same, and only the last ones stay."""
    expected = ids(vs.open(store).select(bbox=(0, 0, 90, 90)))
    monkeypatch.setattr(lookup, "KEPT_BYTES", 2**14 * 32)
    collection = vs.open(store)
    for _ in range(2):
        groups.clear()
        assert ids(collection.select(bbox=(0, 0, 90, 90))) == expected
        assert [chosen for _, columns, chosen in groups if columns == ["bbox"]] == [[0, 1, 2, 3], [4]]


def test_kept_forgets_what_was_not_asked_for_longest():
    kept, made = Kept(16), []

    def get(key, count=1):
        return kept.get(key, lambda: made.append(key) or np.zeros(count))

    for key in "abab" + "acac" + "b":
        get(key)
    assert made == ["a", "b", "c", "b"]
    assert len(get("large", 3)) == 3
    get("c")
    assert made[4:] == ["large", "c"]


def test_a_selection_without_a_lookup_kept_is_cheap_to_pickle(collection):
    part = collection.select(classes="car", limit=10)
    assert len(pickle.dumps(part)) < len(pickle.dumps(vs.open(collection.store))) + 1000


# ------------------------------------------------------------------------------------------- threads, forks, odd stores


def test_many_threads_search_one_collection(store):
    expected = vs.open(store)
    wanted = [ids(expected.select(classes=name, where="objects > 1")) for name in CLASSES]
    collection = vs.open(store)
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda name: ids(collection.select(classes=name, where="objects > 1")), CLASSES * 4)
        assert list(found) == wanted * 4


FORK = """
import os, signal, sys
import vedastore as vs
collection = vs.open(sys.argv[1])
collection.select(classes="car")
lookup = collection._snapshot.lookup
with lookup._kept._lock, lookup.table._lock:  # as another thread would hold them in the middle of a read
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(collection.select(classes="car", limit=3)[2].classes.index("car") if len(collection[7].id) else 9)
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_opens_its_own_tables(store):
    done = subprocess.run([sys.executable, "-c", FORK, store], check=True, capture_output=True, text=True)
    assert 0 <= int(done.stdout) < 9


def test_a_spawned_process_searches(collection):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (count,) = pool.map(len, [collection.select(classes="car")])
        assert count == len(collection.select(classes="car"))


def test_a_store_of_tiny_row_groups(store, tmp_path, frame):
    """Blocks have many of them."""
    target = tmp_path / "t.zarr"
    synthetic.build(target, 300)
    rewrite_samples(target, row_group_size=1)
    collection = vs.open(target)
    assert len(collection._snapshot.lookup._starts) == 2
    assert [s.id for s in collection] == ids(collection)
    assert (
        ids(collection.select(classes=list(CLASSES[:5]), limit=3))
        == [s.id for s in collection if set(s.classes) & set(CLASSES[:5])][:3]
    )


def test_the_first_and_last_features_of_a_row_group_are_found(collection):
    features, reader = collection.features, collection._snapshot.table("features")
    assert len(reader.starts) > 3
    for group in range(len(reader.starts) - 1):
        for position in reader._position_edges(group):
            assert len(collection[position : position + 1].features) == (features.position == position).sum() > 0


def test_classes_that_the_version_does_not_list(tmp_path):
    """A store from a stranger: they are nobody's."""
    target = tmp_path / "t.zarr"
    synthetic.build(target, 300)
    expected = ids(vs.open(target).select(classes="barn"))
    version(classes=list(CLASSES[1:]))(target)
    assert ids(vs.open(target).select(classes="barn")) == expected


def test_statistics_that_lie_are_found_out(tmp_path):
    """Row groups are chosen by them: a wrong one would hide rows."""
    target = tmp_path / "t.zarr"
    synthetic.build(target, 300)
    collection = vs.open(target)
    reader = collection._snapshot.table("features")
    reader._position_edges = lambda group: (5, 6)
    assert reader.groups_with(np.array([7])) == []
    with pytest.raises(vs.errors.StoreError, match="positions"):
        reader.read()


def test_without_statistics_every_row_group_is_read(tmp_path):
    target = tmp_path / "t.zarr"
    synthetic.build(target, 300)
    expected = vs.open(target)[100:103].features
    rewrite_table(target, "features", write_statistics=False)
    pd.testing.assert_frame_equal(vs.open(target)[100:103].features, expected)


def rewrite_samples(store, **options):
    rewrite_table(store, "samples", **options)


def rewrite_table(store, name, **options):
    """Write a table anew, and make the root document fit."""
    found = pq.read_table(store / key_of(store, name))
    file = store / f"new-{os.getpid()}.parquet"
    pq.write_table(found, file, **options)
    data = file.read_bytes()
    file.unlink()
    put_table(store, name, data, found.num_rows)
