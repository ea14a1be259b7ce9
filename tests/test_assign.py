"""Columns: what was given is what anybody reads, beside the samples that it was given for, and nothing else changes."""

import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import dask.array as da
import duckdb
import geopandas
import geopandas.testing
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import TASKS, assert_store_ok, make_release
from tests.test_commit import everything_below
from tests.test_docs import run_cli
from vedastore.errors import ConflictError, SampleNotFoundError, UsageError
from vedastore.spec.columns import COLUMNS_LIMIT, TEXT_BYTES, is_column
from vedastore.store.sql import Condition, words

COUNT = 7
IDS = [str(number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of seven samples that stays as it is."""
    folder = tmp_path_factory.mktemp("assign")
    release = make_release(COUNT, shape=(3, 16, 16))
    return release, vs.convert(release.tar_gz(folder / "r.tar.gz"), folder / "r.zarr")


@pytest.fixture
def collection(made, tmp_path):
    shutil.copytree(made[1].store, tmp_path / "r.zarr")
    return vs.open(tmp_path / "r.zarr")


def file_of(collection):
    """The samples table of a version."""
    return Path(collection.store, collection._snapshot.version.index["samples"].key)


def column_of(collection, name):
    """A column as pyarrow alone reads it."""
    return pq.read_table(file_of(collection)).column(name).to_pylist()


def same(one, other):
    """Tell whether values are equal and of one type; NaN equals NaN."""
    return all(
        type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))
        for a, b in zip(one, other, strict=True)
    )


# -------------------------------------------------------------------------------------------------- any columns at all

KINDS = [
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=20),
]
COLUMN = st.one_of([st.lists(st.none() | kind, min_size=COUNT, max_size=COUNT) for kind in KINDS])
COLUMNS = st.dictionaries(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True).filter(
        lambda name: is_column(name) and name.lower() not in words()
    ),
    COLUMN.filter(lambda values: any(v is not None for v in values)),
    min_size=1,
    max_size=4,
).filter(lambda columns: len({name.lower() for name in columns}) == len(columns))


@settings(max_examples=10)
@given(COLUMNS)
def test_any_columns_come_out_as_they_went_in(made, columns):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(made[1].store, Path(folder, "r.zarr"))
        found = vs.open(Path(folder, "r.zarr")).assign(columns)
        assert found.columns == tuple(columns)
        table, frame = pq.read_table(file_of(found)), geopandas.read_parquet(file_of(found))
        ours = found.samples
        for name, values in columns.items():
            assert same(table.column(name).to_pylist(), values)
            missing = [v is None or (isinstance(v, float) and math.isnan(v)) for v in values]
            for read in (frame[name], ours[name]):
                assert read.isna().tolist() == missing
            there = [(a, b) for a, b in zip(ours[name], values, strict=True) if b is not None and b == b]  # noqa: PLR0124
            assert [a for a, _ in there] == [b for _, b in there]
        there = {i for values in columns.values() for i, v in zip(IDS, values, strict=True) if v is not None}
        empty = found.select(where=" AND ".join(f"{name} IS NULL" for name in columns))
        assert {sample.id for sample in empty} == {*IDS} - there
        removed = found.assign(dict.fromkeys(columns))
        assert removed.columns == ()
        assert pq.read_table(file_of(removed)).equals(pq.read_table(file_of(made[1])))


VALUES = [0.5, 1.5, float("nan"), 3.5, 4.5, 5.5, 6.5]
FORMS = {
    "list": VALUES,
    "tuple": tuple(VALUES),
    "array": np.array(VALUES, "f4"),
    "dask": da.from_array(np.array(VALUES), chunks=3),
    "arrow": pa.chunked_array([VALUES[:2], VALUES[2:]]),
    "mapping": dict(zip(IDS[::-1], VALUES[::-1], strict=True)),
    "series": pd.Series(VALUES, index=IDS)[::-1],
    "arrow series": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(VALUES)), index=IDS)[::-1],
    "data array": xr.DataArray(VALUES, {"id": ("sample", IDS)}, "sample")[::-1],
    "lazy data array": xr.DataArray(VALUES, {"id": IDS}, "id")[::-1].chunk(2),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_find_their_samples(collection, form):
    assert same(column_of(collection.assign(ndvi=FORMS[form]), "ndvi"), VALUES)


def test_tables_find_their_samples(collection):
    frame = pd.DataFrame({"a": VALUES, "b": IDS, "c": pd.Categorical(IDS)}, index=IDS).sample(frac=1, random_state=0)
    found = collection.assign(frame)
    assert [same(column_of(found, name), wanted) for name, wanted in zip("abc", (VALUES, IDS, IDS), strict=True)]
    found = found.assign(xr.Dataset({"a": ("sample", [7]), "d": ("sample", [True])}, {"id": ("sample", ["3"])}), e="x")
    assert column_of(found, "a") == [None, None, None, 7, None, None, None]
    assert found.columns == ("a", "b", "c", "d", "e")
    assert found.samples.dtypes[["a", "d"]].tolist() == [pd.Int64Dtype(), pd.BooleanDtype()]
    assert_store_ok(found.store)


def test_missing_values(collection):
    found = collection.assign(
        masked=np.ma.array(range(COUNT), mask=[1, 0, 0, 0, 0, 0, 0]),
        texts=pd.Series(["a", None, np.nan], index=IDS[:3], dtype=object),
        nullable=pd.Series([1, None], index=IDS[:2], dtype="Int64"),
    )
    assert column_of(found, "masked") == [None, 1, 2, 3, 4, 5, 6]
    assert column_of(found, "texts") == ["a", *[None] * 6]
    assert column_of(found, "nullable") == [1, *[None] * 6]
    assert column_of(found.assign(texts=[None] * COUNT), "texts") == [None] * COUNT


# -------------------------------------------------------------------------------------------- a version, and selections


def test_nothing_else_changes(made, collection):
    before = everything_below(Path(collection.store))
    found = collection.split(seed=1).assign(ndvi=VALUES).split(seed=2).assign(clear=True)
    after = everything_below(Path(collection.store))
    roots = {"zarr.json", "root.json"}
    assert after.items() >= {key: data for key, data in before.items() if key.name not in roots}.items()
    assert found.versions == ("1.0.1", "1.0.1+1", "1.0.1+2", "1.0.1+3", "1.0.1+4")
    assert found._snapshot.version.parent == "1.0.1+3"
    again = vs.open(found.store).assign(ndvi=None, clear=None)
    assert again.samples.split.tolist() == found.samples.split.tolist()
    old, new = collection.samples.drop(columns="split"), again.samples.drop(columns="split")
    geopandas.testing.assert_geodataframe_equal(old, new)
    assert vs.open(found.store, "1.0.1+2").samples.ndvi.tolist()[:2] == VALUES[:2]
    assert_store_ok(found.store, made[0])
    frame = geopandas.read_parquet(file_of(found))
    assert frame.crs == "EPSG:4326"
    geopandas.testing.assert_geoseries_equal(frame.geometry, old.geometry)


def test_a_release_has_no_place_for_them(collection, tmp_path):
    found = collection.assign(ndvi=VALUES)
    for name, version in (("a", collection), ("b", found)):
        version.export(tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert vs.convert(tmp_path / "b.tar.gz", tmp_path / "again.zarr").columns == ()


def test_other_samples_keep_their_values(collection):
    first = collection[2:5].assign(score=[1, 2, 3])
    assert [sample.id for sample in first] == ["2", "3", "4"]
    assert column_of(first, "score") == [None, None, 1, 2, 3, None, None]
    second = vs.open(first.store)[4:2:-1].assign(score=[40, 30], seen=True)
    assert column_of(second, "score") == [None, None, 1, 30, 40, None, None]
    assert column_of(second, "seen") == [None, None, None, True, True, None, None]
    third = vs.open(first.store).select(ids=["2", "3"]).assign(score={"3": 0.5})  # whole numbers become numbers
    assert same(column_of(third, "score"), [None, None, None, 0.5, 40.0, None, None])
    with pytest.raises(UsageError, match="score is double for the other samples"):
        third.assign(score="high")
    with pytest.raises(UsageError, match="removed from all samples"):
        third.assign(score=None)
    with pytest.raises(SampleNotFoundError, match="'4'"):
        third.assign(score={"4": 1})
    empty = third.select(where="score > 100").assign(score=[])
    assert same(column_of(empty, "score"), column_of(third, "score"))
    assert column_of(vs.open(first.store).assign(score={"0": "low"}), "score") == ["low", *[None] * 6]


def test_a_store_that_has_changed_is_a_conflict(collection):
    collection.assign(a=1)
    before = everything_below(Path(collection.store))
    with pytest.raises(ConflictError, match="has changed since it was opened"):
        collection.assign(a=2)
    assert everything_below(Path(collection.store)) == before


def test_killed_before_the_commit(made, collection):
    script = """
import os, signal, sys, vedastore as vs
from vedastore.io.objects import LocalObjects
LocalObjects.swap = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
vs.open(sys.argv[1]).assign(a=1)
"""
    done = subprocess.run([sys.executable, "-c", script, collection.store], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert vs.open(collection.store).versions == ("1.0.1",)
    collection.assign(a=1)
    assert assert_store_ok(collection.store, made[0]).columns == ("a",)


# ----------------------------------------------------------------------------------------------- where columns are seen


@pytest.mark.parametrize("task", TASKS)
def test_columns_are_coordinates(tmp_path, task):
    collection = vs.convert(make_release(3, task=task).tar(tmp_path / "r.tar"), tmp_path / "r.zarr")
    names = {*collection.to_xarray().variables, *collection.to_xarray().dims}
    assert not any(map(is_column, names))
    found = collection.assign(a=[1, None, 3], b=[1, 2, 3], c=["x", None, "z"], d=[True, False, None], e=[True] * 3)
    for data in (found.to_xarray(), xr.open_dataset(found.store, engine="vedastore")):
        assert {data[name].dims for name in found.columns} == {("sample",)}
        np.testing.assert_array_equal(data.a, [1, np.nan, 3])
        np.testing.assert_array_equal(data.d, [1, 0, np.nan])
        assert (data.b.dtype, data.e.dtype) == ("int64", "bool")
        assert data.c.values.tolist() == ["x", "", "z"]
    assert found[1:].to_xarray().b.values.tolist() == [2, 3]


def test_columns_answer_questions(collection):
    found = collection.assign(NDVI=VALUES, cover=["water", *["land"] * 6])
    assert [s.id for s in found.select(where="ndvi > 4 AND NOT isnan(Ndvi) AND cover = 'land'")] == ["4", "5", "6"]
    with pytest.raises(UsageError, match="not found"):
        collection.select(where="ndvi > 4")
    assert len(next(found.select(where="ndvi < 2").batches(5))[0]) == 2


def test_all_columns_are_computed_in_one_pass(collection):
    read = []

    def noted(chips):
        read.append(len(chips))
        return chips

    image = collection.to_xarray(labels=False).image
    image = image.copy(data=image.data.map_blocks(noted, meta=image.data._meta)).chunk(sample=3)
    columns = {"mean": image.mean(("band", "y", "x")), "top": image.max(("band", "y", "x"))}
    with pytest.raises(UsageError, match="no name"):
        collection.assign(columns, split=1)
    assert read == []
    found = collection.assign(columns)
    assert read == [COUNT]
    pixels = collection.to_xarray(labels=False).image.values
    np.testing.assert_allclose(found.samples["mean"], pixels.mean((1, 2, 3)))
    assert found.samples.top.tolist() == pixels.max((1, 2, 3)).tolist()


def test_columns_on_the_command_line(collection, tmp_path):
    lines = ["cloud,id,who,day,clear,seen", "0.5,3,me,2020-01-01,true,1", "inf,5,,,false,", "", ",0,you,,,"]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    code, out = run_cli(["assign", collection.store, str(tmp_path / "s.csv"), "--json"])
    assert code == 0
    assert json.loads(out) == {
        "store": collection.store,
        "version": "1.0.1+1",
        "columns": {"cloud": 2, "who": 2, "day": 1, "clear": 2, "seen": 1},
        "removed": [],
    }
    assert [
        str(pq.read_schema(file_of(vs.open(collection.store))).field(n).type) for n in ("cloud", "day", "seen")
    ] == [
        "double",
        "string",
        "int64",
    ]
    code, out = run_cli(["query", collection.store, "--where", "cloud > 0", "--json"])
    rows = json.loads(out, parse_constant=pytest.fail)["samples"]  # JSON has no NaN
    assert [(s["id"], s["split"], s["cloud"], s["who"], s["clear"], s["seen"]) for s in rows] == [
        ("3", None, 0.5, "me", True, 1),
        ("5", None, None, None, False, None),
    ]
    code, out = run_cli(["query", collection.store, "--geojson"])
    found = {f["properties"]["id"]: f["properties"] for f in json.loads(out, parse_constant=pytest.fail)["features"]}
    assert [found[i]["cloud"] for i in ("3", "5", "0")] == [0.5, None, None]
    code, out = run_cli(["assign", collection.store, "--remove", "cloud", "--remove", "who"])
    assert out == f"{collection.store}: version 1.0.1+2, cloud: removed; who: removed\n"
    assert vs.open(collection.store).columns == ("day", "clear", "seen")


TABLES = {
    "": "not 'id' and others",
    "name,a\n1,2\n": "not 'id' and others",
    "id,a,a\n1,2,3\n": "not 'id' and others",
    "id,a\n1,2,3\n": "row 1 has not 2 fields",
    'id,a\n1,"2\n': "no table",
    "id,a\n9,2\n": "of no sample: '9'",
    "id,a\n1,2\n1,3\n": "two values for one id",
    "id,a\n1,\n": "all values are missing",
    "id\n1\n": "no column to assign",
    "id,a b\n1,2\n": "no name for a column",
    "\udcff": "no table",
}


@pytest.mark.parametrize("text", TABLES)
def test_tables_that_make_no_sense(collection, tmp_path, text):
    (tmp_path / "s.csv").write_bytes(text.encode(errors="surrogateescape"))
    code, out = run_cli(["assign", collection.store, str(tmp_path / "s.csv")])
    assert (code, out.count("\n")) == (2, 1)
    assert TABLES[text] in out
    assert run_cli(["assign", collection.store, str(tmp_path / "nothing.csv")])[0] == 2
    assert vs.open(collection.store).versions == ("1.0.1",)


# ---------------------------------------------------------------------------------------------- what is refused, limits

REFUSED = {
    "no columns": ({}, "no column to assign"),
    "unknown, removed": ({"a": None}, "no column 'a' to remove"),
    "id": ({"id": 1}, "'id' is no name"),
    "SPLIT": ({"SPLIT": 1}, "'SPLIT' is no name"),
    "mask": ({"mask": 1}, "'mask' is no name"),
    "samples": ({"samples": 1}, "'samples' is no name"),
    "empty": ({"": 1}, "'' is no name"),
    "space": ({"a b": 1}, "'a b' is no name"),
    "number": ({3: 1}, "3 is no name"),
    "underscore": ({"_a": 1}, "'_a' is no name"),
    "quote": ({'a"; DROP TABLE samples': 1}, "is no name"),
    "not ASCII": ({"nd\u0131vi": 1}, "is no name"),
    "long": ({"a" * 64: 1}, "is no name"),
    "SQL": ({"order": 1}, "'order' is a word of SQL"),
    "truth": ({"true": 1}, "'true' is a word of SQL"),
    "case": ({"a": 1, "A": 1}, "but for the case"),
    "many": ({f"c{n}": 1 for n in range(COLUMNS_LIMIT + 1)}, f"there would be {COLUMNS_LIMIT + 1} columns"),
    "short": ({"a": VALUES[1:]}, "6 values for 7 samples"),
    "long list": ({"a": [*VALUES, 1]}, "8 values for 7 samples"),
    "two dimensions": ({"a": np.zeros((7, 2))}, "1-dimensional"),
    "set": ({"a": set(IDS)}, "a is set, which has neither"),
    "generator": ({"a": iter(VALUES)}, "which has neither"),
    "no index": ({"a": pd.Series(VALUES)}, "ids is 0, which is no text"),
    "no ids": ({"a": xr.DataArray(VALUES, dims="sample")}, "without ids"),
    "image": ({"a": xr.DataArray(np.zeros((7, 2)), {"id": ("sample", IDS)}, ("sample", "x"))}, "without ids"),
    "one id": ({"a": xr.DataArray(VALUES, {"id": "0123456"}, "x")}, "without ids"),
    "stranger": ({"a": {"nobody": 1}}, "'nobody'"),
    "twice": ({"a": pd.Series([1, 2], index=["1", "1"])}, "two values for one id"),
    "mixed": ({"a": [1, "a", *VALUES[2:]]}, "a: Could not convert"),
    "large": ({"a": [2**70] * 7}, "a: "),
    "unsigned": ({"a": np.full(7, 2**64 - 1, "u8")}, "a: Integer value"),
    "dates": ({"a": np.full(7, "2020-01-01", "M8[D]")}, "a is of type date32"),
    "bytes": ({"a": [b"x"] * 7}, "a is of type binary"),
    "lists": ({"a": [[1]] * 7}, "a is of type list"),
    "complex": ({"a": np.zeros(7, "c8")}, "a: "),
    "surrogate": ({"a": "\ud800"}, "a: "),
    "text": ({"a": "x" * (TEXT_BYTES + 1)}, "more than 4096 bytes"),
    "nothing": ({"a": [None] * 7}, "nothing tells their type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(made, case):
    columns, words = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        made[1].assign(columns)
    assert words in caught.value.message
    assert vs.open(made[1].store).versions == ("1.0.1",)


def test_columns_have_names(made):
    for wrong in ([1, 2], "ndvi", 3, pa.array([1])):
        with pytest.raises(UsageError, match="which has no names"):
            made[1].assign(wrong)


def test_no_name_is_a_word_of_sql():
    """Every word of DuckDB's that is a name can stand in a condition as it is."""
    known = [word for (word,) in duckdb.sql("SELECT keyword_name FROM duckdb_keywords()").fetchall()]
    names = [word for word in known if is_column(word) and word not in words()]
    assert len(names) > 300
    schema = pa.schema([("position", "int64"), *((name, "int64") for name in names)])
    condition = Condition(" AND ".join(f"{name} IS NULL" for name in names), schema)
    assert condition.columns == ("position", *names)


def test_many_columns_of_long_texts(collection):
    """What the writer writes, the reader takes: no text swells the footer."""
    texts = {f"c{n}": "€" * (TEXT_BYTES // 3) for n in range(COLUMNS_LIMIT)}
    found = collection.assign(texts)
    assert found.columns == tuple(texts)
    assert set(found.samples.c63) == {texts["c63"]}
    group = pq.read_metadata(file_of(found)).row_group(0)
    assert group.column(group.num_columns - 1).statistics is None
    with pytest.raises(UsageError, match="there would be 65 columns"):
        found.assign(more=1)
    assert found.assign(c0=None, more=1).columns == (*list(texts)[1:], "more")
    assert found.verify().problems == ()
