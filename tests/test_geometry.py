import math
import struct

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rasterio.warp import transform as warp

from vedastore.errors import LabelError
from vedastore.io import geometry
from vedastore.spec.geometry import _parse_any, _parse_plain, footprint_transform, parse_box, parse_geometry

WHERE = "labels/1.json: geometry"
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)


def rings(dimensions):
    points = st.lists(st.tuples(*[NUMBERS] * dimensions).map(list), min_size=3, max_size=8)
    return points.map(lambda p: [*p, p[0]])


def polygons(dimensions):
    return st.lists(rings(dimensions), min_size=1, max_size=3)


DIMENSIONS = st.sampled_from((2, 3))
POLYGONS = DIMENSIONS.flatmap(polygons).map(lambda c: {"type": "Polygon", "coordinates": c})
MULTIPOLYGONS = DIMENSIONS.flatmap(lambda n: st.lists(polygons(n), min_size=1, max_size=3)).map(
    lambda c: {"type": "MultiPolygon", "coordinates": c}
)

ODD = st.sampled_from([None, True, "a", "ab", [], [1.0], {"ab": 1}, math.nan, math.inf, 2**53, 2**53 + 1, 10**400])
ANY_NUMBER = st.integers(0, 2) | NUMBERS | ODD
ANY_POINT = st.lists(ANY_NUMBER, min_size=2, max_size=2) | ODD
ANY_RING = st.lists(ANY_POINT, min_size=3, max_size=7).map(lambda r: [*r, r[0]]) | st.lists(ANY_POINT) | ODD


def as_parts(document):
    return document["coordinates"] if document["type"] == "MultiPolygon" else [document["coordinates"]]


def as_shapely(document):
    made = [shapely.Polygon(np.array(p[0], "f8"), [np.array(r, "f8") for r in p[1:]]) for p in as_parts(document)]
    return shapely.MultiPolygon(made) if document["type"] == "MultiPolygon" else made[0]


def polygon(*ring):
    return {"type": "Polygon", "coordinates": [[list(p) for p in ring]]}


# ------------------------------------------------------------------------------------------------------------ GeoJSON


@given(st.lists(ANY_RING, max_size=2) | ODD)
@example([[[0.0, math.nan], [1.0, 0.0], [1.0, 1.0], [0.0, math.nan]]])
@example([[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]])
def test_what_is_read_the_short_way_is_what_the_long_one_reads(coordinates):
    document = {"type": "Polygon", "coordinates": coordinates}
    shape = _parse_plain(document)
    assert shape is None or shape == _parse_any(document, WHERE)


@given(st.lists(st.tuples(*[st.floats(-1e9, 1e9) | st.integers(-(10**9), 10**9)] * 2).map(list), min_size=3))
def test_what_is_plain_is_read_the_short_way(ring):
    assert _parse_plain({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}) is not None


@given(POLYGONS | MULTIPOLYGONS)
def test_wkb_is_shapelys_own(document):
    shape = parse_geometry(document, WHERE)
    expected = as_shapely(document)
    assert shape.wkb == shapely.to_wkb(expected, byte_order=1, flavor="iso")
    numbers = [n for p in as_parts(document) for ring in p for point in ring for n in point]
    assert ("json-rounded" in shape.flags) == any(int(float(n)) != n for n in numbers if isinstance(n, int))
    assert shape.flags - {"json-rounded"} == ({"geometry-3d"} if expected.has_z else set())
    outer = np.concatenate([shapely.get_coordinates(p.exterior) for p in shapely.get_parts(expected)])
    assert shape.bounds == (*outer.min(0).tolist(), *outer.max(0).tolist())


@given(POLYGONS)
def test_an_unclosed_ring_is_closed_and_flagged(document):
    closed = parse_geometry(document, WHERE)
    ring = document["coordinates"][-1]
    assume(len(ring) > 4)
    assume(not np.array_equal(np.array(ring[-2], "f8"), np.array(ring[0], "f8")))
    ring.pop()
    opened = parse_geometry(document, WHERE)
    assert (opened.wkb, opened.bounds) == (closed.wkb, closed.bounds)
    assert opened.flags - closed.flags == {"ring-unclosed"}


