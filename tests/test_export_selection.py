"""A selection as a release of its own: the same bytes where nothing changes, the truth where something does."""

import json
import re
from functools import partial

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import TASKS, Release, geotiff, gnu_tar_members, make_release, pixels_of, plain_tiff
from tests.test_docs import run_cli
from tests.test_lookup import rewrite_table
from vedastore.errors import StoreError, UsageError
from vedastore.io.objects import LocalObjects
from vedastore.spec.excerpt import feature_id, owners
from vedastore.spec.repairs import replace_values
from vedastore.store.chips import ShardReader
from vedastore.store.index import TableFile

TOP = "ts_104-1.0.1"
META, BOUNDS = f"{TOP}/meta.json", f"{TOP}/bounds.geojson"
SAMPLES = 12


def with_meta(release, **changes):
    """The release with other keys in meta.json, in the order that they have."""
    document = json.loads(release.members[META])
    release.members[META] = json.dumps(document | changes).encode()
    return release


def footprints(release):
    """The footprint of every sample, by id."""
    labels = {n: d for n, d in release.members.items() if "/labels/" in n and n.endswith(".json")}
    return {n.rpartition("/")[2].removesuffix(".json"): json.loads(d)["geometry"] for n, d in labels.items()}


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def with_bounds(release, document, **options):
    release.members[BOUNDS] = document if isinstance(document, bytes) else json.dumps(document, **options).encode()
    return release


def by_id(release, names):
    found = footprints(release)
    return {"type": "FeatureCollection", "features": [feature(found[n] or None, id=n, cloud=1.50) for n in names]}


def edges_of(release, names):
    """The box around some footprints, by shapely."""
    return list(shapely.total_bounds([shapely.geometry.shape(footprints(release)[n]) for n in names]))


def names_of(release):
    return [*release.images()]


def store_of(release, tmp_path, **options):
    return vs.convert(release.tar(tmp_path / "r.tar"), tmp_path / "r.zarr", **options)


def exported(part, tmp_path, name="part", **options):
    """The members of an export, as GNU tar has them, and the report."""
    path = tmp_path / f"{name}.tar.gz"
    report = part.export(path, overwrite=True, **options)
    return gnu_tar_members(path, tmp_path / name), report


def check_smaller(collection, part, release, tmp_path):
    """Compare an export with what its source says, and convert it again; return its meta.json and bounds.geojson."""
    found, report = exported(part, tmp_path)
    chosen = {s.id for s in part}
    left = {n for n in release.pairs if n.rpartition("/")[2].partition(".")[0] not in chosen}
    assert list(found) == [n for n in release.members if n not in left]
    changed = [n for n in found if found[n] != release.members[n]]
    assert set(changed) <= {META, BOUNDS}
    assert sorted(changed) == sorted(r.member for r in report.rewritten)
    assert (report.samples, report.members, report.left_out) == (len(part), len(found), 0)
    assert (report.identical, report.equivalent) == (len(found) - len(changed), 0)
    again = vs.convert(tmp_path / "part.tar.gz", tmp_path / "again.zarr", mode="overwrite")
    ordered = sorted(part, key=lambda s: s.position)
    assert [s.id for s in again] == [s.id for s in ordered]
    assert (again.classes, again.task, again.name) == (collection.classes, collection.task, collection.name)
    for new, old in zip(again, ordered, strict=True):
        np.testing.assert_array_equal(new.image.values, old.image.values)
        assert new.label == old.label
    assert again.bounds == part.bounds
    assert not [f for f in again.findings if f["rule"].startswith(("bounds-", "meta-bbox", "meta-classes"))]
    assert again.verify(against=tmp_path / "part.tar.gz").ok
    return json.loads(found.get(META, b"{}")), json.loads(found.get(BOUNDS, b"{}"))


