import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import LabelError, ReleaseError
from vedastore.io.geojson import iter_features
from vedastore.model import Meta
from vedastore.spec.release import (
    META_KEYS,
    check_bbox,
    check_bounds,
    check_meta,
    class_name,
    classify,
    comparable,
    import_request,
    parse_bounds,
    parse_meta,
    parse_task,
)

WHERE = "r.tar.gz: meta.json"
IDS = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1).filter(
    lambda s: not s.startswith(".")
)


def any_case(text):
    return st.tuples(*(st.sampled_from((c.lower(), c.upper())) for c in text)).map("".join)


PREFIXES = st.sampled_from(("", "./", "././", "ts_104-1.0.1/", "./ts_104-1.0.1/", "top/./", "a b.zarr/"))


@given(PREFIXES, IDS, any_case(".tif") | any_case(".tiff"))
def test_images(prefix, sample_id, suffix):
    role = classify(f"{prefix}images/{sample_id}{suffix}")
    assert (role.kind, role.id, role.path) == ("image", sample_id, f"images/{sample_id}{suffix}")


@given(PREFIXES, IDS, any_case(".json") | any_case(".geojson"))
def test_labels(prefix, sample_id, suffix):
    role = classify(f"{prefix}labels/{sample_id}{suffix}")
    assert (role.kind, role.id) == ("label", sample_id)


@pytest.mark.parametrize(
    ("name", "kind", "top", "path"),
    [
        ("meta.json", "meta", "", "meta.json"),
        ("./meta.json", "meta", "", "meta.json"),
        ("ts/meta.json", "meta", "ts", "meta.json"),
        ("./ts/./bounds.geojson", "bounds", "ts", "bounds.geojson"),
        ("bounds.geojson", "bounds", "", "bounds.geojson"),
        ("labels/meta.json", "label", "", "labels/meta.json"),
        ("images/images/1.tif", "image", "images", "images/1.tif"),
        ("ts/images/1.tif", "image", "ts", "images/1.tif"),
    ],
)
def test_top_folder_and_path(name, kind, top, path):
    role = classify(name)
    assert (role.kind, role.top, role.path) == (kind, top, path)


@pytest.mark.parametrize(
    "name",
    [
        "README",
        "ts/README.md",
        ".DS_Store",
        "images/.DS_Store",
        "images/._1.tif",
        "ts/labels/._1.json",
        "images/.tif",
        "images/tif",
        "images/1.tif.aux.xml",
        "images/1.png",
        "images/1.json",
        "labels/1.tif",
        "images/sub/1.tif",
        "ts/images/sub/1.tif",
        "a/b/images/1.tif",
        "a/b/meta.json",
        "Images/1.tif",
        "META.JSON",
        "meta.json.bak",
        "1.tif",
    ],
)
def test_unknown(name):
    assert classify(name).kind == "unknown"


@pytest.mark.parametrize("name", ["ts/", "images/", "./images", "images/1.tif", "meta.json"])
def test_a_directory_is_never_a_half(name):
    role = classify(name, is_dir=True)
    assert (role.kind, role.id) == ("directory", "")


@given(st.text(min_size=1))
def test_any_name_has_a_role(name):
    role = classify(name)
    assert (role.kind in {"image", "label"}) == bool(role.id)


def test_comparable_names_are_the_same_for_all_packings():
    names = ("images/1.tif", "./images/1.tif", "ts/images/1.tif", "./ts/images/1.tif")
    assert {comparable(n, classify(n).top) for n in names} == {"images/1.tif"}
    assert comparable("other/README", "ts") == "other/README"


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("classification", "classification"),
        (" Classification ", "classification"),
        ("Object Detection", "object_detection"),
        ("object-detection", "object_detection"),
        ("OBJECT_DETECTION", "object_detection"),
        ("segmentation", "segmentation"),
    ],
)
def test_tasks(text, task):
    assert parse_task(text, WHERE) == task