def test_input_is_left_as_it_was():
    document = polygon((0, 0), (1, 0), (1, 1))
    parse_geometry(document, WHERE)
    assert document == polygon((0, 0), (1, 0), (1, 1))


@pytest.mark.parametrize(
    ("ring", "is_box"),
    [
        ([(0, 0), (2, 0), (2, 1), (0, 1), (0, 0)], True),
        ([(2, 1), (2, 0), (0, 0), (0, 1), (2, 1)], True),
        ([(0, 0), (0, 1), (2, 1), (2, 0)], True),
        ([(0, 0, 5), (2, 0, 5), (2, 1, 5), (0, 1, 5), (0, 0, 5)], True),
        ([(0, 0), (2, 0), (2, 1), (0, 1.5), (0, 0)], False),
        ([(0, 0), (2, 0), (0, 1), (2, 1), (0, 0)], False),  # a bow tie
        ([(0, 0), (1, 0), (2, 0), (2, 1), (0, 1), (0, 0)], False),
        ([(0, 0), (2, 0), (2, 0), (2, 1), (0, 0)], False),
        ([(0, 0), (1, 0), (2, 0), (1, 0), (0, 0)], False),
        ([(0, 0), (2, 0), (2, 1), (0, 0)], False),
        ([(1, 0), (2, 1), (1, 2), (0, 1), (1, 0)], False),
    ],
)
def test_is_box(ring, is_box):
    assert parse_geometry(polygon(*ring), WHERE).is_box is is_box


def test_a_box_with_a_hole_or_a_second_part_is_no_box():
    outer, hole = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]], [[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]
    assert not parse_geometry({"type": "Polygon", "coordinates": [outer, hole]}, WHERE).is_box
    assert not parse_geometry({"type": "MultiPolygon", "coordinates": [[outer], [hole]]}, WHERE).is_box
    assert parse_geometry({"type": "MultiPolygon", "coordinates": [[outer]]}, WHERE).is_box


@given(st.tuples(*[NUMBERS] * 4))
def test_boxes(numbers):
    west, east = sorted(numbers[:2])
    south, north = sorted(numbers[2:])
    shape = parse_box([west, south, east, north], WHERE)
    assert shape.bounds == shapely.from_wkb(shape.wkb).bounds == tuple(map(float, (west, south, east, north)))
    assert shape.is_box
    ring = [(west, south), (east, south), (east, north), (west, north)]
    assert shape.wkb == parse_geometry(polygon(*ring, ring[0]), WHERE).wkb


def nested(depth, innermost):
    for _ in range(depth):
        innermost = [innermost]
    return innermost


BAD_POSITIONS = [
    *((math.nan, 0), (math.inf, 0), (0, -math.inf), ("1", 0), ("nan", 0), (None, 0), (True, 0), (0, False)),
    *((10**400, 0), (-(10**309), 1), ([0], 1), ({}, 1), (2**64, "x")),
]


@pytest.mark.parametrize("position", BAD_POSITIONS)
def test_numbers_that_are_none_are_refused(position):
    for kind, wrap in (("Polygon", 1), ("MultiPolygon", 2)):
        ring = [[0, 0], [1, 0], list(position), [0, 0]]
        with pytest.raises(LabelError, match="coordinates are not all finite numbers of one shape") as caught:
            parse_geometry({"type": kind, "coordinates": nested(wrap, ring)}, WHERE)
        assert caught.value.where == WHERE + (": ring 0" if wrap == 1 else ": polygon 0: ring 0")
        assert caught.value.rule == "geometry-form"
    with pytest.raises(LabelError, match="finite numbers"):
        parse_box([0, 0, *position], WHERE)


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        (None, "polygon coordinates is of type NoneType"),
        ([], "polygon coordinates is empty"),
        ([[]], "a ring is empty"),
        ([None], "a ring is of type NoneType"),
        ("abc", "polygon coordinates is of type str"),
        (["abc"], "a ring is of type str"),
        ([[0, 0]], "not a list of positions"),
        ([[[]]], "not a list of positions"),
        ([[[0, 0], 1, [1, 1], [0, 0]]], "finite numbers of one shape"),
        ([[0, [0, 0], [1, 1], [0, 0]]], "finite numbers of one shape"),
        ([[[1], [2], [3], [1]]], "not a list of positions of two or three numbers"),
        ([[[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]], "positions of two or three numbers"),
        ([[[0, 0], [1, 0], [1, 1, 5], [0, 0]]], "not all finite numbers of one shape"),
        ([[[0, 0], [1, 0], [0, 0]]], "a ring has 3 positions, fewer than four"),
        ([[[0, 0], [1, 0]]], "a ring has 3 positions, fewer than four"),
        ([[[0, 0]]], "a ring has 1 positions, fewer than four"),
        ([[[0, 0], [1, 0], [1, 1], [0, 0]], [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 0, 1]]], "mixes two and three"),
        (nested(40, 1), "finite numbers of one shape"),
        (nested(900, 1), "finite numbers of one shape"),
        (nested(900, [1, 2]), "finite numbers of one shape"),
    ],
)
def test_malformed_polygons_are_refused(coordinates, message):
    with pytest.raises(LabelError, match=message):
        parse_geometry({"type": "Polygon", "coordinates": coordinates}, WHERE)


