"""Selections: the same samples as the plain way finds, whatever is combined; and no more read than that takes."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely import affinity

import vedastore as vs
from tests import synthetic
from tests.builders import make_release
from tests.test_hostile_store import key_of, put_table, version
from vedastore.io.objects import LocalObjects
from vedastore.store import lookup, sql
from vedastore.store.index import TableReader
from vedastore.store.kept import Kept
from vedastore.store.tables import GROUP_ROWS

SAMPLES = 20_000
GROUPS = -(-SAMPLES // GROUP_ROWS)
CLASSES = synthetic.CLASSES


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "s.zarr"
    synthetic.build(path, SAMPLES)
    return path


@pytest.fixture(scope="module")
def collection(store):
    return vs.open(store)


@pytest.fixture(scope="module")
def frame(store):
    """What geopandas makes of the samples' file."""
    return geopandas.read_parquet(samples_file(store))


@pytest.fixture(scope="module")
def edges(store):
    """What pandas makes of their boxes: xmin, ymin, xmax, ymax."""
    boxes = pq.read_table(samples_file(store), columns=["bbox"]).column(0).to_pylist()
    return pd.DataFrame([b or {} for b in boxes]).to_numpy().T


def samples_file(store):
    return store / key_of(store, "samples")


@pytest.fixture
def reads(monkeypatch):
    """Every read of an object: its key and its bytes."""
    found, read = [], LocalObjects.read

    def counted(self, key, start=0, length=None):
        data = read(self, key, start, length)
        found.append((key, len(data)))
        return data

    monkeypatch.setattr(LocalObjects, "read", counted)
    return found


@pytest.fixture
def groups(monkeypatch):
    """The columns and row groups of every table that is read."""
    found, read = [], TableReader.read

    def noted(self, columns=None, groups=None):
        found.append((self._table, columns, None if groups is None else list(groups)))
        return read(self, columns, groups)

    monkeypatch.setattr(TableReader, "read", noted)
    return found


def ids(found):
    """The ids of a collection."""
    return found._snapshot.table("samples").read_rows(found._positions, ["id"]).column(0).to_pylist()


# ----------------------------------------------------------------------------------------------- what is found, by rule


@pytest.mark.parametrize("wanted", [["car"], ["car", "tree"], list(CLASSES), [], ["car", "car"]])
def test_classes(collection, frame, wanted):
    expected = [i for i, found in zip(frame.id, frame.classes, strict=True) if set(found) & set(wanted)]
    assert ids(collection.select(classes=iter(wanted))) == expected
    if len(wanted) == 1:
        assert ids(collection.select(classes=wanted[0])) == expected


def test_split_and_limit(collection, frame):
    expected = frame.id[frame.split == "test"].tolist()
    assert ids(collection.select(split="test")) == expected
    assert ids(collection.select(split="test", limit=7)) == expected[:7]
    assert ids(collection.select(limit=np.int64(9))) == frame.id[:9].tolist()
    for found in (collection.select(limit=0), collection.select(ids=[])):
        assert len(found) == len(found.samples) == len(found.features) == len(list(found)) == 0
        assert found.bounds is None
    assert len(collection.select(limit=10 * SAMPLES)) == SAMPLES


def test_ids_come_in_the_order_of_the_collection(collection, frame):
    wanted = frame.id[[17_003, 5, 16_384, 16_383, 5]].tolist()
    found = collection.select(ids=wanted)
    assert ids(found) == frame.id[[5, 16_383, 16_384, 17_003]].tolist()
    assert ids(collection.select(ids=wanted[0])) == wanted[:1]
    with pytest.raises(vs.errors.SampleNotFoundError, match=r"2 ids are of no sample: 'x', 'y'"):
        collection.select(ids=[wanted[0], "x", wanted[1], "y", "x"])
    with pytest.raises(vs.errors.SampleNotFoundError):
        collection["\ud800"]
    with pytest.raises(KeyError, match=f"1 ids are of no sample: '{wanted[0]}'"):
        collection[:100].select(ids=wanted[:2])


