"""``vedastore query`` and ``vedastore stats``: what they print is what the collection gives."""

import json

import geopandas
import pytest

import vedastore as vs
from tests.builders import make_release
from tests.test_docs import run_cli
from vedastore.views import collection as collection_views


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    vs.convert(make_release(15).tar(folder / "r.tar"), folder / "r.zarr")
    return str(folder / "r.zarr")


def asked(store, *options):
    code, out = run_cli(["query", store, *options, "--json"])
    assert code == 0, out
    return json.loads(out)


def test_queries(store, tmp_path):
    collection = vs.open(store)
    west, south, _, _ = collection.bounds
    box = (west - 1, south - 1, west + 1e-4, south + 1)
    shape = tmp_path / "shape.geojson"
    shape.write_text(json.dumps(collection[3].geometry.__geo_interface__))
    for options, wanted in [
        ([], collection),
        (["--class", "car"], collection.select(classes="car")),
        (["--class", "car", "--class", "boat"], collection.select(classes=["car", "boat"])),
        (["--bbox", ",".join(map(str, box))], collection.select(bbox=box)),
        (["--intersects", str(shape)], collection.select(intersects=collection[3].geometry)),
        (["--where", "objects > 3", "--limit", "2"], collection.select(where="objects > 3", limit=2)),
        (["--id", "3", "--id", "1"], collection.select(ids=["1", "3"])),
        (["--split", ""], collection),
    ]:
        found = asked(store, *options)
        assert [s["id"] for s in found["samples"]] == [s.id for s in wanted]
        assert (found["count"], found["of"]) == (len(wanted), 15)


def test_a_box_that_begins_below_zero(store):
    assert asked(store, "--bbox", "-180,-90,180,90")["count"] == 15


def test_lines_and_footprints(store, tmp_path):
    code, out = run_cli(["query", store, "--limit", "3"])
    assert (code, len(out.splitlines())) == (0, 3)
    code, out = run_cli(["query", store, "--class", "car", "--geojson"])
    (tmp_path / "f.geojson").write_text(out)
    frame = geopandas.read_file(tmp_path / "f.geojson")
    wanted = vs.open(store).select(classes="car").samples
    assert frame.id.tolist() == wanted.id.tolist()
    assert frame.geometry.geom_equals(wanted.geometry.reset_index(drop=True)).all()


@pytest.mark.parametrize("form", ["--json", "--geojson", "--csv", "--quiet"])
@pytest.mark.parametrize("where", ["true", "false"])
def test_rows_are_read_some_at_a_time(store, monkeypatch, form, where):
    """And what is printed does not tell."""
    sizes = []
    frame = collection_views.sample_frame
    monkeypatch.setattr(collection_views, "sample_frame", lambda s, p: sizes.append(len(p)) or frame(s, p))
    whole = run_cli(["query", store, form, "--where", where])
    monkeypatch.setattr("vedastore.cli.stores._TOGETHER", 4)
    assert run_cli(["query", store, form, "--where", where]) == whole
    assert sizes == ([15, 4, 4, 4, 3] if where == "true" else [])
    if "json" in form:
        found = json.loads(whole[1])
        assert len(found["samples" if form == "--json" else "features"]) == (15 if where == "true" else 0)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--class", "unicorn"], 2),
        (["--bbox", "1,2,3"], 2),
        (["--bbox", "a,b,c,d"], 2),
        (["--where", "nonsense"], 2),
        (["--intersects", "nowhere.geojson"], 2),
        (["--limit", "-1"], 2),
        (["--split", "train"], 2),
        (["--json", "--geojson"], 2),
        (["--id", "nobody"], 2),
    ],
)
def test_questions_that_make_no_sense(store, options, code):
    assert run_cli(["query", store, *options])[0] == code


OBJECTS = {
    "2": 2,
    "2..5": (2, 5),
    "2..": (2, None),
    "..1": (None, 1),
    "car=1": {"car": 1},
    "car=..1": {"car": (None, 1)},
}


@pytest.mark.parametrize("text", OBJECTS)
def test_numbers_of_objects_in_words(store, text):
    collection = vs.open(store)
    code, out = run_cli(["query", store, "--objects", text, "--json"])
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, [s["id"] for s in found["samples"]]) == (0, [s.id for s in collection.select(objects=OBJECTS[text])])
    assert 0 < found["count"] < 15


def test_several_questions_at_once(store):
    collection = vs.open(store)
    words = ["--objects", "2..4", "--objects", "car=1..", "--class", "boat", "--class", "car", "--match", "all"]
    code, out = run_cli(["query", store, *words, "--split", "", "--limit", "2", "--json"])
    wanted = collection.select(objects=(2, 4), classes=["boat", "car"], match="all", limit=2)
    assert (code, [s["id"] for s in json.loads(out)["samples"]]) == (0, [s.id for s in wanted])
    assert len(wanted)


@pytest.mark.parametrize("text", ["", "x", "..", "car=", "1-2", "-1", "1..2..3", "5..2", "1.5", "nobody=1", "9" * 5000])
def test_numbers_that_make_no_sense(store, text):
    code, out = run_cli(["query", store, f"--objects={text}"])
    assert (code, len(out.splitlines()), len(out) < 500) == (2, 1, True)


def test_stats_on_the_command_line(store):
    code, out = run_cli(["stats", store, "--json"])
    assert (code, json.loads(out)) == (0, json.loads(json.dumps(vs.open(store).stats().to_dict())))
    code, out = run_cli(["stats", store])
    lines = out.splitlines()
    assert (code, lines[0]) == (0, "15 samples")
    assert sum(line.startswith("band ") for line in lines) == 3
    assert [line.split(":")[0] for line in lines if line.startswith("class ")] == [
        f"class {name}" for name in vs.open(store).classes
    ]
    told = vs.open(store).stats().classes["car"]
    (line,) = (line for line in lines if line.startswith("class car: "))
    assert line == (
        f"class car: {told['samples']} samples, {told['objects']} objects,"
        f" median area {told['area_px']['median']:.6g} px, {told['area_m2']['median']:.6g} m2"
    )