@pytest.mark.parametrize(
    "document",
    [
        *({"type": "Point", "coordinates": [0, 0]}, {"type": "polygon"}, {"type": ["Polygon"]}, {"coordinates": []}),
        *({"type": "GeometryCollection", "geometries": []}, {"type": "MultiPolygon", "coordinates": []}),
        *({"type": "MultiPolygon", "coordinates": [[]]}, [], "Polygon", 3, None, True),
    ],
)
def test_other_geometries_are_refused(document):
    with pytest.raises(LabelError):
        parse_geometry(document, WHERE)


# ----------------------------------------------------------------------------------------------------------- footprints

SIZES = st.integers(1, 5000)


def corners_of(transform, height, width):
    """Return where a transform puts the chip's corners: north-west, north-east, south-east, south-west."""
    return [Affine(*transform) * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]


def footprint(corners, start=0, *, backwards=False, multi=False, z=False):
    ring = [*corners[start:], *corners[:start]][:: -1 if backwards else 1]
    ring = [(*p, 30.5) if z else p for p in (*ring, ring[0])]
    document = polygon(*ring)
    if multi:
        document = {"type": "MultiPolygon", "coordinates": [document["coordinates"]]}
    return parse_geometry(document, WHERE).wkb


PACKINGS = st.fixed_dictionaries(
    {"start": st.integers(0, 3), "backwards": st.booleans(), "multi": st.booleans(), "z": st.booleans()}
)


