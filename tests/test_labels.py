import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import LabelError, ReleaseError
from vedastore.model import LabelOptions
from vedastore.spec.labels import (
    CoordinateDecision,
    CoordinateEvidence,
    belongs,
    infer_task,
    parse_label,
    weigh,
    wrong_task,
)

WHERE = "r.tar.gz: labels/1.json"
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}
TRIANGLE = {"type": "Polygon", "coordinates": [[[1, 1], [5, 1], [1, 7], [1, 1]]]}
TWO = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], [[[9, 9], [10, 9], [9, 10], [9, 9]]]]}
OPEN = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4]]]}


def feature(label, geometry=None, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": {"label": label, **properties}}


def parse(document, **options):
    return parse_label(document, LabelOptions(**options), WHERE)


@pytest.mark.parametrize(("value", "flag"), [(0, 0), (1, 1), (True, 1), (False, 0), (1.0, 1), (0.0, 0), (-0.0, 0)])
def test_flags(value, flag):
    label = parse(feature({"cloud": value, "ship": 1}))
    assert (label.kind, label.declared, label.objects) == ("flags", ("cloud", "ship"), ())
    assert label.present == (("cloud", "ship") if flag else ("ship",))


@pytest.mark.parametrize(
    ("value", "name"),
    [("cloud", "cloud"), ("Wölkchen ☁", "Wölkchen ☁"), (7, "7"), (0, "0"), (1.5, "1.5"), (True, "true")],
)
def test_shorthand(value, name):
    label = parse(feature(value))
    assert (label.kind, label.declared, label.present) == ("name", (name,), (name,))


def test_empty_label():
    label = parse(feature({}))
    assert (label.kind, label.declared, label.present, label.objects) == ("empty", (), (), ())


def test_objects_of_every_form():
    wrapped = {"type": "Feature", "geometry": TRIANGLE, "properties": {"score": 1}}
    label = parse(feature({"car": [SQUARE, TWO, wrapped, [1, 2, 3.5, 4]], "boat": [], "air": [TRIANGLE]}))
    assert (label.kind, label.declared, label.present) == ("objects", ("air", "boat", "car"), ("air", "car"))
    assert [(o.class_name, o.ordinal, o.is_box) for o in label.objects] == [
        *(("car", 0, True), ("car", 1, False), ("car", 2, False), ("car", 3, True), ("air", 0, False)),
    ]
    shapes = [shapely.from_wkb(o.geometry) for o in label.objects]
    expected = [shapely.geometry.shape(g) for g in (SQUARE, TWO, TRIANGLE)]
    assert shapes[:3] == expected
    assert shapely.equals(shapes[3], shapely.box(1, 2, 3.5, 4))
    assert [o.bounds for o in label.objects] == [s.bounds for s in shapes]
    assert label.objects_bounds == (0, 0, 10, 10)


def test_no_objects_have_no_bounds():
    assert parse(feature({"car": []})).objects_bounds is None
    assert parse(feature({"car": []})).kind == "objects"


@pytest.mark.parametrize("document", [{"geometry": {}}, {"geometry": None}, {}])
def test_not_georeferenced(document):
    label = parse({"type": "Feature", "properties": {"label": "a"}, **document})
    assert (label.footprint, label.footprint_bounds, label.flags) == (None, None, ())


@pytest.mark.parametrize("geometry", [SQUARE, {**TWO, "bbox": [0, 0, 1, 1]}, OPEN])
def test_footprints(geometry):
    label = parse(feature({"a": 1}, geometry))
    shape = shapely.from_wkb(label.footprint)
    assert shape == shapely.geometry.shape(geometry)
    assert label.footprint_bounds == shape.bounds
    assert label.flags == (("ring-unclosed",) if geometry is OPEN else ())


def test_an_unclosed_object_is_flagged():
    assert parse(feature({"a": [SQUARE, OPEN]}, SQUARE)).flags == ("ring-unclosed",)


def test_properties_by_their_other_name():
    assert parse({"Properties": {"label": "a"}}).present == ("a",)
    assert parse({"type": "Feature", "Properties": {"label": {"a": 1}, "other": [1]}, "id": 4}).present == ("a",)


def test_other_properties_do_not_matter():
    assert parse(feature("a", None, score=float(2**70), other={"x": [None]})) == parse(feature("a"))


def test_label_field_and_default_label():
    document = {"properties": {"label": "a", "kind": {"b": 1}, "none": None}}
    assert parse(document, label_field="kind").present == ("b",)
    assert parse(document, label_field="kind", default_label="z").present == ("b",)
    assert parse(document, label_field="lost", default_label="z").present == ("z",)
    assert parse(document, label_field="none", default_label="z").present == ("z",)
    assert parse({}, default_label="z").present == ("z",)
    assert parse({"properties": None}, default_label="z").present == ("z",)
    assert parse({"properties": {"label": {}}}, default_label="z").kind == "empty"


@pytest.mark.parametrize(
    ("document", "message", "place"),
    [
        ([], "a label file is not a GeoJSON Feature", ""),
        ("x", "a label file is not a GeoJSON Feature", ""),
        ({"type": "FeatureCollection", "features": []}, "a GeoJSON 'FeatureCollection', not a Feature", ""),
        (SQUARE, "a GeoJSON 'Polygon', not a Feature", ""),
        ({"type": None}, "a GeoJSON None, not a Feature", ""),
        ({"properties": {}, "Properties": {}}, "both 'properties' and 'Properties'", ""),
        ({"properties": ["label"]}, "the properties of a label file are not a JSON object", ""),
        ({}, "there is no label: properties have no 'label'", ""),
        ({"properties": {"label": None}}, "there is no label", ""),
        (feature("a", {"type": "Point", "coordinates": [0, 0]}), "of type 'Point', not Polygon", ": geometry"),
        (feature("a", {"type": "Polygon"}), "polygon coordinates is of type NoneType", ": geometry"),
        (feature("a", [1]), "a geometry is of type list, not a GeoJSON object", ": geometry"),
        (feature(["a"]), "a label is a list, not {class: value} or a class", ": label"),
        (feature([]), "a label is a list", ": label"),
        (feature(""), "a class has an empty name", ": label"),
        (feature({"": 1}), "a class has an empty name", ": label"),
        (feature({"\udc00": 1}), "lone surrogate", ": label"),
        (feature({"a": 2}), "the class has the value 2, not 0, 1 or a list of objects", ": label: a"),
        (feature({"a": 0.5}), "the class has the value 0.5", ": label: a"),
        (feature({"a": -1}), "the class has the value -1", ": label: a"),
        (feature({"a": 10**400}), "the class has the value 1000000000", ": label: a"),
        (feature({"a": "1"}), "the class has the value '1'", ": label: a"),
        (feature({"a": None}), "the class has the value None", ": label: a"),
        (feature({"a": SQUARE}), "the class has the value {...}, not", ": label: a"),
        (feature({"a": 1, "b": []}), "both 0/1 values and lists of objects", ": label"),
        (feature({"a": [SQUARE], "b": 0}), "both 0/1 values and lists of objects", ": label"),
        (feature({"car": [SQUARE, 5]}), "a geometry is of type int", ": label: car[1]"),
        (feature({"car": [None]}), "a geometry is of type NoneType", ": label: car[0]"),
        (feature({"car": [{}]}), "a geometry is of type None", ": label: car[0]"),
        (feature({"car": [{"type": "Feature"}]}), "a geometry is of type NoneType", ": label: car[0]"),
        (feature({"car": [[1, 2, 3]]}), "a box has 3 numbers, not four", ": label: car[0]"),
        (feature({"car": [[]]}), "a box has 0 numbers, not four", ": label: car[0]"),
        (feature({"car": [[3, 0, 1, 5]]}), "minimum above its maximum: [3, 0, 1, 5]", ": label: car[0]"),
        (feature({"car": [[0, 6, 1, 5]]}), "minimum above its maximum", ": label: car[0]"),
        (feature({"car": [["0", 6, 1, 5]]}), "not all finite numbers", ": label: car[0]"),
        (feature({"car": [[True, 0, 1, 5]]}), "not all finite numbers", ": label: car[0]"),
    ],
)
def test_refusals_say_what_and_where(document, message, place):
    with pytest.raises(LabelError) as caught:
        parse(document)
    assert message in str(caught.value)
    assert caught.value.where == WHERE + place
    assert len(caught.value.message) < 200


def test_a_missing_label_tells_the_options():
    with pytest.raises(LabelError, match="properties have no 'kind'") as caught:
        parse({"properties": {"label": "a"}}, label_field="kind")
    assert "--label-field" in caught.value.hint
    assert "--default-label" in caught.value.hint


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(("a", "Polygon", "Feature")),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(("type", "geometry", "properties", "label", "coordinates", "a")), inner)
    ),
    max_leaves=25,
)


