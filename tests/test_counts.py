"""Questions of classes, numbers of objects and splits: as pandas answers them, and the same in any combination."""

from math import inf
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests import synthetic
from tests.builders import make_release, plain_tiff
from tests.test_hostile_store import key_of
from tests.test_lookup import rewrite_table
from tests.test_select import ids
from vedastore.store import lookup

SAMPLES = 20_000  # two blocks
CLASSES = synthetic.CLASSES
relaxed = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts") / "s.zarr"
    synthetic.build(path, SAMPLES)
    return vs.open(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A segmentation with up to two objects of a class; each row group of the features has a single one."""
    folder = tmp_path_factory.mktemp("small")
    vs.convert(make_release(30).tar(folder / "r.tar"), folder / "s.zarr")
    rewrite_table(folder / "s.zarr", "features", row_group_size=1)
    return vs.open(folder / "s.zarr")


def table_of(collection):
    """How many objects of each class each sample has, counted by pandas in the file of the features."""
    store = Path(collection.store)
    names = geopandas.read_parquet(store / key_of(store, "samples")).id
    features = pq.read_table(store / key_of(store, "features"), columns=["id", "class"]).to_pandas()
    return pd.crosstab(features.id, features["class"]).reindex(names, columns=list(collection.classes), fill_value=0)


@pytest.fixture(scope="module")
def counts(collection):
    return table_of(collection)


@pytest.fixture(scope="module")
def few(small):
    return table_of(small)


# ------------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("wanted", [["car"], ["car", "tree", "boat"], list(CLASSES), [], ["car", "car"]])
def test_any_all_and_none(collection, counts, wanted):
    has = counts[list(dict.fromkeys(wanted))] > 0
    for match, expected in {"any": has.any(axis=1), "all": has.all(axis=1), "none": ~has.any(axis=1)}.items():
        assert ids(collection.select(classes=iter(wanted), match=match)) == counts.index[expected].tolist()


def test_a_way_to_match_needs_classes(collection):
    for wrong in ({"match": "all"}, {"match": "each", "classes": "car"}, {"match": None, "classes": "car"}):
        with pytest.raises(vs.errors.UsageError, match=r"match is .*any, all, none"):
            collection.select(**wrong)


# ------------------------------------------------------------------------------------------------------------- objects

numbers = st.integers(0, 4)
ranges = st.one_of(
    numbers,
    numbers.map(np.int64),
    st.tuples(numbers, st.none()),
    st.tuples(st.none(), numbers),
    st.tuples(numbers, numbers).map(sorted),
)


def within(found, edges):
    least, most = edges if isinstance(edges, tuple | list) else (edges, None)
    return (found >= (least or 0)) & (found <= (inf if most is None else most))


@relaxed
@given(asked=ranges)
def test_objects_of_all_classes(collection, counts, small, few, *, asked):
    for found, table in ((collection, counts), (small, few)):
        assert ids(found.select(objects=asked)) == table.index[within(table.sum(axis=1), asked)].tolist()


@relaxed
@given(asked=st.dictionaries(st.sampled_from(["boat", "building", "car"]), ranges))
def test_objects_of_a_class(collection, counts, small, few, *, asked):
    for found, table in ((collection, counts), (small, few)):
        expected = np.logical_and.reduce([np.ones(len(table), bool), *(within(table[c], r) for c, r in asked.items())])
        assert ids(found.select(objects=asked)) == table.index[expected].tolist()


def test_two_objects_of_one_class_are_two(small, few):
    assert few.to_numpy().max() == 2
    assert len(small.select(objects={"car": 2})) == (few.car == 2).sum() > 0


def test_classes_count_as_objects_of_a_classification(tmp_path):
    found = vs.convert(make_release(12, task="classification").tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    own = {s.id: s.classes for s in found}
    for least in range(4):
        assert ids(found.select(objects=least)) == [i for i, classes in own.items() if len(classes) >= least]
    assert ids(found.select(objects={"car": 1, "boat": (0, 0)})) == [
        i for i, classes in own.items() if "car" in classes and "boat" not in classes
    ]
    assert not len(found.select(objects={"car": 2}))


def test_a_class_that_is_only_named_has_no_object(tmp_path):
    release = make_release(3, task="segmentation")
    release.members[f"{release.top}/labels/1.json"] = b'{"geometry": {}, "properties": {"label": "car"}}'
    release.members[f"{release.top}/images/1.tif"] = plain_tiff(np.zeros((3, 32, 40), "u1"))
    found = vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    assert "1" in ids(found.select(classes="car"))
    assert "1" in ids(found.select(objects={"car": (0, 0)}))


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        (-1, "a count is -1"),
        (1.5, "a count is 1.5"),
        ("2..5", "a count is '2..5'"),
        ((1, 2, 3), "no range"),
        ((), "no range"),
        ((None, None), "open at both ends"),
        ((3, 2), "from 3 to 2"),
        ((0, "x"), "a count is 'x'"),
        ({"car": None}, "open at both ends"),
        ({"car": {}}, "a count is {}"),
        ({"nobody": 1}, "no class 'nobody'.*there are airport, barn"),
        ({3: 1}, "no text"),
    ],
)
def test_counts_that_make_no_sense(collection, objects, words):
    with pytest.raises(vs.errors.UsageError, match=words):
        collection.select(objects=objects)


def test_a_count_of_any_size(collection):
    assert not len(collection.select(objects=10**30))
    assert (
        len(collection.select(objects=(None, 10**30)))
        == len(collection.select(objects={"car": (0, 10**30)}))
        == SAMPLES
    )


def test_counting_reads_what_it_needs_once(collection, monkeypatch):
    """All objects from the column of the samples; those of a class from two columns of the features, block by block."""
    found, read = [], lookup.Lookup._read_counts
    monkeypatch.setattr(lookup.Lookup, "_read_counts", lambda self, block: found.append(block) or read(self, block))
    fresh = vs.open(collection.store)
    fresh.select(objects=2)
    assert found == []
    for _ in range(2):
        fresh.select(objects={"car": 1, "tree": (0, 3)})
        fresh[:100].select(objects={"boat": 1})
    assert found == [0, 1]


def test_counts_do_not_depend_on_what_is_kept(collection, counts, monkeypatch):
    monkeypatch.setattr(lookup, "KEPT_BYTES", 1)
    expected = counts.index[(counts.car >= 1) & (counts.sum(axis=1) >= 2)].tolist()
    assert ids(vs.open(collection.store).select(objects=2).select(objects={"car": 1})) == expected


# -------------------------------------------------------------------------------------------------------------- splits


def test_a_split_that_is_not_there_is_refused(collection, small):
    for part in (collection, collection[:0], collection[5:9]):
        with pytest.raises(vs.errors.UsageError, match=r"no split 'trian' \(there are test, train, validate\)"):
            part.select(split="trian")
        with pytest.raises(vs.errors.UsageError, match="no split 'trian'"):
            part.batches(3, split="trian").__next__()
    with pytest.raises(vs.errors.UsageError, match=r"no split 'train' \(no sample is of one; vedastore split"):
        small.select(split="train")


def test_samples_of_no_split(collection, small):
    splits = collection.samples.split
    assert ids(collection.select(split="")) == collection.samples.id[splits.isna()].tolist()
    assert len(small.select(split="")) == len(small) == sum(len(images) for images, _ in small.batches(7, split=""))
    done = small.split(given={s.id: "train" for s in small})
    assert len(done.select(split="")) == 0  # no name that could be a slip
    assert len(done[:3].select(split="train")) == 3


# ------------------------------------------------------------------------------------------------------------ together

QUESTIONS = [
    {"classes": ["car", "tree", "pier"]},
    {"classes": ["car", "tree"], "match": "all"},
    {"classes": "silo", "match": "none"},
    {"objects": (1, 3)},
    {"objects": {"car": (0, 1), "boat": (None, 1)}},
    {"split": "train"},
    {"split": ""},
    {"bbox": (100, -60, -30, 70)},
    {"intersects": {"type": "Polygon", "coordinates": [[[90, -70], [250, -10], [200, 80], [90, -70]]]}},
    {"where": "objects <> 2"},
    {"ids": [f"chip-{number:07d}" for number in range(0, SAMPLES, 2)]},
]


@relaxed
@given(
    chosen=st.lists(st.sampled_from(QUESTIONS), unique_by=lambda q: next(iter(q)), max_size=5),
    order=st.randoms(use_true_random=False),
    limit=st.none() | st.integers(0, 50),
    step=st.sampled_from([1, -1]),
)
def test_a_chain_of_selections_is_one_selection(collection, *, chosen, order, limit, step):
    """In whatever order the links are; a limit counts what is left, and so comes last. Unknown ids come first."""
    start = collection[::step]
    whole = start.select(**{name: value for question in chosen for name, value in question.items()}, limit=limit)
    links = sorted(chosen, key=lambda _: order.random())
    part = start.select(ids=next((q["ids"] for q in chosen if "ids" in q), None))
    for question in links:
        part = part.select(**{name: value for name, value in question.items() if name != "ids"})
    assert ids(part.select(limit=limit)) == ids(whole)