@given(
    st.tuples(st.floats(-179, 178), st.floats(-89, 88), st.floats(1e-4, 0.9), st.floats(1e-4, 0.9)),
    st.tuples(SIZES, SIZES),
    PACKINGS,
)
def test_transform_of_an_upright_footprint(edges, size, packing):
    west, south, wide, high = edges
    height, width = size
    east, north = west + wide, south + high
    corners = [(west, north), (east, north), (east, south), (west, south)]
    transform, flags = footprint_transform(footprint(corners, **packing), height, width)
    assert flags == frozenset()
    assert transform == ((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)
    assert np.allclose(corners_of(transform, height, width), corners, rtol=0, atol=1e-9)


@given(
    st.tuples(st.floats(-179, 178), st.floats(-85, 84)),
    st.tuples(st.floats(1e-3, 0.5), st.floats(1e-3, 0.5)),
    st.floats(-40, 40),
    st.floats(-0.2, 0.2),
    PACKINGS,
)
def test_transform_of_a_turned_and_sheared_footprint(corner, extent, degrees, shear, packing):
    (x, y), (wide, high) = corner, extent
    turn = Affine.translation(x, y) @ Affine.rotation(degrees) @ Affine(1, shear, 0, 0, 1, 0)
    corners = [turn * c for c in ((0, high), (wide, high), (wide, 0), (0, 0))]
    nearest = min(corners, key=lambda c: math.dist(c, (min(p[0] for p in corners), max(p[1] for p in corners))))
    transform, flags = footprint_transform(footprint(corners, **packing), 256, 256)
    assert flags <= {"footprint-skewed"}
    found = corners_of(transform, 256, 256)
    apart = np.abs(np.array(found)[:, None] - np.array(corners)[None]).max(axis=2)
    assert sorted(apart.argmin(axis=1).tolist()) == [0, 1, 2, 3]
    assert apart.min(axis=1).max() < 1e-9
    assert Affine(*transform).determinant < 0  # seen from above, never mirrored
    if wide == pytest.approx(high, rel=0.5) and abs(degrees) < 20:
        assert found[0] == pytest.approx(nearest, abs=1e-9)


def test_a_footprint_a_little_skewed_is_fitted_and_flagged():
    corners = [(0.0, 1.0), (1.0, 1.0), (1.001, 0.0), (0.0, 0.0)]
    transform, flags = footprint_transform(footprint(corners), 100, 100)
    assert flags == {"footprint-skewed"}
    off = np.abs(np.array(corners_of(transform, 100, 100)) - corners)
    assert off.max() == pytest.approx(0.00025)


@pytest.mark.parametrize("move_px", [1.9, 2.1])
def test_half_a_pixel_is_the_limit(move_px):
    corners = [(0.0, 1.0), (1.0 + move_px / 100, 1.0), (1.0, 0.0), (0.0, 0.0)]
    transform, flags = footprint_transform(footprint(corners), 100, 100)
    assert (transform is None, flags) == (
        (True, {"footprint-not-rectangle"}) if move_px > 2 else (False, {"footprint-skewed"})
    )


def test_a_chip_projected_from_metres_fits():
    """A 256 m chip in UTM is no exact rectangle in degrees, but its transform is far better than half a pixel."""
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32616", "EPSG:4326", always_xy=True).transform
    x, y = 733_600.0, 3_725_150.0
    corners = [to_lonlat(*c) for c in ((x, y), (x + 256, y), (x + 256, y - 256), (x, y - 256))]
    transform, _ = footprint_transform(footprint(corners), 512, 512)
    pixel = max(abs(transform[0]), abs(transform[4]))
    assert np.abs(np.array(corners_of(transform, 512, 512)) - corners).max() < 0.01 * pixel


@pytest.mark.parametrize(
    "document",
    [
        polygon((0, 0), (1, 0), (0, 1), (0, 0)),
        polygon((0, 0), (4, 0), (3, 1), (1, 1), (0, 0)),
        polygon((0, 0), (1, 1), (1, 0), (0, 1), (0, 0)),
        polygon((0, 0), (2, 0), (3, 1), (1, 2), (0, 1), (0, 0)),
        polygon((0, 0), (1, 0), (1, 0), (0, 0), (0, 0)),
        polygon((0, 0), (1, 0), (2, 0), (1, 0), (0, 0)),
        polygon((0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
        {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9]], [[1, 1], [2, 1], [2, 2], [1, 2]]]},
        {"type": "MultiPolygon", "coordinates": [[[[0, 0], [9, 0], [9, 9], [0, 9]]], [[[20, 0], [29, 0], [29, 9]]]]},
    ],
)
def test_other_footprints_have_no_transform(document):
    wkb = parse_geometry(document, WHERE).wkb
    assert footprint_transform(wkb, 256, 256) == (None, {"footprint-not-rectangle"})


WITHOUT_TRANSFORM = {"footprint-not-rectangle", "footprint-antimeridian", "footprint-out-of-range"}


@given(POLYGONS | MULTIPOLYGONS, SIZES, SIZES)
def test_any_footprint_has_finite_numbers_or_none(document, height, width):
    transform, flags = footprint_transform(parse_geometry(document, WHERE).wkb, height, width)
    assert transform is not None or flags <= WITHOUT_TRANSFORM
    assert transform is not None or flags - {"footprint-antimeridian"}


# ------------------------------------------------------------------------------------------------------- many at once

COORDINATES = st.floats(-1e6, 1e6)
AFFINES = st.tuples(*[st.floats(-1e3, 1e3)] * 6)


def squares(centres, half=1.0):
    return [shapely.box(x - half, y - half, x + half, y + half).wkb for x, y in centres]


@given(st.lists(st.tuples(st.tuples(COORDINATES, COORDINATES), AFFINES), min_size=1, max_size=5))
def test_apply_affine_is_affines_own(items):
    shapes = geometry.parse_wkb(squares([c for c, _ in items]))
    moved = geometry.apply_affine(shapes, [t for _, t in items])
    for before, after, (_, transform) in zip(shapes, moved, items, strict=True):
        expected = [Affine(*transform) * p for p in shapely.get_coordinates(before).tolist()]
        assert np.allclose(shapely.get_coordinates(after), expected, rtol=1e-12, atol=1e-6)


