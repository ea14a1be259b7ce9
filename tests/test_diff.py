"""What changed between two versions: known by construction, and told again by json, shapely and rasterio."""

import json
import math
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

import vedastore as vs
from tests.builders import (
    Release,
    footprint_of,
    geotiff,
    make_release,
    pixels_of,
    plain_tiff,
    rasterio_georeference,
    read_tiff,
)
from tests.synthetic import build
from tests.test_docs import run_cli
from vedastore.errors import StoreError, UsageError
from vedastore.io import geometry
from vedastore.ops import matching
from vedastore.ops.matching import Objects, match_objects

SIDE = 60
CELL = 20
BOX = (8, 6)
CLASSES = ("boat", "car", "tree")
CRS = ("EPSG:32616", "EPSG:32617")


# ------------------------------------------------------------------------------------------------ releases and changes


@dataclass(frozen=True)
class Chip:
    """A sample: at most one object a cell of its grid, of a class, some pixels off the cell's corner."""

    seed: int = 0
    flipped: bool = False
    east: float = 0.0
    crs: str = CRS[0]
    nodata: float | None = None
    compress: str | None = None
    indent: int | None = None
    footprint_east: float | None = 0.0
    cells: dict = field(default_factory=dict)

    def image(self):
        pixels = pixels_of((1, SIDE, SIDE), seed=self.seed)
        transform = (0.5, 0, 733_600 + self.east, 0, -0.5, 3_725_150)
        pixels = pixels[:, ::-1] if self.flipped else pixels
        return geotiff(pixels, transform, self.crs, nodata=self.nodata, compress=self.compress or "none")

    def rank(self, cell):
        """The place of an object among those of its class."""
        return [c for c in sorted(self.cells) if self.cells[c][0] == self.cells[cell][0]].index(cell)

    def label(self):
        found = {}
        for cell in sorted(self.cells):
            name, dx, dy = self.cells[cell]
            x, y = CELL * (cell % 3) + 5 + dx, CELL * (cell // 3) + 6 + dy
            found.setdefault(name, []).append([x, y, x + BOX[0], y + BOX[1]])
        place = None
        if self.footprint_east is not None:
            place = footprint_of((0.5, 0, 733_600 + self.footprint_east, 0, -0.5, 3_725_150), SIDE, SIDE)
        feature = {"type": "Feature", "geometry": place, "properties": {"label": found}}
        return json.dumps(feature, indent=self.indent).encode()


BASE = {
    str(n): Chip(seed=n, cells={cell: (CLASSES[(cell + n) % 3], 0, 0) for cell in range(n, 9, 2)}) for n in range(5)
}


def pack(chips, path, *, version="1", top="top", others=()):
    """Write a release of chips."""
    meta = {"name": "Grid", "version": version, "mlType": "object_detection", "classes": list(CLASSES)}
    members = {f"{top}/meta.json": json.dumps(meta).encode(), **{f"{top}/{name}": data for name, data in others}}
    for name, chip in chips.items():
        members |= {f"{top}/images/{name}.tif": chip.image(), f"{top}/labels/{name}.json": chip.label()}
    return Release(members, top).tar(path)


def convert(release, store, **options):
    return vs.convert(release, store, label_coords="pixel", mode="overwrite", **options)


OFFSETS = st.integers(-2, 2)
OBJECTS = st.tuples(st.sampled_from(CLASSES), OFFSETS, OFFSETS)
CHANGES = {
    "flipped": st.booleans(),
    "east": st.sampled_from((0.0, 1.5)),
    "crs": st.sampled_from(CRS),
    "nodata": st.sampled_from((None, 0)),
    "compress": st.sampled_from((None, "deflate")),
    "indent": st.sampled_from((None, 1)),
    "footprint_east": st.sampled_from((0.0, 2.0, None)),
}


@st.composite
def changed(draw, chip):
    """A chip with some things changed, perhaps none; its objects moved, renamed, added and removed."""
    names = draw(st.sets(st.sampled_from([*CHANGES, "cells"]), max_size=3))
    values = {name: draw(CHANGES[name]) for name in sorted(names - {"cells"})}
    if "cells" in names:
        cells = draw(st.dictionaries(st.integers(0, 8), st.one_of(st.none(), OBJECTS), max_size=4))
        values["cells"] = {cell: found for cell, found in {**chip.cells, **cells}.items() if found is not None}
    return replace(chip, **values)


@st.composite
def successors(draw):
    """What a collection has become: chips by id in some order."""
    chips = {name: draw(changed(chip)) for name, chip in BASE.items() if name == "0" or draw(st.integers(0, 5))}
    for name in draw(st.sets(st.sampled_from(("a", "b")))):
        chips[name] = Chip(seed=9, cells={0: ("car", 0, 0)})
    return {name: chips[name] for name in draw(st.permutations(sorted(chips)))}


def expected_image(old, new):
    """What of an image changed, without looking at any file; None where its file is the same."""
    georeference = [name for name, a, b in (("crs", old.crs, new.crs), ("transform", old.east, new.east)) if a != b]
    found = ["pixels"] * (old.flipped != new.flipped) + georeference + ["nodata"] * (old.nodata != new.nodata)
    return tuple(found) or (("file",) if old.compress != new.compress else None)


def expected_objects(old, new):
    """What became of the objects: where a cell has one of the same class, it moved as far as its offset changed."""
    found = []
    for cell in {*old.cells, *new.cells}:
        a, b = old.cells.get(cell), new.cells.get(cell)
        if a == b:
            continue
        if a and b and a[0] == b[0]:
            dx, dy = b[1] - a[1], b[2] - a[2]
            shared = (BOX[0] - abs(dx)) * (BOX[1] - abs(dy))
            iou = shared / (2 * BOX[0] * BOX[1] - shared)
            found.append(("moved", a[0], None, old.rank(cell), new.rank(cell), math.hypot(dx, dy), iou))
        elif a and b and a[1:] == b[1:]:
            found.append(("renamed", b[0], a[0], old.rank(cell), new.rank(cell), None, None))
        else:
            found += [("removed", a[0], None, old.rank(cell), None, None, None)] if a else []
            found += [("added", b[0], None, None, new.rank(cell), None, None)] if b else []
    return found


def check(report, chips):
    """Compare a report on a successor of the base with what is known of both."""
    kept = [name for name in BASE if name in chips]
    assert set(report.added) == set(chips) - set(BASE)
    assert list(report.removed) == [name for name in BASE if name not in chips]
    images = {name: told for name in kept if (told := expected_image(BASE[name], chips[name]))}
    assert {image.id: image.changed for image in report.images} == images
    labels = {label.id: label for label in report.labels}
    assert set(labels) == {name for name in kept if BASE[name].label() != chips[name].label()}
    assert report.same == len(set(kept) - set(labels) - set(images))
    for name, label in labels.items():
        old, new = BASE[name], chips[name]
        had, has = ({found[0] for found in chip.cells.values()} for chip in (old, new))
        assert (set(label.classes_added), set(label.classes_removed)) == (has - had, had - has)
        assert label.footprint == (old.footprint_east != new.footprint_east)
        assert (label.footprint_m is None) == (not label.footprint or new.footprint_east is None)
        assert label.footprint_m is None or label.footprint_m == pytest.approx(2, rel=1e-3)
        key = lambda told: tuple(-1 if value is None else value for value in told[:5])  # noqa: E731
        wanted = sorted(expected_objects(old, new), key=lambda told: str(key(told)))
        found = sorted(map(tuple, label.objects), key=lambda told: str(key(told)))
        assert [told[:5] for told in found] == [told[:5] for told in wanted]
        for told, want in zip(found, wanted, strict=True):
            assert told[5:] == (pytest.approx(want[5:]) if want[5] is not None else (None, None))
        assert label.rewritten == (not wanted and had == has and not label.footprint)
    assert {m.name: m.change for m in report.members} == {}
    assert report.fields == ()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    return convert(pack(BASE, folder / "base.tar"), folder / "base.zarr")


def check_successor(base, folder, chips):
    """Compare with a version of the same store, and with one of another store."""
    path = pack(chips, folder / "new.tar", top="another")
    shutil.copytree(base.store, folder / "same.zarr")
    same = vs.convert(path, folder / "same.zarr", mode="append", version="2", label_coords="pixel")
    report = vs.open(folder / "same.zarr", "1").diff(same)
    check(report, chips)
    there_and_back(report, same.diff("1"))
    alone = base.diff(convert(path, folder / "alone.zarr"))
    assert replace(alone, old=report.old, new=report.new) == report


def there_and_back(report, back):
    """What was added one way is removed the other way."""
    assert (report.added, report.same, report.differs) == (back.removed, back.same, back.differs)
    assert Counter(report.images) == Counter(back.images)
    there, again = report.counts, back.counts
    assert there["objects_added"] == again["objects_removed"]
    assert there["objects_moved"] == again["objects_moved"]


@settings(max_examples=5)
@given(successors())
def test_what_is_changed_is_told(base, tmp_path_factory, chips):
    check_successor(base, tmp_path_factory.mktemp("new"), chips)


@pytest.mark.slow
@settings(max_examples=150)
@given(successors())
def test_what_is_changed_is_told_of_many(base, tmp_path_factory, chips):
    check_successor(base, tmp_path_factory.mktemp("new"), chips)


# ---------------------------------------------------------------------------------------------- an independent referee


def shapes_of(member, transform):
    """The objects of a label file by class, in pixels: degrees through pyproj and the image's transform."""
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", CRS[0], always_xy=True)
    label = json.loads(member)["properties"]["label"]
    place = lambda points: np.array([~transform * to_utm.transform(*p) for p in points.tolist()])  # noqa: E731
    return {
        name: [shapely.transform(shapely.from_geojson(json.dumps(o)), place) for o in label[name]] for name in label
    }


def referee(report, old, new):
    """Hold a report against both releases, read with json, shapely and rasterio."""
    images, labels = ({d.id: d for d in found} for found in (report.images, report.labels))
    ids = [{n.rpartition("/")[2].removesuffix(".tif") for n in r.members if "/images/" in n} for r in (old, new)]
    assert (set(report.added), set(report.removed)) == (ids[1] - ids[0], ids[0] - ids[1])
    for name in ids[0] & ids[1]:
        files = [
            (r.members[f"{r.top}/images/{name}.tif"], r.members[f"{r.top}/labels/{name}.json"]) for r in (old, new)
        ]
        assert (name in images) == (files[0][0] != files[1][0])
        places = [rasterio_georeference(image) for image, _ in files]
        if name in images:
            assert ("pixels" in images[name].changed) == (not np.array_equal(*(read_tiff(image) for image, _ in files)))
            assert ("crs" in images[name].changed) == (places[0][0] != places[1][0])
            assert ("transform" in images[name].changed) == (places[0][1] != places[1][1])
        assert (name in labels) == (files[0][1] != files[1][1])
        if name in labels:
            judge(labels[name], *(shapes_of(label, place[1]) for (_, label), place in zip(files, places, strict=True)))


def judge(told, old, new):
    """Every object is told of once, or has an equal one; what moved, did so as far as shapely says."""
    for name in {*old, *new}:
        mine = [o for o in told.objects if o.class_name == name]
        left = [[*old.get(name, [])], [*new.get(name, [])]]
        for o in mine:
            if o.change == "moved":
                a, b = left[0][o.old], left[1][o.new]
                assert o.distance_px == pytest.approx(a.centroid.distance(b.centroid), abs=1e-5)
                assert o.iou == pytest.approx(a.intersection(b).area / a.union(b).area, abs=1e-5)
        gone, come = ({getattr(o, side) for o in mine} - {None} for side in ("old", "new"))
        rest = [
            sorted(shapely.bounds(shape).round(4).tolist() for i, shape in enumerate(shapes) if i not in out)
            for shapes, out in zip(left, (gone, come), strict=True)
        ]
        assert len(gone) + len(come) == len(
            [o for o in mine if o.old is not None] + [o for o in mine if o.new is not None]
        )
        assert rest[0] == rest[1]


def shifted(data, metres):
    """A label file whose objects lie some metres to the east."""
    feature = json.loads(data)
    for shapes in feature["properties"]["label"].values():
        for shape in shapes:
            shape["coordinates"] = [[[x + metres / 93_000, y] for x, y in ring] for ring in shape["coordinates"]]
    return json.dumps(feature).encode()


def test_a_referee_agrees_on_labels_in_degrees(tmp_path):
    old = make_release(8, seed=3)
    other = make_release(9, seed=4)
    members = {n: d for n, d in old.members.items() if "/2." not in n}
    members |= {n: shifted(d, 0.7) for n, d in old.members.items() if n.endswith(("labels/0.json", "labels/1.json"))}
    for name in ("labels/3.json", "labels/4.json", "images/5.tif", "images/8.tif", "labels/8.json"):
        members[f"{old.top}/{name}"] = other.members[f"{old.top}/{name}"]
    moved = geotiff(read_tiff(old.members[f"{old.top}/images/6.tif"]), (0.5, 0, 734_201, 0, -0.5, 3_725_150))
    members[f"{old.top}/images/6.tif"] = moved
    new = Release(members, old.top)
    a, b = (vs.convert(r.tar(tmp_path / f"{n}.tar"), tmp_path / f"{n}.zarr") for n, r in (("a", old), ("b", new)))
    report = a.diff(b)
    referee(report, old, new)
    assert (report.added, report.removed) == (("8",), ("2",))
    assert {i.id: i.changed for i in report.images} == {"5": ("pixels",), "6": ("transform",)}
    assert {d.id for d in report.labels} == {"0", "1", "3", "4"}
    assert report.counts["objects_moved"]
    assert [d.objects for d in report.labels if d.id == "0"]
    document = report.to_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["counts"] == report.counts


# -------------------------------------------------------------------------------------------------- versions and sides


@pytest.fixture
def store(tmp_path):
    return vs.convert(pack(BASE, tmp_path / "r.tar"), tmp_path / "r.zarr", label_coords="pixel")


def test_columns_and_splits(store):
    split = store.split(given={"0": "train", "1": "test"})
    report = store.diff(split)
    assert report.columns == (vs_column("split", "string", "string", ("0", "1")),)
    assert (report.same, report.images, report.labels, report.counts["labels"]) == (3, (), (), 0)
    first = split.assign(seen={"0": 1.5, "3": math.nan}, told={"2": "x"})
    assert first.diff(first.version).differs is False  # NaN is what it was
    second = first.assign(seen={"0": 2.5, "1": 0.0, "3": math.nan}, told=None)
    wanted = vs_column("seen", "double", "double", ("0", "1")), vs_column("told", "string", None, ("2",))
    assert first.diff(second).columns == wanted
    third = second.assign(seen=None).assign(seen=[1, 2, 3, 4, 5])
    assert second.diff(third).columns == (vs_column("seen", "double", "int64", tuple(BASE)),)
    assert third.diff("1").columns[0] == vs_column("split", "string", "string", ("0", "1"))


def test_edits(store):
    label = store["1"].label
    gone = label["car"].pop()
    with store.edit() as edit:
        edit.update_labels({"1": label})
        edit.remove("3")
        edit.add({"new": (store["0"].image, store["0"].feature)})
    report = store.diff(edit.collection)
    assert (report.added, report.removed, report.same) == (("new",), ("3",), 3)
    (changed,) = report.labels
    assert (changed.id, changed.footprint) == ("1", False)
    assert [tuple(o)[:5] for o in changed.objects] == [("removed", "car", None, len(label["car"]), None)]
    label["car"].append(gone)
    back = edit.collection.update_labels({"1": label})
    assert store.diff(back).counts["labels"] == 0
    assert {m.name for m in report.members} == {"meta.json"}


def vs_column(*values):
    from vedastore.ops.differences import ColumnDiff

    return ColumnDiff(*values)


def test_other_members_and_what_is_said_of_the_version(tmp_path, store):
    chips = {name: replace(chip, cells={0: ("car", 0, 0)}) for name, chip in BASE.items()}
    others = (("README", b"read me"), ("notes/a.txt", b"1"))
    old = convert(pack(BASE, tmp_path / "a.tar", others=others), tmp_path / "a.zarr")
    others = (("notes/a.txt", b"2"), ("notes/b.txt", b"1"))
    path = pack(chips, tmp_path / "b.tar", version="2", top="other", others=others)
    new = convert(path, tmp_path / "b.zarr", name="Other", classes=["car", "pier"])
    report = old.diff(new)
    found = {m.name: m.change for m in report.members}
    wanted = {"README": "removed", "meta.json": "changed", "notes/a.txt": "changed", "notes/b.txt": "added"}
    assert found == wanted
    assert {f.field: (f.old, f.new) for f in report.fields} == {
        "name": ("Grid", "Other"),
        "classes": (CLASSES, ("car", "pier")),
    }
    assert report.counts["labels"] == 5


def test_selections(store, tmp_path):
    new = convert(pack({"1": BASE["1"], "2": replace(BASE["2"], flipped=True), "a": Chip()}, tmp_path / "n.tar"),
                  tmp_path / "n.zarr")  # fmt: skip
    report = store.diff(new)
    assert (report.old.samples, report.new.samples, report.same) == (5, 3, 1)
    assert (report.added, report.removed) == (("a",), ("0", "3", "4"))
    some = store.select(ids=["1", "3"])
    assert (some.diff(new).added, some.diff(new).removed) == (("2", "a"), ("3",))
    assert some.diff(new.select(ids=["1"])).added == ()
    told = store[::-1].diff("1")
    assert (told.differs, told.same) == (False, 5)
    told = some.diff("1")
    assert (told.differs, told.same, told.old.samples, told.new.samples) == (False, 2, 2, 2)


def test_classes_and_shapes_of_a_classification(tmp_path):
    def release(name, labels, shape):
        members = {f"t/images/{n}.tif": plain_tiff(pixels_of(shape, seed=n)) for n in range(len(labels))}
        for n, label in enumerate(labels):
            feature = {"type": "Feature", "geometry": None, "properties": {"label": label}}
            members[f"t/labels/{n}.json"] = json.dumps(feature).encode()
        return vs.convert(Release(members, "t").tar(tmp_path / f"{name}.tar"), tmp_path / f"{name}.zarr")

    a = release("a", [{"car": 1, "boat": 0}, {"car": 1}, "car"], (1, 8, 16))
    b = release("b", [{"car": 0, "boat": 1}, {"car": 1, "boat": 0}, "car"], (1, 16, 8))
    report = a.diff(b)
    assert [image.changed for image in report.images] == [("pixels", "shape")] * 3
    told = {d.id: (d.rewritten, d.classes_added, d.classes_removed) for d in report.labels}
    assert told == {"0": (False, ("boat",), ("car",)), "1": (True, (), ())}


def test_georeferencing_of_a_footprint_is_not_of_the_image(tmp_path):
    old = make_release(2, georeferenced=False)
    members = {**old.members, f"{old.top}/images/0.tif": plain_tiff(pixels_of(seed=0), software="other")}
    feature = json.loads(members[f"{old.top}/labels/0.json"])
    feature["geometry"]["coordinates"][0] = [[x + 0.001, y] for x, y in feature["geometry"]["coordinates"][0]]
    members[f"{old.top}/labels/0.json"] = json.dumps(feature).encode()
    new = Release(members, old.top)
    a, b = (vs.convert(r.tar(tmp_path / f"{n}.tar"), tmp_path / f"{n}.zarr", label_coords="geographic")
            for n, r in (("a", old), ("b", new)))  # fmt: skip
    report = a.diff(b)
    assert [(i.id, i.changed, i.kind) for i in report.images] == [("0", ("file",), "file")]
    (label,) = report.labels
    assert (label.id, label.footprint, label.objects) == ("0", True, ())
    ring = shapely.Polygon(feature["geometry"]["coordinates"][0]).centroid
    metres = pyproj.Geod(ellps="WGS84").inv(ring.x - 0.001, ring.y, ring.x, ring.y)[2]
    assert label.footprint_m == pytest.approx(metres)


def test_any_order_of_rows(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        build(tmp_path / name, 4200, seed)  # several row groups; the same ids in another order
    a, b = vs.open(tmp_path / "a"), vs.open(tmp_path / "b")
    report = a.diff(b)
    assert (report.added, report.removed, report.labels) == ((), (), ())
    assert {image.id for image in report.images} == set(a._snapshot.lookup.names(a._positions))
    (mine, theirs) = (
        {row["id"]: row for row in c._snapshot.table("samples").read(["id", "transform", "split"]).to_pylist()}
        for c in (a, b)
    )
    for image in report.images:
        other = mine[image.id]["transform"] != theirs[image.id]["transform"]
        assert image.changed == ("pixels", *(["transform"] if other else []))
    (splits,) = report.columns
    assert splits.samples == tuple(name for name in mine if mine[name]["split"] != theirs[name]["split"])


def test_only_what_differs_is_read_in_detail(tmp_path, groups):
    build(tmp_path / "a", 4200)
    a = vs.open(tmp_path / "a")
    b = a.assign(seen={a[4199].id: 1})
    groups.clear()
    assert a.diff(b).columns[0].samples == (a[4199].id,)
    assert {(table, *columns) for table, columns, _ in groups} == {
        ("samples", name) for name in ("id", "image_digest", "label", "split", "seen")
    }


def test_what_is_shared_is_not_read(tmp_path, groups):
    old = make_release(12)
    members = dict(old.members)
    members[f"{old.top}/labels/3.json"] = shifted(members[f"{old.top}/labels/3.json"], 0.7)
    members[f"{old.top}/labels/7.json"] += b" "
    del members[f"{old.top}/images/11.tif"], members[f"{old.top}/labels/11.json"]
    a = vs.convert(old.tar(tmp_path / "1.tar"), tmp_path / "s.zarr")
    path = Release(members, old.top).tar(tmp_path / "2.tar")
    b = vs.convert(path, tmp_path / "s.zarr", mode="append", version="2")
    assert b._snapshot.version.parts
    groups.clear()
    report = vs.open(a.store, "2").diff(a)
    assert (report.added, report.removed, report.same) == (("11",), (), 9)
    assert {label.id: label.rewritten for label in report.labels} == {"3": False, "7": True}
    groups.clear()
    assert not vs.open(a.store).diff("2").differs
    assert {tuple(columns) for _, columns, chosen in groups if chosen != []} == {("position",)}


def test_ids_that_occur_twice_are_damage(tmp_path, monkeypatch, store):
    from vedastore.store.lookup import Lookup

    other = vs.convert(tmp_path / "r.tar", tmp_path / "other.zarr", label_coords="pixel")
    monkeypatch.setattr(Lookup, "id_parts", lambda self, positions: [self.ids(0).slice(0, 1)] * len(positions))
    with pytest.raises(StoreError, match="same id"):
        store.diff(other)


# --------------------------------------------------------------------------------------------------- matching objects


def objects(*shapes, owner=0):
    """Objects of one sample, in pixels: (class, shape)."""
    found = np.array([shape for _, shape in shapes], dtype=object)
    count, names = len(shapes), [name for name, _ in shapes]
    ordinals = [names[:i].count(name) for i, name in enumerate(names)]
    boxes = shapely.bounds(found).reshape(-1, 4)
    return Objects([owner] * count, names, ordinals, [None] * count, geometry.dump_wkb(found), boxes)


def told(old, new):
    return [tuple(found)[:5] for _, found in match_objects(old, new)]


def test_rings_may_begin_anywhere_and_go_either_way():
    ring = [(0, 0), (9, 0), (9, 5), (4, 7), (0, 5)]
    for other in (ring[2:] + ring[:2], ring[::-1], [*ring, ring[0]]):
        assert told(objects(("car", shapely.Polygon(ring))), objects(("car", shapely.Polygon(other)))) == []


def test_equal_objects_are_counted_not_merged():
    box = shapely.box(0, 0, 5, 5)
    assert told(objects(*[("car", box)] * 3), objects(("car", box))) == [
        ("removed", "car", None, 1, None),
        ("removed", "car", None, 2, None),
    ]


def test_the_best_pair_comes_first_and_the_far_ones_none():
    old = objects(("car", shapely.box(0, 0, 10, 10)), ("car", shapely.box(4, 0, 14, 10)))
    new = objects(("car", shapely.box(5, 0, 15, 10)), ("car", shapely.box(100, 0, 110, 10)))
    assert told(old, new) == [
        ("added", "car", None, None, 1),
        ("removed", "car", None, 0, None),
        ("moved", "car", None, 1, 0),
    ]
    near = objects(("car", shapely.box(12, 0, 22, 10)))
    assert told(objects(("car", shapely.box(0, 0, 10, 10))), near)[0][0] == "moved"


def test_large_objects_of_nearly_one_box_are_told_apart():
    left, right = (shapely.Polygon([(0, 0), (30, 0), (30, 30), (x, 30)]) for x in (0.1, 29))
    old, new = (objects(*(("car", affinity.translate(s, by, by)) for s in (left, right))) for by in (0, 0.2))
    assert [(f.old, f.new, f.distance_px) for _, f in match_objects(old, new)] == [
        (0, 0, pytest.approx(math.hypot(0.2, 0.2))),
        (1, 1, pytest.approx(math.hypot(0.2, 0.2))),
    ]


def test_shapes_that_are_not_sound_have_no_overlap():
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    many = shapely.Point(5, 5).buffer(5, quad_segs=200)
    for shape in (bow, many):
        ((_, found),) = match_objects(objects(("car", shape)), objects(("car", shapely.box(0, 0, 10, 9))))
        assert found.change == "moved"
        assert found.iou is None
        assert found.distance_px == pytest.approx(shape.centroid.distance(shapely.Point(5, 4.5)))


def test_shapes_beyond_all_numbers():
    big, empty = shapely.box(-1e308, 0, 1e308, 1), shapely.Polygon()
    for shape in (big, empty):
        (found,) = match_objects(objects(("car", shape)), objects(("car", shapely.box(0, 0, 1, 1))))[:1]
        assert (found[1].distance_px, found[1].iou) == (None, None)
        assert told(objects(("car", shape)), objects(("car", shape))) == []


def test_more_than_can_be_compared_is_told_as_removed_and_added(monkeypatch):
    old, new = (objects(*(("car", shapely.box(i, y, i + 1, y + 1)) for i in range(9))) for y in (0.0, 0.5))
    assert {change for change, *_ in told(old, new)} == {"moved"}
    monkeypatch.setattr(matching, "_BLOCK_PAIRS", 10)
    assert {change for change, *_ in told(old, new)} == {"moved"}
    for limit in ("_PAIRS_LIMIT", "_CANDIDATES_LIMIT"):
        with monkeypatch.context() as patched:
            patched.setattr(matching, limit, 8)
            assert Counter(change for change, *_ in told(old, new)) == {"removed": 9, "added": 9}


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert(pack(BASE, tmp_path / "a.tar"), "a.zarr")
    chips = {name: chip for name, chip in BASE.items() if name != "4"} | {"x": Chip()}
    chips["0"] = replace(chips["0"], flipped=True, crs=CRS[1])
    chips["1"] = replace(chips["1"], indent=1)
    chips["2"] = replace(chips["2"], cells={2: ("car", 2, 0), **{c: v for c, v in BASE["2"].cells.items() if c > 4}})
    chips["3"] = replace(chips["3"], east=1.5)
    convert(pack(chips, tmp_path / "b.tar", version="2"), "b.zarr")
    code, printed = run_cli(["diff", "a.zarr", "1", "2", "--to", "b.zarr"])
    assert code == 0
    assert printed.splitlines() == [
        "a.zarr: 1 -> b.zarr: 2, 0 samples the same",
        "meta.json changed",
        "1 sample added: x",
        "1 sample removed: 4",
        "1 sample with other pixels: 0 (crs)",
        "1 sample with other georeferencing only: 3 (transform)",
        "1 sample with a rewritten label file that says the same: 1",
        "1 sample with other labels: 1 boat removed, 1 car moved by up to 2 px (IoU from 0.60)",
        "  2: -boat; 1 boat removed, 1 car moved by up to 2 px (IoU from 0.60)",
    ]
    code, document = run_cli(["diff", "a.zarr", "1", "--to", "b.zarr", "--json", "--exit-code"])
    assert (code, json.loads(document)) == (1, vs.open("a.zarr").diff(vs.open("b.zarr")).to_dict())
    assert run_cli(["diff", "a.zarr", "1", "--exit-code"]) == (0, "a.zarr: 1 and 1 are the same, 5 samples\n")
    code, printed = run_cli(["diff", "a.zarr", "1", "3"])
    assert (code, printed) == (2, "vedastore: a.zarr: there is no version '3' (the store has 1)\n")
    with pytest.raises(UsageError):
        vs.open("a.zarr").diff("3")


def test_many_differences_are_cut_short_for_people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "a.zarr", 60)
    build(tmp_path / "b.zarr", 30, seed=1)
    code, printed = run_cli(["diff", "a.zarr", "1", "--to", "b.zarr"])
    assert code == 0
    assert "30 samples removed: " in printed
    assert " and 10 more (--json)" in printed
    _, document = run_cli(["diff", "a.zarr", "1", "--to", "b.zarr", "--json"])
    assert len(json.loads(document)["removed"]) == json.loads(document)["counts"]["removed"] == 30