@given(JSON, JSON)
def test_any_json_is_a_label_or_a_label_error(label, geometry):
    for document in (label, feature(label, geometry)):
        try:
            parsed = parse(document)
        except LabelError:
            continue
        assert set(parsed.present) <= set(parsed.declared)
        assert all(isinstance(name, str) for name in parsed.declared)


# ------------------------------------------------------------------------------------------------------------ the task


@pytest.mark.parametrize(
    ("kinds", "only_boxes", "task"),
    [
        ({"flags"}, True, "classification"),
        ({"name"}, True, "classification"),
        ({"flags", "name", "empty"}, False, "classification"),
        ({"objects"}, True, "object_detection"),
        ({"objects"}, False, "segmentation"),
        ({"objects", "empty"}, True, "object_detection"),
        ({"objects", "name"}, False, "segmentation"),
    ],
)
def test_infer_task(kinds, only_boxes, task):
    assert infer_task(kinds, only_boxes=only_boxes, where=WHERE) == task


@pytest.mark.parametrize("kinds", [set(), {"empty"}])
def test_a_task_that_cannot_be_told(kinds):
    with pytest.raises(ReleaseError, match="the task cannot be told") as caught:
        infer_task(kinds, only_boxes=True, where=WHERE)
    assert "--task" in caught.value.hint