@pytest.mark.parametrize("value", ["", "regression", 3, [], {"a": 1}])
def test_unknown_tasks_are_refused(value):
    with pytest.raises(ReleaseError, match=r"none of classification, object_detection, segmentation") as caught:
        parse_task(value, WHERE)
    assert caught.value.where == WHERE
    assert "--task" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "name"),
    [("car", "car"), ("", None), (3, "3"), (1.5, "1.5"), (True, "true"), ("Gebäude", "Gebäude"), ("\ud800", None)],
)
def test_class_names(value, name):
    if name is None:
        with pytest.raises(LabelError, match=r"empty name|lone surrogate"):
            class_name(value, WHERE)
    else:
        assert class_name(value, WHERE) == name


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["tree", "car", "car"], ("car", "tree")),
        ({"tree": 4, "car": 2}, ("car", "tree")),
        ([{"name": "tree", "id": 1}, {"name": "car"}, {"id": 3}], ("car", "tree")),
        ([1, True, "x"], ("1", "true", "x")),
        ("car", ()),
        (None, ()),
        (7, ()),
        ([], ()),
        ([["a", "b"]], ()),
    ],
)
def test_meta_classes(classes, expected):
    assert parse_meta({"classes": classes}, WHERE).classes == expected


def test_meta():
    document = {"name": "Buildings", "version": 1.5, "mlType": "Segmentation", "classes": ["b", "a"], "extra": [1]}
    assert parse_meta(document, WHERE) == Meta("Buildings", "1.5", "segmentation", ("a", "b"), document)
    assert parse_meta({}, WHERE) == Meta(declared={})
    assert parse_meta({"name": "", "version": None, "mlType": None}, WHERE).name is None


@pytest.mark.parametrize("document", [[], "x", 1, None])
def test_meta_that_is_no_object_is_refused(document):
    with pytest.raises(ReleaseError, match=r"meta\.json is not a JSON object"):
        parse_meta(document, WHERE)


def rules_of(findings):
    return [f.rule for f in findings]


FULL = dict.fromkeys(META_KEYS, "x") | {"mlType": "segmentation"}


@pytest.mark.parametrize(
    ("changes", "named", "expected"),
    [
        ({"classes": ["car", "tree"], "nclasses": 2}, {"car", "tree"}, []),
        ({"classes": ["car"], "nclasses": 1}, {"car", "zebra", "boat"}, ["meta-classes"]),
        ({"classes": ["car", "tree"], "nclasses": 2}, {"car"}, ["meta-unused-class"]),
        ({"classes": ["car"], "nclasses": 4}, {"car"}, ["meta-nclasses"]),
        ({"classes": ["car"], "nclasses": True}, {"car"}, ["meta-nclasses"]),
        ({"classes": ["car"], "nclasses": "1"}, {"car"}, ["meta-nclasses"]),
        ({"classes": ["car"], "nclasses": 1.0}, {"car"}, []),
        ({"classes": {"car": 9}, "nclasses": 1}, {"car"}, []),
        ({"classes": [], "nclasses": 0}, {"car"}, []),
        ({"classes": "car", "nclasses": 4}, {"car"}, []),
    ],
)
def test_check_meta(changes, named, expected):
    assert rules_of(check_meta(parse_meta(FULL | changes, WHERE), named, WHERE)) == expected


def test_check_meta_tells_keys_and_classes():
    (finding,) = check_meta(parse_meta(FULL | {"classes": ["car"], "nclasses": 1}, WHERE), {*"zyxwvu", "car"}, WHERE)
    assert (finding.where, finding.count) == (WHERE, 6)
    assert finding.message.endswith("does not list: u, v, w, x, y ...")
    lacking = {k: v for k, v in FULL.items() if k not in {"bbox", "public"}}
    (finding,) = check_meta(parse_meta(lacking, WHERE), set(), WHERE)
    assert (finding.rule, finding.message) == ("meta-key", "meta.json lacks bbox, public")
    assert check_meta(parse_meta(FULL | {"classes": ["car"], "nclasses": 1}, WHERE), set(), WHERE, complete=False) == []


EDGES, PIXEL = (10.0, 50.0, 10.5, 50.5), (0.001, 0.002)


