import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from vedastore.io.geometry import covering_bboxes
from vedastore.spec.lonlat import bbox_intersects, covering_bbox

LAT = (1.0, 2.0)


def ring(*longitudes):
    """A band between two latitudes: eastwards along the southern one, back along the northern one."""
    there, back = [(x, LAT[0]) for x in longitudes], [(x, LAT[1]) for x in reversed(longitudes)]
    return np.array([*there, *back, there[0]], "f8")


@pytest.mark.parametrize(
    ("rings", "west", "east"),
    [
        ([ring(11, 12)], 11, 12),
        ([ring(-180, -179)], -180, -179),
        ([ring(179, 180)], 179, 180),
        ([ring(179, -179)], 179, -179),
        ([ring(179, -180)], 179, 180),
        ([ring(179, 181)], 179, -179),
        ([ring(-181, -179)], 179, -179),
        ([ring(181, 182)], -179, -178),
        ([ring(-182, -181)], 178, 179),
        ([ring(180, 181)], -180, -179),
        ([ring(170, 180, -180, -170)], 170, -170),
        ([ring(100, 179, -170, -120)], 100, -120),
        ([ring(179, 180), ring(-180, -179)], 179, -179),
        ([ring(179, -179), ring(170, 171)], 170, -179),
        ([ring(179, -179), ring(-171, -170)], 179, -170),
        ([ring(179, -179), ring(-1, 1)], 179, 1),
        ([ring(179, -179), ring(-10, 80, 179.5)], -180, 180),
        ([ring(170, 171), ring(-171, -170)], -171, 171),
        ([ring(-180, 180)], -180, 180),
        ([ring(-180, -90, 0, 90, 180)], -180, 180),
        ([ring(-180, 0), ring(0, 180)], -180, 180),
        ([ring(-200, 200)], -180, 180),
        ([ring(733_600, 733_700)], 733_600, 733_700),
        ([ring(-1e300, 1e300)], -1e300, 1e300),
    ],
)
def test_covering_bbox(rings, west, east):
    assert covering_bbox(rings) == (west, LAT[0], east, LAT[1])
    assert covering_bbox([r[::-1] for r in rings]) == (west, LAT[0], east, LAT[1])
    shape = shapely.MultiPolygon([shapely.Polygon(r) for r in rings])
    expected = [[np.nan] * 4, [west, LAT[0], east, LAT[1]]]
    assert np.array_equal(covering_bboxes(np.array([None, shape])), expected, equal_nan=True)


@pytest.mark.parametrize(("latitude", "south", "north"), [(80, 80, 90), (-80, -90, -80)])
def test_a_ring_around_a_pole_reaches_to_it(latitude, south, north):
    around = np.array([(x, latitude) for x in (-135, -45, 45, 135, -135)], "f8")
    for points in (around, around[::-1]):
        assert covering_bbox([points]) == (-180, south, 180, north)


@given(st.floats(-180, 180), st.floats(0.01, 170), st.floats(0, 1), st.sampled_from((-360, 0, 360)), st.booleans())
def test_a_box_is_found_at_every_place_in_it_however_it_is_written(west, width, part, turn, jump):
    east = west + width
    if jump and east > 180:
        east -= 360
        turn = 0
    if abs(west + turn) > 360 or abs(east + turn) > 360:
        turn = 0
    box = covering_bbox([ring(west + turn, east + turn)])
    inside = west + width * part
    place = inside - 360 if inside > 180 else inside
    assert bbox_intersects(box, (place - 1e-6, 1.5, place + 1e-6, 1.5))
    outside = place + 180 + width / 2 - width * part  # opposite of the middle of the box
    outside = outside - 360 if outside > 180 else outside
    assert not bbox_intersects(box, (outside, 1.5, outside, 1.5))


BOXES = st.tuples(st.integers(-18, 18), st.integers(-9, 9), st.integers(-18, 18), st.integers(-9, 9)).map(
    lambda b: (b[0] * 10, min(b[1], b[3]) * 10, b[2] * 10, max(b[1], b[3]) * 10)
)


def meridians(box):
    """Every tenth meridian that a box touches, as degrees from 0 to 350."""
    west, _, east, _ = box
    return {x % 360 for x in range(west, (east if west <= east else east + 360) + 1, 10)}


@given(BOXES, BOXES)
def test_boxes_meet_where_they_share_a_meridian_and_a_parallel(a, b):
    shared = meridians(a) & meridians(b) and a[1] <= b[3] and b[1] <= a[3]
    assert bbox_intersects(a, b) == bbox_intersects(b, a) == bool(shared)
