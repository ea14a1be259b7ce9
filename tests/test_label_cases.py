"""Label files from strangers, each as a whole release: converted and exported byte for byte, or refused by name.

Most cases are the rows of docs/labels.md; here are the bytes that a page cannot hold, and releases of several files.
"""

import codecs
import json
import random
import re
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import vedastore as vs
from tests.builders import (
    Release,
    footprint_of,
    geotiff,
    gnu_tar_members,
    make_release,
    pixels_of,
    plain_tiff,
)
from vedastore.errors import LabelError, ReleaseError
from vedastore.io.geojson import parse_json
from vedastore.model import LabelOptions, Limits
from vedastore.spec.labels import parse_label
from vedastore.spec.lonlat import bbox_intersects
from vedastore.spec.rules import RULES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "labels.md"
WITHIN = {
    "The file": "...",
    "The label": '{"properties": {"label": ...}}',
    "An object": '{"properties": {"label": {"car": [...]}}}',
    "A ring of an object": '{"properties": {"label": {"car": [{"type": "Polygon", "coordinates": [...]}]}}}',
    "The footprint": '{"geometry": ..., "properties": {"label": "car"}}',
    "The ring of a footprint": (
        '{"geometry": {"type": "Polygon", "coordinates": [...]}, "properties": {"label": "car"}}'
    ),
}
INFORMATION = {"footprint-georeferenced"}
ROW = re.compile(r"^\| `(.+)` \| (?:(accepted)|(flagged|refused): (.+)) \|$", re.MULTILINE)
IMAGE = plain_tiff(pixels_of((1, 32, 40)))
LABEL = b'{"properties": {"label": "car"}}'


def page_cases():
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        rows = list(ROW.finditer(body))
        assert len(rows) == body.count("\n| ") - 1, title  # all but the head
        for code, _, verdict, rules in (row.groups() for row in rows):
            label = WITHIN[title].replace("...", code)
            yield pytest.param(label.encode(), verdict, set(re.findall(r"[a-z0-9-]+", rules or "")), id=code[:70])


def release_of(*labels, image=IMAGE, meta=None):
    members = {f"r/images/{i}.tif": image for i in range(len(labels))}
    members |= {f"r/labels/{i}.json": label for i, label in enumerate(labels)}
    return Release(members | ({} if meta is None else {"r/meta.json": json.dumps(meta).encode()}), "r")


def accept(tmp_path, release, **options):
    """Convert a release, check that it comes back byte for byte, and return its collection."""
    store = tmp_path / "r.zarr"
    collection = vs.convert(release.tar(tmp_path / "r.tar"), store, workers=1, **options)
    collection.export(tmp_path / "back.tar")
    found = gnu_tar_members(tmp_path / "back.tar", tmp_path / "back")
    assert {n: d for n, d in found.items() if d is not None} == release.members
    return collection