def brute_force(edges, box):
    """Which stored boxes meet a box, by shapely alone: on five copies of the world, side by side."""
    (xmin, ymin, xmax, ymax), (west, south, east, north) = edges, box
    wanted = shapely.box(west, south, east + 360 if west > east else east, north)
    turned = np.where(xmin > xmax, xmax + 360, xmax)
    known = ~np.isnan(xmin)
    hit = np.zeros(len(xmin), bool)
    for turn in (-720, -360, 0, 360, 720):
        moved = shapely.box(xmin[known] + turn, ymin[known], turned[known] + turn, ymax[known])
        hit[known] |= shapely.intersects(moved, wanted)
    return hit


longitudes, latitudes = st.integers(-180, 180).map(float), st.integers(-85, 85).map(float)
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(west=longitudes, east=longitudes, south=latitudes, height=st.integers(0, 60))
def test_boxes(collection, frame, edges, *, west, east, south, height):
    box = (west, south, east, south + height)
    assert ids(collection.select(bbox=box)) == frame.id[brute_force(edges, box)].tolist()


@pytest.mark.parametrize(
    ("wests", "easts"), [((179.5, -180.5), (180.0, -180.0)), ((-180.0, 180.0, 540.0), (-179.5, 180.5, 540.5))]
)
def test_both_sides_of_the_antimeridian(collection, frame, wests, easts):
    """The box is the same wherever its longitudes are counted from, and finds every spelling of a footprint."""
    found = [ids(collection.select(bbox=(w, -90, e, 90))) for w, e in zip(wests, easts, strict=True)]
    assert all(f == found[0] for f in found)
    crossing = frame[frame["flags"].map(lambda flags: "footprint-antimeridian" in flags)]
    assert len(crossing) > 10
    spellings = crossing.geometry.bounds
    assert (spellings.maxx > 180).any()
    assert (spellings.minx < -180).any()
    assert (spellings.maxx - spellings.minx > 180).any()
    assert set(crossing.id) <= set(ids(collection.select(bbox=(179.9999, -90, -179.9999, 90))))


def on_the_plane(shape):
    """A footprint whose longitudes go on past 180, from one that may jump."""
    west, _, east, _ = shape.bounds
    if east - west <= 180:
        return shape
    return shapely.transform(shape, lambda points: np.where(points < 0, points + (360, 0), points))  # noqa: RUF005