def test_which_forms_belong_to_a_task():
    forms = ("flags", "objects", "name", "empty")
    assert [belongs("classification", f) for f in forms] == [True, False, True, True]
    assert [belongs("object_detection", f) for f in forms] == [False, True, True, True]
    assert [belongs("segmentation", f) for f in forms] == [False, True, True, True]


@pytest.mark.parametrize(
    ("task", "kind", "form"),
    [("classification", "objects", "lists of objects"), ("segmentation", "flags", "0/1 values")],
)
def test_wrong_task(task, kind, form):
    error = wrong_task(task, kind, WHERE)
    assert error.message == f"the label has {form}, but the task is {task}"
    assert (type(error), error.where) == (LabelError, WHERE)


# -------------------------------------------------------------------------------------------------- label coordinates

CHIP = 256
ATLANTA = (-84.4759, 33.6285, -84.4712, 33.6326)  # west of Greenwich: no pixel looks like it
MUNICH = (11.5754, 48.1370, 11.5789, 48.1393)  # small positive degrees, inside the pixels of a chip
NULL_ISLAND = (0.001, 0.001, 0.0035, 0.0035)
CONTINENT = (5.0, 40.0, 65.0, 100.0)  # as large as a quarter of a chip's pixels


def inside(bounds, x0, y0, x1, y1):
    """Return a part of a footprint, given in fractions of it."""
    west, south, east, north = bounds
    width, height = east - west, north - south
    return west + x0 * width, south + y0 * height, west + x1 * width, south + y1 * height


