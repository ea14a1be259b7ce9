"""Selections: the same samples as the plain way finds, whatever is combined; and no more read than that takes."""

import json
import pickle

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
from tests.test_hostile_store import key_of
from vedastore.store import sql
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
relaxed = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def test_tables_of_shapes(collection, frame):
    """Those of a collection too, whose columns hold lists; what is in metres is brought to degrees."""
    place = shapely.box(20, 10, 60, 50)
    found = collection.select(intersects=place)
    assert set(ids(found)) <= set(ids(collection.select(intersects=found.samples)))
    metres = geopandas.GeoSeries([None, place], crs="EPSG:4326").to_crs("EPSG:3857")
    assert len(found)
    assert ids(collection.select(intersects=metres)) == ids(found)


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
        {"intersects": geopandas.GeoDataFrame({"a": [1]})},
        {"intersects": geopandas.GeoSeries([None], crs="EPSG:32616")},
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