def test_apply_affine_leaves_heights_out_and_input_alone():
    flat = shapely.from_wkt("POLYGON Z ((0 0 5, 1 0 5, 1 1 5, 0 0 5))")
    shapes = np.array([flat], dtype=object)
    (moved,) = geometry.apply_affine(shapes, [(2.0, 0.0, 1.0, 0.0, -2.0, 3.0)])
    assert moved == shapely.from_wkt("POLYGON ((1 3, 3 3, 3 1, 1 3))")
    assert shapes[0] is flat
    assert flat.has_z


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [("EPSG:32616", -84.47, 33.63), ("EPSG:25832", 11.58, 48.14), ("EPSG:3857", 139.7, 35.7), ("EPSG:3031", 10, -75)],
)
def test_project_agrees_with_gdal_and_comes_back(crs, lon, lat):
    shapes = geometry.parse_wkb(squares([(lon, lat), (lon + 0.1, lat + 0.1)], half=0.01))
    moved = geometry.project(shapes, crs, "from_lonlat")
    points = shapely.get_coordinates(shapes)
    x, y = warp("EPSG:4326", crs, points[:, 0], points[:, 1])
    assert np.allclose(shapely.get_coordinates(moved), np.stack([x, y], 1), rtol=0, atol=1e-3)
    back = geometry.project(moved, crs, "to_lonlat")
    assert np.allclose(shapely.get_coordinates(back), points, rtol=0, atol=1e-9)


def test_project_leaves_longitude_and_latitude_alone():
    shapes = geometry.parse_wkb(squares([(200, 95)]))
    assert geometry.project(shapes, geometry.LONLAT, "to_lonlat") is shapes


@pytest.mark.parametrize("crs", ["EPSG:999999", "nonsense", 'LOCAL_CS["x"]'])
def test_an_unknown_crs_has_a_place_for_nothing(crs):
    assert geometry.project(geometry.parse_wkb(squares([(0, 0), (1, 1)])), crs, "to_lonlat").tolist() == [None, None]


def test_a_crs_has_no_place_for_coordinates_beyond_it():
    near, far = geometry.parse_wkb(squares([(733_600, 3_725_150), (1e30, 1e30)]))
    placed = geometry.project(np.array([near, None, far]), "EPSG:32616", "to_lonlat")
    assert placed[0].centroid.x == pytest.approx(-84.48, abs=0.01)
    assert placed[1:].tolist() == [None, None]


@given(st.lists(st.none() | POLYGONS | MULTIPOLYGONS, max_size=3))
def test_wkb_comes_back(documents):
    given_wkb = [None if d is None else parse_geometry(d, WHERE).wkb for d in documents]
    shapes = geometry.parse_wkb(given_wkb)
    assert geometry.dump_wkb(shapes) == given_wkb
    kinds = {
        d["type"] + (" Z" if struct.unpack_from("<I", w, 1)[0] > 1000 else "")
        for d, w in zip(documents, given_wkb, strict=True)
        if d is not None
    }
    assert geometry.type_names(shapes) == kinds


def test_bounds_and_area_of_missing_geometries():
    shapes = geometry.parse_wkb([shapely.box(1, 2, 4, 6).wkb, None])
    assert np.array_equal(geometry.bounds(shapes), [[1, 2, 4, 6], [np.nan] * 4], equal_nan=True)
    assert np.array_equal(geometry.area(shapes), [12, np.nan], equal_nan=True)


def test_projjson():
    assert geometry.projjson(geometry.LONLAT)["id"] == {"authority": "EPSG", "code": 4326}


# ------------------------------------------------------------------------------------------------------ sound or not


@given(st.lists(st.none() | POLYGONS | MULTIPOLYGONS, max_size=4))
def test_small_shapes_are_all_checked(documents):
    shapes = geometry.parse_wkb([None if d is None else parse_geometry(d, WHERE).wkb for d in documents])
    invalid, unchecked = geometry.find_invalid(shapes)
    assert invalid == [i for i, s in enumerate(shapes) if s is not None and not s.is_valid]
    assert unchecked == []


def circle(corners, radius=200.0):
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return shapely.Polygon(np.stack([np.cos(turn), np.sin(turn)], 1) * radius)