@pytest.mark.parametrize(
    ("objects", "footprint", "verdict"),
    [
        ((0.0, 0.0, 256.0, 256.0), ATLANTA, "pixel"),
        ((13.0, 40.5, 80.0, 77.0), ATLANTA, "pixel"),
        ((13.0, 40.5, 80.0, 77.0), MUNICH, "pixel"),
        ((-30.0, -5.0, 270.0, 256.0), MUNICH, "pixel"),  # over the chip's edge
        ((0.0, 0.0, 256.0, 256.0), NULL_ISLAND, "pixel"),
        ((-84.4750, 33.6290, -84.4720, 33.6300), ATLANTA, "geographic"),
        ((-84.4762, 33.6280, -84.4700, 33.6330), ATLANTA, "geographic"),  # over the chip's edge
        ((11.5760, 48.1375, 11.5770, 48.1380), MUNICH, "geographic"),
        ((11.5740, 48.1365, 11.5800, 48.1400), MUNICH, "geographic"),  # over the chip's edge
        ((0.002, 0.002, 0.003, 0.003), NULL_ISLAND, "geographic"),
        ((20.0, 50.0, 30.0, 60.0), CONTINENT, "both"),
        ((5000.0, 5000.0, 5100.0, 5100.0), ATLANTA, "neither"),
        ((733600.0, 3725150.0, 733700.0, 3725250.0), ATLANTA, "neither"),  # UTM
        ((33.6290, -84.4750, 33.6300, -84.4720), ATLANTA, "neither"),  # swapped axes
        ((-60.0, 10.0, -20.0, 40.0), ATLANTA, "neither"),  # near the chip, but no part of it
        ((48.1375, 11.5760, 48.1380, 11.5770), MUNICH, "pixel"),
        ((-84.0, 33.0, 100.0, 100.0), ATLANTA, "pixel"),
    ],
)
def test_weigh(objects, footprint, verdict):
    found = weigh("1", objects, footprint, CHIP, CHIP)
    expected = {"pixel": (True, False), "geographic": (False, True), "both": (True, True), "neither": (False, False)}
    assert (found.id, found.pixel, found.geographic) == ("1", *expected[verdict])


LOW, HIGH = st.floats(-0.9, 0.95), st.floats(0.05, 1.9)
PARTS = st.tuples(LOW, LOW, HIGH, HIGH).map(
    lambda p: (min(p[0], p[2]), min(p[1], p[3]), max(p[0], p[2]), max(p[1], p[3]))
)


@given(st.floats(-179, 178), st.floats(-85, 84), st.floats(1e-4, 0.05), st.integers(16, 4096), PARTS)
def test_degrees_are_degrees_wherever_the_chip_lies(west, south, span, size, part):
    footprint = (west, south, west + span, south + span)
    found = weigh("1", inside(footprint, *part), footprint, size, size)
    assert (found.pixel, found.geographic) == (False, True)


@given(st.floats(-179, 178), st.floats(-85, 84), st.floats(1e-4, 0.05), st.integers(64, 4096), PARTS)
def test_pixels_are_pixels_wherever_the_chip_lies(west, south, span, size, part):
    footprint = (west, south, west + span, south + span)
    objects = inside((0.0, 0.0, float(size), float(size)), *part)
    found = weigh("1", objects, footprint, size, size)
    fits_footprint = (
        objects[0] >= west - span
        and objects[1] >= south - span
        and objects[2] <= west + 2 * span
        and objects[3] <= south + 2 * span
    )
    assert fits_footprint or (found.pixel, found.geographic) == (True, False)


def decide(*verdicts):
    decision = CoordinateDecision()
    for number, verdict in enumerate(verdicts):
        decision.add(CoordinateEvidence(f"s{number}", verdict in {"pixel", "both"}, verdict in {"geographic", "both"}))
    return decision.decide("r.tar.gz")


@pytest.mark.parametrize(
    ("verdicts", "coords"),
    [
        ([], None),
        (["pixel"], "pixel"),
        (["pixel", "both", "neither"], "pixel"),
        (["neither", "geographic", "both"], "geographic"),
        (["geographic"] * 5, "geographic"),
    ],
)
def test_decide(verdicts, coords):
    assert decide(*verdicts) == coords


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (
            ["pixel"] * 5 + ["geographic"] * 2,
            "degrees in others (pixels: 5 samples (s0, s1, s2 ...); degrees: 2 samples (s5, s6))",
        ),
        (["both", "neither"], "fit pixels as well as degrees (both: 1 sample (s0); neither: 1 sample (s1))"),
        (["neither"], "fit neither pixels nor degrees (neither: 1 sample (s0))"),
    ],
)
def test_doubtful_coordinates_are_refused_with_samples(verdicts, message):
    with pytest.raises(ReleaseError) as caught:
        decide(*verdicts)
    assert message in caught.value.message
    assert caught.value.where == "r.tar.gz"
    assert "--label-coords pixel|geographic" in caught.value.hint