@relaxed
@given(
    place=st.tuples(st.integers(-360, 360), latitudes, st.floats(0.01, 60), st.integers(3, 9)),
    kind=st.sampled_from(["shape", "mapping", "interface", "feature"]),
)
def test_shapes(collection, frame, place, kind):
    (*centre, radius, corners) = place
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    shape = shapely.Polygon(np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre)
    given_ = {
        "shape": shape,
        "mapping": shapely.geometry.mapping(shape),
        "interface": geopandas.GeoSeries([shape]),
        "feature": {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": {}},
    }[kind]
    known = frame[frame.geometry.notna()]
    plane = known.geometry.map(on_the_plane)
    hit = np.logical_or.reduce(
        [plane.intersects(affinity.translate(shape, turn)) for turn in (-720, -360, 0, 360, 720)]
    )
    assert ids(collection.select(intersects=given_)) == known.id[hit].tolist()


def test_a_shape_is_more_than_its_box(collection, frame):
    line = shapely.LineString([(-170, -70), (170, 70)]).buffer(3)
    found = collection.select(intersects=line)
    assert 0 < len(found) < len(collection.select(bbox=line.bounds))
    assert found.samples.intersects(line).all()
    assert ids(collection.select(intersects=line, bbox=(0, 0, 90, 70))) == [
        i for i in ids(found) if i in set(ids(collection.select(bbox=(0, 0, 90, 70))))
    ]


POLAR = [[-135, -80], [-45, -80], [45, -80], [135, -80], [-135, -80]]


def test_a_footprint_around_a_pole(tmp_path):
    release = make_release(2, georeferenced=False, task="classification")
    label = {"geometry": {"type": "Polygon", "coordinates": [POLAR]}, "properties": {"label": {"car": 1}}}
    release.members[f"{release.top}/labels/0.json"] = json.dumps(label).encode()
    found = vs.convert(release.tar_gz(tmp_path / "r.tar.gz"), tmp_path / "r.zarr")
    assert found[:1].bounds == (-180, -90, 180, -80)
    for place in (shapely.Point(170, -85), shapely.Point(-180, -90), shapely.Point(0, -89)):
        assert ids(found.select(intersects=place)) == ids(found.select(bbox=place.bounds)) == ["0"]
    assert not len(found.select(intersects=shapely.Point(170, -79)))


# ------------------------------------------------------------------------------------------------------------------ SQL

CONDITIONS = [
    "objects > 2",
    "objects > 1 AND split = 'train'",
    "split IS NULL OR split ILIKE 'TEST'",
    "list_contains(classes, 'car') AND NOT list_contains(classes, 'tree')",
    "'boat' IN classes",
    "bbox.ymin > 40 AND samples.bbox.xmax < 0",
    "id LIKE '%7' -- and no more",
    '"width" = 256 AND "position" % 7 = 0',
    "len(flags) > 0",
    "contains(label::VARCHAR, '00001')",
    "octet_length(envelope) = 4 AND fidelity = 'exact'",
    "geometry IS NULL",
    "false",
    "NULL",
    "1",
    "list_sum(list_transform(classes, lambda x: length(x))) > 10",
    "samples.objects > 1",
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(collection, store, condition):
    """As DuckDB itself finds them in the file."""
    query = f"SELECT id FROM read_parquet('{samples_file(store)}') AS samples WHERE {condition}\n ORDER BY position"
    assert ids(collection.select(where=condition)) == [row[0] for row in duckdb.sql(query).fetchall()]


REFUSED = {
    "": "syntax error",
    "nonsense = 1": '"nonsense" not found',
    "objects >": "syntax error",
    "split": "Could not convert string",
    "true; DROP TABLE samples": "SELECT statements",
    "true; SELECT 1": "condition",
    "true) OR (true": "syntax error",
    "true LIMIT 5": "syntax error",
    "true ORDER BY id": "syntax error",
    "true GROUP BY position": "syntax error",
    "true UNION SELECT 1": "syntax error",
    "true WINDOW w AS ()": "syntax error",
    "true USING SAMPLE 10%": "syntax error",
    "true, false": "syntax error",
    "/* objects": "unterminated",
    "SELECT true": "syntax error",
    "position IN (SELECT 1)": "subqueries",
    "EXISTS (FROM read_csv('/etc/passwd'))": "subqueries",
    "objects > ?": "parameters",
    "count(*) > 1": "aggregates",
    "row_number() OVER () = 1": "window",
    "COLUMNS(*) IS NOT NULL": "one by one",
    "COLUMNS('obj.*') > 1": "one by one",
    "samples IS NOT NULL": "one by one",
    "\ud800": "no text",
}


@pytest.mark.parametrize("terms", [300, 900, 3000])
def test_conditions_that_are_deep(collection, terms):
    """How deep the tree of a condition may be depends on the interpreter: it is told, or answered."""
    wanted = ids(collection.select(where="objects > 1"))
    try:
        assert ids(collection.select(where="+".join(["objects"] * terms) + f" > {terms}")) == wanted
    except vs.errors.UsageError as refused:
        assert terms > 300, refused  # noqa: PT017 - it may not be raised


@pytest.mark.parametrize("condition", REFUSED)
def test_conditions_that_are_refused(collection, condition):
    with pytest.raises(vs.errors.UsageError, match=REFUSED[condition]) as caught:
        collection.select(where=condition)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO 'x.csv'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
    ],
)
def test_nothing_outside_is_within_reach(query, tmp_path, monkeypatch):
    """Even if a query got past the parser."""
    monkeypatch.chdir(tmp_path)
    condition = sql.Condition("true")
    with pytest.raises(vs.errors.UsageError, match=r"disabled|locked"):
        condition._run(query)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- combinations, arguments