def refuse(tmp_path, release, rule, **options):
    source = release.tar(tmp_path / "r.tar")
    with pytest.raises(ReleaseError) as caught:
        vs.convert(source, tmp_path / "r.zarr", workers=1, **options)
    assert (caught.value.rule, caught.value.exit_code) == (rule, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["r.tar"]
    assert len(str(caught.value)) < 1000
    return caught.value


def flags_of(collection):
    return [set(flags.tolist()) - INFORMATION for flags in collection.samples["flags"]]


@pytest.mark.parametrize(("label", "verdict", "rules"), list(page_cases()))
def test_the_page_is_right(tmp_path, label, verdict, rules):
    assert rules <= set(RULES)
    if verdict == "refused":
        error = refuse(tmp_path, release_of(label), *rules)
        assert error.where.startswith("r.tar: r/labels/0.json")
        return
    collection = accept(tmp_path, release_of(label))
    assert flags_of(collection) == [rules]
    assert collection[0].label == label_value(label)
    features, objects = collection.features, referee(label)
    assert features["class"].tolist() == [name for name, _ in objects]
    for found, (_, expected) in zip(features["geometry_px"], objects, strict=True):
        assert same_shape(found, expected)


def label_value(data):
    document = json.loads(data.decode("utf-8-sig"))
    return document[next(k for k in ("properties", "Properties") if k in document)]["label"]


def referee(data):
    """(class, shape) of every object, as the json module and shapely read them."""
    label = label_value(data)
    items = label.items() if isinstance(label, dict) else ()
    return [(name, shape_of(item)) for name, value in items if isinstance(value, list) for item in value]


def shape_of(item):
    if isinstance(item, list):
        return shapely.Polygon([item[:2], (item[2], item[1]), item[2:], (item[0], item[3]), item[:2]])
    return shapely.geometry.shape(item["geometry"] if item.get("type") == "Feature" else item)


def same_shape(found, expected):
    """The same numbers in the same rings, wherever those begin."""
    return shapely.equals_identical(shapely.normalize(found), shapely.normalize(expected))


# ----------------------------------------------------------------------------------------- what a page cannot hold


ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        *((LABEL.decode().encode(e), "json-encoding") for e in ENCODINGS),
        (LABEL.replace(b"car", b"\xff"), "json-encoding"),
        (LABEL.replace(b"car", "é".encode("latin-1")), "json-encoding"),
        (LABEL.replace(b"car", b"\xed\xa0\x80"), "json-encoding"),
        (LABEL.replace(b"car", b"\xc0\xaf"), "json-encoding"),
        (codecs.BOM_UTF8 + LABEL.replace(b"car", b"\xff"), "json-encoding"),
        (LABEL.replace(b"car", b"c\0r"), "json-syntax"),
        (LABEL + b"\0", "json-syntax"),
        (b"", "json-syntax"),
        (b" \n\t", "json-syntax"),
        (codecs.BOM_UTF8, "json-syntax"),
        (codecs.BOM_UTF8 * 2 + LABEL, "json-syntax"),
        (LABEL + b"\n" + LABEL, "json-syntax"),
        (LABEL.replace(b"car", b"a\nb"), "json-syntax"),
        (LABEL.replace(b"car", rb"\x41"), "json-syntax"),
        (LABEL[:-1], "json-syntax"),
        (LABEL.replace(b'"car"', b"9" * 4301), "json-number"),
        (LABEL.replace(b'"car"', b"9" * 400 + b".0"), "json-number"),
        (LABEL.replace(b'"car"', b'{"car": ' + b"9" * 4300 + b"}"), "label-form"),
        (b'{"properties": {"label": {"car": [[0, 0, 1, ' + b"9" * 400 + b"]]}}}", "geometry-form"),
        (LABEL.replace(b'"car"', b"[" * 600 + b"]" * 600), "json-limit"),
        (LABEL.replace(b'"car"', b"[" * 100_000 + b"]" * 100_000), "json-limit"),
        (LABEL.replace(b'"car"', b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "json-limit"),
        (b"[" * 100_000, "json-limit"),
        (LABEL.replace(b'"car"', b"[" * 400 + b"]" * 400), "label-form"),
        (LABEL.replace(b'"car"', b'{"car": ' + b"[" * 400 + b"]" * 400 + b"}"), "geometry-form"),
        (LABEL.replace(b'"car"', b'{"a": 1, "\\u0061": 2}'), "json-duplicate-key"),
        (b'{"properties": {"label": {"car": [[1, 2, 3, NaN]]}}}', "json-number"),
    ],
    ids=lambda v: repr(v)[:60],
)
def test_other_bytes_are_refused(tmp_path, label, rule):
    refuse(tmp_path, release_of(label), rule)


@pytest.mark.parametrize(
    ("label", "flags"),
    [
        (codecs.BOM_UTF8 + LABEL, {"json-bom"}),
        (b"\r\n\t " + LABEL + b" \n" * 5000, set()),
        (LABEL.replace(b'"car"', b'{"' + b"n" * 100_000 + b'": 1}'), set()),
        (LABEL.replace(b'"car"', b'"car", "note": ' + b"9" * 4300), set()),
        (LABEL.replace(b'"car"', b'"car", "note": ' + b"[" * 500 + b"]" * 500), set()),
        (LABEL.replace(b'"car"', b'"car", "note": "' + b"[" * 5000 + b'\\""'), set()),
        (LABEL.replace(b'"car"', '"Wölkchen ☁😀"'.encode()), set()),
        (b'{"properties": {"label": {"car": [[0, 0, 1e308, 1.7e308]]}}}', set()),
        (b'{"properties": {"label": {"car": [[1e-320, 1, 5, 5]]}}}', set()),
    ],
    ids=lambda v: repr(v)[:60],
)
def test_other_bytes_are_accepted(tmp_path, label, flags):
    assert flags_of(accept(tmp_path, release_of(label))) == [flags]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"json_bytes": len(LABEL) - 1}, "raise json_bytes"),
        ({"json_memory_bytes": 200}, "raise json_memory_bytes"),
        ({"json_depth": 1}, "raise json_depth"),
    ],
)
def test_limits_are_told_by_name(limits, told):
    with pytest.raises(LabelError) as caught:
        parse_json(LABEL, "labels/0.json", Limits(**limits))
    assert (caught.value.rule, caught.value.where) == ("json-limit", "labels/0.json")
    assert told in caught.value.hint