def needles(count):
    """Thin parallel triangles, the box of each over most of the others'."""
    return [[(4 * i, 0), (4 * i + 4 * count, 4 * count), (4 * i + 1, 0)] for i in range(count)]


def comb(count):
    teeth = [p for a, b, c in needles(count) for p in (a, b, c)]
    return shapely.Polygon([*teeth, (4 * count, -1), (-1, -1)])


def random_walk(corners):
    return shapely.Polygon(np.random.default_rng(0).random((corners, 2)))


def frame(holes):
    return shapely.Polygon([(-9, -9), (9 * 3000, -9), (9 * 3000, 9 * 3000), (-9, 9 * 3000)], holes)


@pytest.mark.parametrize(
    ("shape", "verdict"),
    [
        (circle(200_000), "valid"),
        (shapely.Polygon([*((i, i % 2) for i in range(100_000)), (100_000, -1), (0, -1)]), "valid"),
        (shapely.MultiPolygon([shapely.box(3 * i, 0, 3 * i + 1, 1) for i in range(2000)]), "valid"),
        (shapely.MultiPolygon([shapely.box(3 * i, 0, 3 * i + 3.5, 1) for i in range(2000)]), "invalid"),
        (
            frame([[(9 * i, 9 * j), (9 * i + 1, 9 * j), (9 * i, 9 * j + 1)] for i in range(12) for j in range(12)]),
            "valid",
        ),
        (comb(100), "valid"),
        (random_walk(400), "invalid"),
        (comb(3000), "unchecked"),
        (random_walk(5000), "unchecked"),
        (shapely.MultiPolygon([shapely.Polygon(n) for n in needles(3000)]), "unchecked"),
        (frame(needles(3000)), "unchecked"),
    ],
    ids=str,
)
def test_large_shapes_are_checked_where_that_takes_little(shape, verdict):
    invalid, unchecked = geometry.find_invalid(np.array([None, shape]))
    assert (invalid, unchecked) == {"valid": ([], []), "invalid": ([1], []), "unchecked": ([], [1])}[verdict]
    assert verdict == "unchecked" or shape.is_valid == (verdict == "valid")


def test_a_shape_that_geos_gives_up_on_is_unchecked():
    odd = shapely.Polygon([(-1, -9), (1.7e308, -9), (1.7e308, 256), (-1, 256)], [[(0, 1), (400, 90), (-1, 0)]])
    with pytest.raises(shapely.GEOSException):
        shapely.is_valid(odd)
    bow_tie = shapely.Polygon([(0, 0), (5, 5), (5, 0), (0, 5)])
    assert geometry.find_invalid(np.array([circle(8), odd, bow_tie, None])) == ([2], [1])


@pytest.mark.parametrize(
    ("wkt", "flat"),
    [
        ("POLYGON ((0 0, 5 0, 5 5, 0 0))", False),
        ("POLYGON ((0 0, 5 5, 5 0, 0 5, 0 0))", False),  # a bow tie
        ("POLYGON ((0 0, 5 0, 5 0, 0 0))", True),
        ("POLYGON ((0.1 0.1, 0.2 0.2, 0.3 0.3, 0.1 0.1))", True),
        ("POLYGON ((7 7, 7 7, 7 7, 7 7))", True),
        ("MULTIPOLYGON (((7 7, 8 8, 9 9, 7 7)), ((7 7, 8 8, 9 9, 7 7)))", True),
        ("MULTIPOLYGON (((7 7, 8 8, 9 9, 7 7)), ((0 0, 5 0, 5 5, 0 0)))", False),
    ],
)
def test_flat_shapes(wkt, flat):
    shapes = np.array([None, shapely.from_wkt(wkt)])
    assert geometry.find_flat(shapes, geometry.area(shapes)) == ([1] if flat else [])


def test_numbers_beyond_double_precision_are_no_place():
    shapes = np.array([shapely.box(0, 0, 1e308, 1e308), shapely.box(0, 0, 1, 1)])
    assert np.isnan(geometry.area(shapes)).tolist() == [True, False]
    placed = geometry.apply_affine(shapes, [(100.0, 0.0, 0.0, 0.0, 100.0, 0.0)] * 2)
    assert placed[0] is None
    assert placed[1].bounds == (0, 0, 100, 100)
