import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import LabelError, ReleaseError
from vedastore.model import Meta
from vedastore.spec.release import (
    check_bounds,
    check_meta,
    class_name,
    classify,
    comparable,
    import_request,
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


def test_check_meta():
    meta = parse_meta({"classes": ["car", "tree"], "nclasses": 2}, WHERE)
    assert check_meta(meta, {"car"}, WHERE) == []
    (finding,) = check_meta(meta, {"car", "zebra", "boat"}, WHERE)
    assert (finding.rule, finding.where) == ("meta-classes", WHERE)
    assert finding.message.endswith("does not list: boat, zebra")
    (finding,) = check_meta(parse_meta({"classes": ["car"], "nclasses": 4}, WHERE), {"car"}, WHERE)
    assert (finding.rule, finding.message) == ("meta-nclasses", "nclasses is 4, but 1 classes are listed")
    assert check_meta(parse_meta({"nclasses": 4}, WHERE), {"car"}, WHERE) == []


@pytest.mark.parametrize(
    ("features", "found"), [(5, False), (1, False), (4, True), (6, True), (0, True), (None, False)]
)
def test_check_bounds(features, found):
    document = {"type": "FeatureCollection", "features": None if features is None else [{}] * features}
    findings = check_bounds(document, 5, "b")
    assert [f.rule for f in findings] == ["bounds-count"] * found
    assert all(f"{features} chips, the release has 5" in f.message for f in findings)


@pytest.mark.parametrize("document", [[], None, {}, {"type": "Feature"}])
def test_check_bounds_leaves_other_forms_alone(document):
    assert check_bounds(document, 5, "b") == []


def test_import_request():
    meta = json.dumps({"description": "d", "public": True, "source": "WV3"}).encode()
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