@pytest.mark.parametrize(
    ("label", "place"),
    [
        (b'{"properties": {"label": {"car": 2}}}', ": label: car"),
        (b'{"properties": {"label": {"a\\nb": 2}}}', ": label: a\\nb"),
        (b'{"properties": {"label": {"' + b"n" * 50_000 + b'": 2}}}', f": label: {'n' * 40}..."),
        (b'{"properties": {"label": {"car": [[0, 0, 1, 1], [1, 2, 3]]}}}', ": label: car[1]"),
        (b'{"properties": {"label": {"car": [{"type": "Polygon", "coordinates": [7]}]}}}', ": label: car[0]: ring 0"),
        (b'{"geometry": {"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 0], [1, 1]]], [[], 1]]}}',
         ": geometry: polygon 1: ring 0"),
    ],
    ids=lambda v: repr(v)[:60],
)  # fmt: skip
def test_a_refusal_has_the_place_inside_the_label(tmp_path, label, place):
    rule = "geometry-form" if "ring" in place or "[" in place else "label-form"
    error = refuse(tmp_path, release_of(LABEL, label), rule)
    assert error.where == f"r.tar: r/labels/1.json{place}"


# ------------------------------------------------------------------------------------------------ releases of several


def test_label_field_that_is_null(tmp_path):
    label = b'{"properties": {"label": "car", "kind": null}}'
    assert "'kind' is null" in refuse(tmp_path, release_of(label), "label-missing", label_field="kind").message
    assert accept(tmp_path, release_of(label), label_field="kind", default_label="boat").classes == ("boat",)


@pytest.mark.parametrize(
    ("task", "label"), [("classification", b"[[0, 0, 1, 1]]"), ("segmentation", b"1"), ("object_detection", b"0")]
)
def test_a_label_of_another_task(tmp_path, task, label):
    release = release_of(LABEL.replace(b'"car"', b'{"car": ' + label + b"}"), meta={"mlType": task})
    assert refuse(tmp_path, release, "label-task").where == "r.tar: r/labels/0.json"


def test_an_empty_label(tmp_path):
    release = release_of(LABEL.replace(b'"car"', b"{}"))
    refuse(tmp_path, release, "release-refused")
    assert accept(tmp_path, release, task="classification").samples["classes"][0].tolist() == []


def test_classes_that_meta_does_not_list(tmp_path):
    names = ["Car", "car", unicodedata.normalize("NFD", "é"), unicodedata.normalize("NFC", "é")]
    label = json.dumps({"properties": {"label": dict.fromkeys(names, 1)}}).encode()
    collection = accept(
        tmp_path, release_of(label, meta={"mlType": "classification", "classes": ["car"], "nclasses": 5})
    )
    assert collection.classes == tuple(sorted(names))
    root = json.loads((tmp_path / "r.zarr" / "zarr.json").read_bytes())["attributes"]["vedastore"]
    assert {f["rule"] for f in root["versions"][0]["findings"]} >= {"meta-classes", "meta-nclasses"}


def test_coordinates_that_could_be_both(tmp_path):
    label = b"""{"geometry": {"type": "Polygon", "coordinates": [[[1, 1], [30, 1], [30, 30], [1, 30], [1, 1]]]},
        "properties": {"label": {"car": [[2, 2, 9, 9]]}}}"""
    refuse(tmp_path, release_of(label), "coordinates-unclear")
    assert accept(tmp_path, release_of(label), label_coords="pixel").features["box_px"][0].tolist() == [2, 2, 9, 9]


@pytest.mark.parametrize(
    ("move", "flags"),
    [
        (lambda x, y: (x, y), set()),
        (lambda x, y: (y, x), {"footprint-swapped"}),
        (lambda x, y: (x + 1e-4, y), {"footprint-disagrees"}),
        (lambda x, y: (y + 1e-4, x), {"footprint-disagrees"}),
    ],
)
def test_footprints_of_images_that_know_better(tmp_path, move, flags):
    transform = (0.5, 0, 733_600, 0, -0.5, 3_725_150)
    image = geotiff(pixels_of((1, 32, 40)), transform)
    footprint = footprint_of(transform, 32, 40)
    footprint["coordinates"] = [[list(move(*p)) for p in footprint["coordinates"][0]]]
    label = json.dumps({"geometry": footprint, "properties": {"label": "car"}}).encode()
    assert flags_of(accept(tmp_path, release_of(label, image=image))) == [flags]


def test_a_shape_that_takes_too_long_to_check_is_told(tmp_path):
    """Four thousand parallel needles: every edge lies in the box of every other."""
    needles = [[[[i, 0], [i + 9000, 9000], [i + 0.5, 0], [i, 0]]] for i in range(4000)]
    label = json.dumps({"properties": {"label": {"car": [{"type": "MultiPolygon", "coordinates": needles}]}}}).encode()
    collection = accept(tmp_path, release_of(label))
    assert collection.samples["flags"][0].tolist() == ["geometry-unchecked"]