# ---------------------------------------------------------------------------------------------------- what comes of it


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("order", ["paired", "images_first", "labels_reversed"])
def test_a_selection_is_a_release(tmp_path, task, order):
    release = make_release(SAMPLES, task=task, order=order, seed=3)
    with_meta(release, bbox=edges_of(release, names_of(release)), source="WV3")
    collection = store_of(release, tmp_path)
    part = collection[::-1].select(classes="car", limit=4)
    assert 1 < len(part) < SAMPLES
    meta, bounds = check_smaller(collection, part, release, tmp_path)
    names = sorted((s.id for s in part), key=int)
    before = json.loads(release.members[META])
    assert list(meta.items()) == [*(before | {"bbox": edges_of(release, names)}).items()]
    assert bounds == {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": footprints(release)[n]} for n in names],
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A release with a feature for each sample by id, in another order; its store."""
    release = make_release(SAMPLES)
    with_bounds(release, by_id(release, names_of(release)[::-1]) | {"bbox": [0, 0, 1, 1], "foreign": [1.50]})
    with_meta(release, bbox=edges_of(release, names_of(release)))
    release.members[f"{TOP}/README"] = b"read me"
    folder = tmp_path_factory.mktemp("shared")
    return release, store_of(release, folder)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.sets(st.integers(0, SAMPLES - 1), min_size=1), workers=st.integers(1, 3), step=st.sampled_from([1, -1])
)
def test_any_samples_make_a_release(shared, tmp_path, *, chosen, workers, step):
    """However they are chosen and by however many threads: the archive is the same to the byte."""
    release, collection = shared
    names = [str(n) for n in sorted(chosen)]
    found, report = exported(collection[::step].select(ids=names), tmp_path, workers=workers)
    exported(collection.select(ids=names[::-1]), tmp_path, "again", workers=4 - workers)
    assert (tmp_path / "part.tar.gz").read_bytes() == (tmp_path / "again.tar.gz").read_bytes()
    if len(chosen) == SAMPLES:
        assert found == release.members
        assert report.rewritten == ()
        return
    box = edges_of(release, names)
    assert json.loads(found[META]) == json.loads(release.members[META]) | {"bbox": box}
    expected = by_id(release, [n for n in names_of(release)[::-1] if n in names]) | {"bbox": box, "foreign": [1.5]}
    assert json.loads(found[BOUNDS]) == expected
    assert b'"cloud": 1.5' in found[BOUNDS]


def test_a_release_without_other_members(tmp_path):
    release = make_release(5, meta=False, top="")
    collection = store_of(release, tmp_path, task="segmentation", classes=["boat", "building", "car"])
    found, report = exported(collection[1:3], tmp_path)
    assert found == {n: d for n, d in release.members.items() if re.search(r"/[12]\.", n)}
    assert (report.identical, report.rewritten) == (4, ())


def test_for_import(tmp_path):
    """Images and labels alone; the request says what most of the selected images are."""
    release = make_release(5)
    for number in (3, 4):
        release.members[f"{TOP}/images/{number}.tif"] = geotiff(pixels_of((1, 16, 20), "uint16"))
    release.members[f"{TOP}/images/4.tif.aux.xml"] = b"<a/>"
    collection = store_of(release, tmp_path)
    found, report = exported(collection.select(ids=["0", "3", "4"]), tmp_path, for_import=True)
    assert found == {n: d for n, d in release.pairs.items() if re.search(r"/[034]\.(tif|json)$", n)}
    assert (report.rewritten, report.left_out, report.samples, report.members) == ((), 0, 3, 6)
    assert report.request["metadata"]["imshape"] == [1, 16, 20]
    assert report.request["metadata"]["dtype"] == "uint16"
    whole = collection.export(tmp_path / "whole.tar.gz", for_import=True)
    assert whole.request["metadata"]["imshape"] == [3, 32, 40]


def test_images_of_every_fidelity(tmp_path):
    """Files that do not come back byte for byte are told apart from those that are rewritten."""
    release = make_release(4)
    release.members[f"{TOP}/images/1.tif"] = plain_tiff(pixels_of((3, 32, 40)), compression="lzma")
    release.members[f"{TOP}/labels/1.json"] = b'{"geometry": {}, "properties": {"label": {}}}'
    collection = store_of(with_meta(release, bbox=[0, 0, 1, 1]), tmp_path)
    report = collection[1:3].export(tmp_path / "p.tar.gz")
    whole = collection.export(tmp_path / "w.tar.gz")
    assert report.equivalent == whole.equivalent
    assert report.identical + report.equivalent + len(report.rewritten) == report.members == 6


# ------------------------------------------------------------------------------------------------------- bounds.geojson


def single(release, **more):
    west, south, east, north = edges_of(release, names_of(release))
    ring = [[west, south], [west, north], [east, north], [east, south], [west, south]]
    return feature({"type": "Polygon", "coordinates": [ring]}, name="all") | more


FORMS = {
    "by order": lambda r: {"type": "FeatureCollection", "features": [feature(g) for g in footprints(r).values()]},
    "by id": lambda r: by_id(r, names_of(r)),
    "by id, more": lambda r: by_id(r, names_of(r)) | {"features": [*by_id(r, names_of(r))["features"], feature(None)]},
    "own id": lambda r: {
        "features": [{"id": int(n), "type": "Feature", "geometry": g} for n, g in footprints(r).items()],
        "type": "FeatureCollection",
    },
    "one of a collection": lambda r: {"type": "FeatureCollection", "features": [single(r)], "bbox": [0, 0, 1, 1]},
    "one": lambda r: single(r, bbox=[0, 0, 0, 1, 1, 9], id="x"),
    "a geometry": lambda r: single(r)["geometry"],
    "of others": lambda r: by_id(r, [*names_of(r)[1:], names_of(r)[0]]) | {
        "features": [feature(g) for g in [*footprints(r).values()][::-1]]
    },
    "no GeoJSON": lambda r: b"[1, 2",
    "points": lambda r: {"type": "FeatureCollection", "features": [feature({"type": "Point", "coordinates": [1, 2]})]},
    "none": lambda r: {"type": "FeatureCollection", "features": []},
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", FORMS)
def test_bounds_of_every_form(tmp_path, form, indent):
    release = make_release(5)
    with_bounds(release, FORMS[form](release), indent=indent)
    collection = store_of(release, tmp_path)
    part = collection.select(ids=["1", "4"])
    _, found = check_smaller(collection, part, release, tmp_path)
    before = FORMS[form](release)
    if form in {"by order", "by id", "by id, more", "own id"}:
        assert found == before | {"features": [before["features"][n] for n in (1, 4)]}
        assert list(found) == list(before)
        return
    around = found if form == "one" else found["features"][0]
    assert shapely.geometry.shape(around["geometry"]).equals(shapely.box(*part.bounds))
    if form == "one":
        assert found | {"geometry": 0} == before | {"geometry": 0, "bbox": [*part.bounds[:2], 0, *part.bounds[2:], 9]}
    elif form == "one of a collection":
        assert found["bbox"] == list(part.bounds)
        assert around["properties"] == {"name": "all"}
    else:
        assert found == {"type": "FeatureCollection", "features": [around]}


def test_features_of_samples_that_were_skipped(tmp_path):
    """By id, features of samples that are not in the store do not matter."""
    release = make_release(5)
    with_bounds(release, by_id(release, names_of(release)))
    release.members[f"{TOP}/images/2.tif"] = b"II*\0 no image"
    collection = store_of(release, tmp_path, on_error="skip")
    found, _ = exported(collection.select(ids=["0", "3"]), tmp_path)
    assert [f["properties"]["id"] for f in json.loads(found[BOUNDS])["features"]] == ["0", "3"]


def test_ids_that_are_numbers_of_another_kind(tmp_path):
    """Features numbered from 1, in the order of samples named from 0: they are those whose footprints they have."""
    release = make_release(5)
    places = footprints(release).values()
    numbered = [{"id": number, **feature(place)} for number, place in enumerate(places, 1)]
    collection = store_of(with_bounds(release, {"type": "FeatureCollection", "features": numbered}), tmp_path)
    _, bounds = check_smaller(collection, collection.select(ids=["1", "3"]), release, tmp_path)
    assert [f["id"] for f in bounds["features"]] == [2, 4]


def test_samples_without_a_place_need_no_feature(tmp_path):
    release = make_release(4, georeferenced=False, task="classification")
    release.members[f"{TOP}/labels/2.json"] = b'{"geometry": null, "properties": {"label": {"car": 1}}}'
    with_bounds(release, by_id(release, ["3", "1", "0"]))
    found, _ = exported(store_of(release, tmp_path)[1:], tmp_path)
    assert [f["properties"]["id"] for f in json.loads(found[BOUNDS])["features"]] == ["3", "1"]


def test_samples_without_a_place(tmp_path):
    release = make_release(4, georeferenced=False, task="classification")
    release.members[f"{TOP}/labels/2.json"] = b'{"geometry": null, "properties": {"label": {"car": 1}}}'
    with_meta(release, bbox=edges_of(release, ["0", "1", "3"]))
    collection = store_of(with_bounds(release, by_id(release, names_of(release))), tmp_path)
    meta, bounds = check_smaller(collection, collection.select(ids="2"), release, tmp_path)
    assert meta["bbox"] is None
    assert [f["geometry"] for f in bounds["features"]] == [None]
    check_smaller(collection, collection[1:3], release, tmp_path)


@pytest.mark.parametrize("form", ["by order", "one", "no GeoJSON"])
def test_a_release_without_any_place_keeps_what_it_says(tmp_path, form):
    release = make_release(4, georeferenced=False, footprints=False)
    whole = make_release(4)
    with_meta(with_bounds(release, FORMS[form](whole)), bbox=[0, 0, 1, 1])
    found, report = exported(store_of(release, tmp_path)[1:3], tmp_path)
    assert found[META] == release.members[META]
    assert (found[BOUNDS] == release.members[BOUNDS]) is (report.rewritten == ())


def test_over_the_antimeridian(tmp_path):
    """The box is that of ``Collection.bounds``: all longitudes, where a footprint runs over the line."""
    release = make_release(3, georeferenced=False, task="classification")
    for number, west in enumerate((179.9, 179.9995, -179.9)):
        ring = [[(x + 180) % 360 - 180, y] for x, y in shapely.box(west, -17, west + 0.001, -16.999).exterior.coords]
        label = {"geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"label": {"car": 1}}}
        release.members[f"{TOP}/labels/{number}.json"] = json.dumps(label).encode()
    with_meta(with_bounds(release, by_id(release, names_of(release))), bbox=[179.9, -17, -179.899, -16.999])
    collection = store_of(release, tmp_path)
    for part in (collection[:2], collection[1:], collection.select(ids=["0", "2"])):
        meta, _ = check_smaller(collection, part, release, tmp_path)
        assert meta["bbox"] == list(part.bounds)
    assert collection[:2].bounds == (-180, -17, 180, -16.999)


# ----------------------------------------------------------------------------------------------------- every other byte


META_TEXT = """\ufeff{
\t"na\\u006de" : "bbox", "extra": {"bbox": [1, 2], "a": "}\\", \\"bbox\\": [0]"}, "x": [1.50, 1e2, {"bbox": null}],
  "bb\\u006fx":  [ 1, 2,
    3, 4 ]  , "mlType": "segmentation","classes": ["car", "boat", "building"],
"version": "1.0.1" }
"""


def test_the_rest_of_meta_json_keeps_every_byte(tmp_path):
    release = make_release(3)
    release.members[META] = META_TEXT.encode()
    part = store_of(release, tmp_path)[:2]
    found, report = exported(part, tmp_path)
    new = json.dumps(list(part.bounds))
    assert found[META].decode() == META_TEXT.replace("[ 1, 2,\n    3, 4 ]", new)
    assert report.rewritten[0].member == META
    assert "bbox" in report.rewritten[0].reason


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", 'c"\\']), inner),
    max_leaves=12,
)


@given(
    document=st.dictionaries(st.sampled_from(["a", "b", 'c"\\', "é"]), values),
    changes=st.dictionaries(st.sampled_from(["a", 'c"\\', "other"]), values),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_values_are_replaced_in_place(document, changes, indent, ascii_only):
    dump = partial(json.dumps, indent=indent, ensure_ascii=ascii_only)
    texts = {name: dump(value).encode("utf-8", "surrogatepass") for name, value in changes.items()}
    data = dump(document).encode("utf-8", "surrogatepass")
    done = replace_values(data, texts)
    assert json.loads(done.decode("utf-8", "surrogatepass")) == {n: changes.get(n, v) for n, v in document.items()}
    back = {n: dump(document[n]).encode("utf-8", "surrogatepass") for n in changes if n in document}
    if indent is None:
        assert replace_values(done, back) == data


def test_a_box_that_is_true_stays(tmp_path):
    """Leaving out a sample in the middle changes nothing that meta.json says."""
    release = make_release(3)
    with_meta(release, bbox=edges_of(release, names_of(release)))
    _, report = exported(store_of(release, tmp_path).select(ids=["0", "2"]), tmp_path)
    assert [r.member for r in report.rewritten] == [BOUNDS]


@pytest.mark.parametrize(("box", "kept"), [([0, 0, -5, 1, 1, 7], [-5, 7]), ("0,0,1,1", []), ([], []), (None, None)])
def test_boxes_of_every_form(tmp_path, box, kept):
    release = with_meta(make_release(3), bbox=box)
    part = store_of(release, tmp_path)[:2]
    found = json.loads(exported(part, tmp_path)[0][META])["bbox"]
    west, south, east, north = part.bounds
    assert found == (None if kept is None else [west, south, *kept[:1], east, north, *kept[1:]])


# -------------------------------------------------------------------------------------------------------- other members


def test_what_belongs_to_a_sample_shares_its_fate(tmp_path):
    release = make_release(3)
    release.members |= {
        f"{TOP}/README": b"read me", f"{TOP}/images/0.tif.aux.xml": b"<0/>", f"{TOP}/images/1.tfw": b"1",
        f"{TOP}/labels/._1.json": b"\0", f"{TOP}/labels/2.txt": b"2", f"{TOP}/images/notes.txt": b"n",
        f"{TOP}/images/more/1.vrt": b"1", f"{TOP}/docs/1.md": b"1", f"{TOP}/images/1": b"no suffix",
    }  # fmt: skip
    part = store_of(release, tmp_path).select(ids=["0", "2"])
    found, report = exported(part, tmp_path)
    gone = {n for n in release.members if n not in found}
    assert gone == {f"{TOP}/{n}" for n in ("images/1.tif", "labels/1.json", "images/1.tfw", "labels/._1.json",
                                           "images/more/1.vrt")}  # fmt: skip
    assert report.left_out == 3
    assert all(found[n] == d for n, d in release.members.items() if n in found and n not in {META, BOUNDS})


def test_the_longest_id_is_the_owner(tmp_path):
    """``a.b.tfw`` is of ``a.b``, where there is one, and else of ``a``."""
    release = make_release(2, top="")
    names = {"0": "a", "1": "a.b"}
    release.members = {re.sub(r"/([01])\.", lambda m: f"/{names[m[1]]}.", n): d for n, d in release.members.items()}
    release.members |= {"images/a.b.tfw": b"a.b", "images/a.c.tfw": b"a"}
    collection = store_of(release, tmp_path)
    for name, others in (("a", {"images/a.c.tfw"}), ("a.b", {"images/a.b.tfw"})):
        found, _ = exported(collection.select(ids=name), tmp_path)
        assert {n for n in found if n.endswith(".tfw")} == others


def test_owners_are_few():
    assert owners("images/" + "a." * 2000, "") == ["a." * (1999 - n) + "a" for n in range(3)]
    assert owners("top/images/1.tif.aux.xml", "") == []
    assert feature_id({"properties": {"id": "\ud800"}}) is feature_id([]) is feature_id({"id": True}) is None


# ------------------------------------------------------------------------------------------------- refusals, and reads


def test_what_is_refused(shared, tmp_path):
    _, collection = shared
    target = tmp_path / "p.tar.gz"
    for part in (collection[:0], collection.select(where="false")):
        with pytest.raises(UsageError, match="no sample in the selection"):
            part.export(target)
    with pytest.raises(UsageError, match=r"one of version 1\.0\.1"):
        collection[:3].export(target, version="2")
    with pytest.raises(UsageError, match="lies in the store"):
        collection[:3].export(f"{collection.store}/p.tar.gz")
    assert not target.exists()
    assert collection[:3].export(target, version="1.0.1").samples == 3
    with pytest.raises(vs.errors.ConflictError):
        collection[:3].export(target)
    assert collection[:3].verify(against=None).samples == SAMPLES


def test_damage_elsewhere_does_not_matter(tmp_path):
    """Only the chips of the selection are read, and only they can be found to be damaged."""
    collection = store_of(make_release(6), tmp_path)
    (shard,) = tmp_path.glob("r.zarr/chips/*/image/c/0/0/0/0")
    data = bytearray(shard.read_bytes())
    data[10] ^= 0xFF
    shard.write_bytes(data)
    assert collection[1:].export(tmp_path / "p.tar.gz").samples == 5
    with pytest.raises(StoreError):
        collection[:2].export(tmp_path / "q.tar.gz")
    assert not (tmp_path / "q.tar.gz").exists()


def test_no_pixel_and_no_label_of_another_sample_is_read(tmp_path, monkeypatch):
    collection = store_of(make_release(SAMPLES), tmp_path)
    rewrite_table(tmp_path / "r.zarr", "samples", row_group_size=1)
    rows, parts, groups = [], [], []
    read_rows, read_parts, read_table = ShardReader.read_rows, LocalObjects.read_parts, TableFile.read
    monkeypatch.setattr(ShardReader, "read_rows", lambda self, some: rows.extend(some) or read_rows(self, some))

    def noted_parts(self, key, start, lengths):
        parts.append((key, start, len(lengths)))
        return read_parts(self, key, start, lengths)

    def noted_table(self, columns=None, chosen=None):
        if self._table == "samples" and columns and {"label", "envelope"} & set(columns):
            groups.extend(chosen)
        return read_table(self, columns, chosen)

    monkeypatch.setattr(LocalObjects, "read_parts", noted_parts)
    monkeypatch.setattr(TableFile, "read", noted_table)
    part = vs.open(collection.store).select(ids=["9", "2", "3"])
    assert rows == parts == groups == []
    part.export(tmp_path / "p.tar.gz", workers=1)
    assert sorted(rows) == [2, 3, 9]
    assert sorted(count for _, _, count in parts) == [1, 2]  # neighbours are read at once
    assert set(groups) - {0} == {2, 3, 9}  # the first image names the top folder


# --------------------------------------------------------------------------------------------------- the command line


def test_the_command(shared, tmp_path):
    release, collection = shared
    target = str(tmp_path / "c.tar.gz")
    code, out = run_cli(["export", collection.store, target, "--id", "3", "--id", "1", "--json"])
    told = json.loads(out)
    assert code == 0
    assert (told["samples"], told["identical"], told["left_out"]) == (2, 5, 0)
    assert [r["member"] for r in told["rewritten"]] == [n for n in release.members if n in {META, BOUNDS}]
    collection.select(ids=["1", "3"]).export(tmp_path / "p.tar.gz")
    assert (tmp_path / "c.tar.gz").read_bytes() == (tmp_path / "p.tar.gz").read_bytes()
    code, out = run_cli(["export", collection.store, target, "--overwrite", "--objects", "car=1..", "--limit", "2"])
    lines = out.splitlines()
    assert code == 0
    assert "7 members (5 byte-identical, 0 equivalent, 2 rewritten)" in lines[0]
    assert [line.split()[:2] for line in lines[1:]] == [["rewritten", f"{META}:"], ["rewritten", f"{BOUNDS}:"]]
    assert run_cli(["export", collection.store, target, "--overwrite", "--where", "false"])[0] == 2
    code, out = run_cli(["export", collection.store, target, "--overwrite"])
    assert (code, "31 byte-identical" in out, "rewritten" in out) == (0, False, False)
    assert Release(gnu_tar_members(tmp_path / "c.tar.gz", tmp_path / "whole")).members == release.members


def test_progress_counts_members(shared, tmp_path):
    _, collection = shared
    told = []
    collection[2:5].export(tmp_path / "p.tar.gz", progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 9) for n in range(1, 10)]