def test_selections_compose(collection, frame):
    whole = collection.select(classes="car", split="train", bbox=(-180, 0, 180, 90), where="objects > 1")
    steps = collection.select(where="objects > 1").select(bbox=(-180, 0, 180, 90)).select(split="train")
    assert ids(whole) == ids(steps.select(classes="car"))
    assert 10 < len(whole) < len(steps)
    backwards = collection[::-1].select(split="train", limit=50)
    assert ids(backwards) == frame.id[frame.split == "train"].tolist()[::-1][:50]
    assert ids(backwards.select(classes="car")) == [
        i for i in ids(backwards) if i in set(ids(collection.select(classes="car")))
    ]
    part = collection[100:15_000:3].select(classes="tree")
    assert (
        ids(part)
        == [s.id for s in part]
        == [i for i, c in frame.iloc[100:15_000:3][["id", "classes"]].values if "tree" in c]
    )
    assert ids(part[5:9]) == ids(part)[5:9]
    assert part[ids(part)[3]].position == part[3].position
    with pytest.raises(vs.errors.SampleNotFoundError):
        part[frame.id[0]]
    assert ids(pickle.loads(pickle.dumps(part))) == ids(part)
    assert len(collection.select()) == SAMPLES
    assert (
        repr(part)
        == f"<vedastore.Collection 'Synthetic' 1: {len(part)} samples, object_detection of {', '.join(CLASSES)}>"
    )


def test_what_a_selection_gives(collection, frame):
    found = collection.select(bbox=(-30, -30, 30, 30), classes="pier")
    expected = frame[frame.id.isin(ids(found))]
    assert found.bounds == tuple(expected.total_bounds)
    assert found.samples.geometry.geom_equals(expected.geometry.reset_index(drop=True)).all()
    features = collection.features
    pd.testing.assert_frame_equal(
        found.features.drop(columns="geometry"),
        features[features.id.isin(ids(found))].drop(columns="geometry").reset_index(drop=True),
    )
    over = collection.select(bbox=(179, -90, -179, 90))
    assert over.bounds[::2] == (-180, 180)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": "nobody"},
        {"classes": ["car", "nobody"]},
        {"classes": 3},
        {"classes": "\ud800"},
        {"ids": ["\ud800"]},
        {"split": "\ud800"},
        {"classes": [3]},
        {"ids": [3]},
        {"ids": [None]},
        {"split": 3},
        {"split": ["train"]},
        {"bbox": (0, 0, 1)},
        {"bbox": (0, 0, 1, 1, 1)},
        {"bbox": (0, 2, 1, 1)},
        {"bbox": (0, 0, 1, float("nan"))},
        {"bbox": (0, 0, float("inf"), 1)},
        {"bbox": (0, 0, 1, "x")},
        {"bbox": 7},
        {"intersects": 7},
        {"intersects": "POINT (1 1)"},
        {"intersects": {}},
        {"intersects": {"type": "Point"}},
        {"intersects": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}},
        {"intersects": shapely.Point()},
        {"intersects": shapely.Point(np.nan, 1)},
        {"intersects": shapely.Point(np.inf, 1)},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": "x"},
        {"where": 1},
    ],
    ids=str,
)
def test_arguments_that_are_refused(collection, wrong, groups):
    for part in (collection, collection[3:3]):
        with pytest.raises(vs.errors.UsageError) as caught:
            part.select(**wrong)
        assert "nobody" not in str(wrong) or "there are airport, barn" in str(caught.value)
    assert groups == []


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
    assert groups[0][1] == ("position", "objects")
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