def test_a_shape_that_cannot_be_checked_is_told(tmp_path):
    rings = [[[-1, -9], [1.7e308, -9], [1.7e308, 256], [-1, 256], [-1, -9]], [[0, 1], [400, 90], [-1, 0], [0, 1]]]
    polygon = {"type": "Polygon", "coordinates": rings}
    label = json.dumps({"properties": {"label": {"car": [polygon]}}}).encode()
    assert accept(tmp_path, release_of(label)).samples["flags"][0].tolist() == ["geometry-unchecked"]


def test_footprints_over_the_antimeridian_are_found_from_both_sides(tmp_path):
    """However they are written, the table has the box of RFC 7946 for them."""
    rings = {
        "jump": [[179.5, 1], [-179.5, 1], [-179.5, 2], [179.5, 2], [179.5, 1]],
        "beyond": [[179.5, 1], [180.5, 1], [180.5, 2], [179.5, 2], [179.5, 1]],
        "before": [[-180.5, 1], [-179.5, 1], [-179.5, 2], [-180.5, 2], [-180.5, 1]],
    }
    polygons = [{"type": "Polygon", "coordinates": [ring]} for ring in rings.values()]
    halves = [[[[w, 1], [w + 0.5, 1], [w + 0.5, 2], [w, 2], [w, 1]]] for w in (179.5, -180)]
    polygons.append({"type": "MultiPolygon", "coordinates": halves})
    labels = [json.dumps({"geometry": p, "properties": {"label": "car"}}).encode() for p in polygons]
    collection = accept(tmp_path, release_of(*labels))
    version = json.loads((tmp_path / "r.zarr" / "zarr.json").read_bytes())["attributes"]["vedastore"]["versions"][0]
    table = pq.read_table(tmp_path / "r.zarr" / version["index"]["samples"]["key"])
    for row in table.column("bbox").to_pylist():
        box = tuple(row.values())
        assert box == (179.5, 1, -179.5, 2)
        assert bbox_intersects(box, (179.6, 1, 179.9, 2))
        assert bbox_intersects(box, (-179.9, 1, -179.6, 2))
        assert bbox_intersects(box, (179.9, 1.5, -179.9, 1.6))
        assert not bbox_intersects(box, (-10, 1, 10, 2))
        assert not bbox_intersects(box, (179.6, 3, 179.9, 4))
    west, _, east, _ = collection.bounds
    assert (west, east) == (-180, 180)


# --------------------------------------------------------------------------------------------------- any bytes at all


VALID = [
    data
    for task in ("classification", "object_detection", "segmentation")
    for name, data in make_release(2, task=task, coords="pixel", footprints=False, seed=3).members.items()
    if "/labels/" in name
]
PIECES = ["{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "d800", "null", "true", "-", "1e99", "e999", "NaN", "0", "\0",
          "é", '"label"', '"car"', '"type"', '"Polygon"', "[[", "]]", "99999999999999999999"]  # fmt: skip


@given(st.binary(max_size=40) | st.lists(st.sampled_from(PIECES)).map(lambda p: "".join(p).encode("utf-8")))
def test_any_bytes_are_a_label_or_refused(data):
    check_against_referee(data)


@given(st.sampled_from(VALID), st.integers(0, 2**32), st.integers(1, 4))
def test_mutated_labels_never_change_their_meaning(label, seed, times):
    rng = random.Random(seed)
    for _ in range(times):
        at = rng.randrange(len(label))
        piece = rng.choice(PIECES).encode()
        end = at + rng.choice((0, 1, len(piece), rng.randrange(30)))
        label = label[:at] + rng.choice((piece, b"", label[at:end] * 2)) + label[end:]
    check_against_referee(label)


def check_against_referee(data):
    """An accepted label has the objects that json and shapely find in it; anything else is a refusal with a rule."""
    refused = None
    try:
        label = parse_label(parse_json(data, "labels/0.json"), LabelOptions(), "labels/0.json")
    except ReleaseError as error:
        refused = error
    if refused is not None:
        assert refused.rule in RULES
        assert refused.where.startswith("labels/0.json")
        return
    expected = referee(data)
    assert [o.class_name for o in label.objects] == [name for name, _ in expected]
    for found, (_, shape) in zip(label.objects, expected, strict=True):
        assert same_shape(shapely.from_wkb(found.geometry), shape)
        assert found.bounds == shape.bounds
    named = label_value(data)
    if label.kind in {"flags", "objects"}:
        assert label.present == tuple(sorted(name for name, given in named.items() if given))
        assert label.declared == tuple(sorted(named))