@pytest.mark.parametrize(
    ("bbox", "complete", "ok"),
    [
        ([10, 50, 10.5, 50.5], True, True),
        ([9.9995, 49.999, 10.5005, 50.501], True, True),
        ([10.0005, 50.001, 10.4995, 50.499], True, True),
        ([10, 50, 0, 10.5, 50.5, 99], True, True),
        ([9.99, 50, 10.5, 50.5], True, False),
        ([10.01, 50, 10.5, 50.5], True, False),
        ([50, 10, 50.5, 10.5], True, False),
        ([9.99, 49, 11, 51], False, True),
        ([10.01, 50, 10.5, 50.5], False, False),
        ([10, 50, 10.5], True, False),
        ("10, 50, 10.5, 50.5", True, False),
        ([10, 50, 10.5, True], True, False),
        (None, True, False),
    ],
)
def test_check_bbox(bbox, complete, ok):
    meta = parse_meta({"bbox": bbox}, WHERE)
    assert rules_of(check_bbox(meta, EDGES, PIXEL, WHERE, complete=complete)) == ["meta-bbox"] * (not ok)


def test_check_bbox_does_not_judge_what_it_cannot_know():
    assert check_bbox(parse_meta({}, WHERE), EDGES, PIXEL, WHERE) == []
    assert check_bbox(parse_meta({"bbox": [0, 0, 1, 1]}, WHERE), (-179.9, 0, 179.9, 1), PIXEL, WHERE) == []


@pytest.mark.parametrize(("features", "found"), [(5, False), (1, False), (7, False), (4, True), (6, True), (0, True)])
def test_check_bounds(features, found):
    findings = check_bounds(features, 5, "b", read=7)
    assert rules_of(findings) == ["bounds-count"] * found
    assert all(f"{features} chips, the release has 5" in f.message for f in findings)


SQUARE = {"type": "Polygon", "coordinates": [[[1, 2], [3, 2], [3, 5], [1, 2]]]}


@pytest.mark.parametrize(
    ("document", "boxes"),
    [
        (SQUARE, [(1, 2, 3, 5)]),
        ({"type": "Feature", "geometry": SQUARE}, [(1, 2, 3, 5)]),
        ({"type": "Feature", "geometry": None}, [None]),
        (
            {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": {}}, SQUARE]},
            [None, (1, 2, 3, 5)],
        ),
        ({"type": "FeatureCollection", "features": []}, []),
        ({"type": "MultiPolygon", "coordinates": [[[[1, 2, 9]]], [[[0, 7, 9]]]]}, [(0, 2, 1, 7)]),
    ],
)
def test_parse_bounds(document, boxes):
    assert [parse_bounds(f, "b") for f in iter_features(json.dumps(document).encode(), "b")] == boxes


@pytest.mark.parametrize(
    "document",
    [
        *([], None, {}, 7, {"type": "FeatureCollection"}, {"type": "FeatureCollection", "features": [1]}),
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": [[["a", "b"]]]},
        {"type": "Polygon", "coordinates": [[[1, None]]]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [1]},
        {"type": "Feature", "geometry": 3},
    ],
)
def test_bounds_that_are_no_geojson(document):
    with pytest.raises(ReleaseError, match=r"bounds\.geojson") as caught:
        [parse_bounds(f, "b") for f in iter_features(json.dumps(document).encode(), "b")]
    assert caught.value.rule == "bounds-json"


def test_import_request():
    meta = {"description": "d", "public": True, "source": "WV3"}
    request = import_request(
        name="n", task="segmentation", dtype="uint8", shape=(3, 9, 9), meta=meta, options={}, archive="a.tar.gz"
    )
    assert request["metadata"] == {
        "name": "n",
        "description": "d",
        "dtype": "uint8",
        "imshape": [3, 9, 9],
        "mltype": "segmentation",
        "public": True,
        "sensors": ["WV3"],
    }
    assert request["options"] == {"default_label": None, "label_field": None, "s3path": "a.tar.gz"}
