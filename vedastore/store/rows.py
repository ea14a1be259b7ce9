"""How pairs become rows of the index: footprints, pixel and geographic geometries, counts and flags. Pure."""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.io import geometry
from vedastore.spec.geometry import footprint_transform
from vedastore.spec.lonlat import HALF_WORLD, POLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.model import Affine6, LabelCoords
    from vedastore.store.ledger import Pairs

_NOWHERE: Final = (math.nan,) * 6
FOOTPRINT_LIMIT_PX: Final = 1.0
"""How far a footprint may lie off its image's own georeferencing before that is worth a finding."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table: its columns, and what their geometries are as shapes.

    A column is a list, or an array in which NaN stands for no value: (n, 4) for boxes, (n,) for areas.
    """

    columns: dict[str, Any]
    shapes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Georeference:
    """How a sample lies on the ground.

    ``crs`` and ``transform`` are the image's own where it has both, else those of its footprint; None where nothing
    maps pixels to the ground. ``inverse`` is the transform back to pixels.
    """

    crs: str | None
    transform: Affine6 | None
    inverse: Affine6 | None
    flags: frozenset[str]
    longitude: float = 0.0
    """Of the image's centre, where ``crs`` is longitude and latitude: what lies half the world away is meant nearer."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The objects of some pairs as shapes: as their label files have them, on the ground and in pixels.

    ``owner`` tells whose each is; shapes on the ground are the given ones where ``geographic`` says so, shapes in
    pixels where it does not.
    """

    owner: Any
    geographic: Any
    given: Any
    ground: Any
    pixel: Any
    boxes_px: Any
    areas_px: Any


def georeference(
    crs: str | None, transform: Affine6 | None, footprint: bytes | None, height: int, width: int
) -> Georeference:
    """Tell how a sample lies on the ground, by its image's ``crs`` and ``transform`` or else by its footprint."""
    flags: frozenset[str] = frozenset()
    if crs is None or transform is None or (inverse := invert(transform)) is None:
        if footprint is None:
            return Georeference(None, None, None, flags)
        crs = geometry.LONLAT
        transform, flags = footprint_transform(footprint, height, width)
        if transform is None or (inverse := invert(transform)) is None:
            return Georeference(None, None, None, flags)
        flags |= {"footprint-georeferenced"}
    a, b, c, _, _, _ = transform
    return Georeference(crs, transform, inverse, flags, a * width / 2 + b * height / 2 + c)


def invert(transform: Affine6) -> Affine6 | None:
    """Return the transform from coordinates to pixels; None where there is none."""
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    if determinant == 0 or not math.isfinite(determinant):
        return None
    ra, rb, rd, re = e / determinant, -b / determinant, -d / determinant, a / determinant
    return ra, rb, -c * ra - f * rb, rd, re, -c * rd - f * re


def plan_rows(pairs: Pairs, coords: LabelCoords | None) -> tuple[Rows, Rows]:
    """Return the rows of ``samples`` and ``features`` for some pairs."""
    places = [*map(georeference, pairs.crs, pairs.transform, pairs.footprint, pairs.height, pairs.width)]
    footprints = geometry.parse_wkb(pairs.footprint)
    boxes = geometry.covering_bboxes(footprints)
    drawing = _draw(pairs, places, coords)
    flags: list[set[str]] = [{*own, *g.flags} for own, g in zip(pairs.flags, places, strict=True)]
    _mark(flags, "json-bom", [i for i, label in enumerate(pairs.label) if label.startswith(codecs.BOM_UTF8)])
    _flag_world(flags, footprints, boxes)
    _flag_objects(flags, pairs, drawing)
    _flag_disagreeing(flags, pairs, places, footprints)
    _flag_odd_shapes(flags, footprints, drawing)
    samples = Rows(_samples(pairs, places, boxes, [sorted(f) for f in flags]), {"geometry": footprints})
    return samples, Rows(_features(pairs, drawing), {"geometry": drawing.ground, "geometry_px": drawing.pixel})


def _mark(flags: list[set[str]], flag: str, indices: Any) -> None:
    for index in indices:
        flags[index].add(flag)


def _flag_world(flags: list[set[str]], footprints: Any, boxes: Any) -> None:
    """Flag footprints at the edges of the world, and beyond; ``boxes`` are around them on the globe."""
    west, south, east, north = geometry.bounds(footprints).T
    crossing = boxes[:, 0] > boxes[:, 2]
    beyond = (south < -POLE) | (north > POLE)
    outside = beyond | (~crossing & ((west < -HALF_WORLD) | (east > HALF_WORLD)))
    polar = ~beyond & ((boxes[:, 1] == -POLE) | (boxes[:, 3] == POLE))
    _mark(flags, "footprint-antimeridian", np.flatnonzero(crossing))
    _mark(flags, "footprint-out-of-range", np.flatnonzero(outside))
    _mark(flags, "footprint-pole", np.flatnonzero(polar))


def _flag_objects(flags: list[set[str]], pairs: Pairs, drawing: Drawing) -> None:
    """Flag samples whose objects have no place in pixels, or one outside of the chip."""
    minx, miny, maxx, maxy = drawing.boxes_px.T
    width, height = np.array(pairs.width)[drawing.owner], np.array(pairs.height)[drawing.owner]
    outside = (minx >= width) | (miny >= height) | (maxx <= 0) | (maxy <= 0)
    _mark(flags, "objects-unplaced", drawing.owner[np.isnan(minx)])
    _mark(flags, "object-outside", drawing.owner[outside])


def _flag_odd_shapes(flags: list[set[str]], footprints: Any, drawing: Drawing) -> None:
    """Flag what is stored as it was given, but is no sound geometry."""
    owners = np.concatenate([np.arange(len(footprints)), drawing.owner])
    edges = geometry.bounds(drawing.given)
    over = (edges[:, 2] - edges[:, 0] > HALF_WORLD) & (drawing.pixel != None)  # noqa: E711 - an array of objects
    given = np.where(over, drawing.pixel, drawing.given)  # what runs over the antimeridian crosses itself only on paper
    flat = {len(footprints) + i for i in geometry.find_flat(drawing.pixel, drawing.areas_px)}
    invalid, unchecked = geometry.find_invalid(np.concatenate([footprints, given]))
    _mark(flags, "geometry-degenerate", owners[[*flat]])
    _mark(flags, "geometry-invalid", owners[[*({*invalid} - flat)]])
    _mark(flags, "geometry-unchecked", owners[unchecked])


def _flag_disagreeing(flags: list[set[str]], pairs: Pairs, places: Sequence[Georeference], footprints: Any) -> None:
    """Flag footprints more than a pixel off the image, where the image says itself where it is."""
    own = np.array(
        [
            footprint is not None and g.crs is not None and g.crs == crs
            for footprint, crs, g in zip(pairs.footprint, pairs.crs, places, strict=True)
        ],
        dtype=bool,
    )
    astray = own & ~_fits(pairs, places, footprints, own)
    if astray.any():
        swapped = astray & _fits(pairs, places, geometry.exchange_axes(footprints), astray)
        for index in np.flatnonzero(astray).tolist():
            flags[index].add("footprint-swapped" if swapped[index] else "footprint-disagrees")


def _fits(pairs: Pairs, places: Sequence[Georeference], footprints: Any, chosen: Any) -> Any:
    """Tell which footprints lie within a pixel of their image's edges."""
    pixel = np.full(len(pairs), None)
    _fill(pixel, footprints, chosen, np.arange(len(pairs)), places, to_pixel=True)
    off = geometry.bounds(pixel)
    off[:, 2:] -= np.array([pairs.width, pairs.height], "f8").T
    return np.abs(off).max(axis=1) <= FOOTPRINT_LIMIT_PX


def _samples(pairs: Pairs, places: Sequence[Georeference], boxes: Any, flags: list[list[str]]) -> dict[str, Any]:
    return {
        "id": pairs.id,
        "position": pairs.position,
        "bucket": pairs.bucket,
        "row": pairs.row,
        "geometry": pairs.footprint,
        "bbox": boxes,
        "crs": [g.crs if g.transform else crs for crs, g in zip(pairs.crs, places, strict=True)],
        "transform": [g.transform or own for own, g in zip(pairs.transform, places, strict=True)],
        "height": pairs.height,
        "width": pairs.width,
        "nodata": pairs.nodata,
        "split": [None] * len(pairs),
        "classes": pairs.present,
        "objects": np.bincount(pairs.objects.owner, minlength=len(pairs)),
        "flags": flags,
        "label": pairs.label,
        "image_digest": pairs.image_digest,
        "pixel_digest": pairs.pixel_digest,
        "fidelity": pairs.fidelity,
        "envelope": pairs.envelope,
        "image_member": pairs.image_member,
        "image_ordinal": pairs.image_ordinal,
        "label_member": pairs.label_member,
        "label_ordinal": pairs.label_ordinal,
    }


def _features(pairs: Pairs, drawing: Drawing) -> dict[str, Any]:
    objects = pairs.objects
    return {
        "id": [pairs.id[i] for i in objects.owner],
        "position": np.array(pairs.position)[drawing.owner],
        "class": objects.class_name,
        "ordinal": objects.ordinal,
        "geometry": _dump(drawing.ground, objects.geometry, drawing.geographic),
        "bbox": geometry.covering_bboxes(drawing.ground),
        "geometry_px": _dump(drawing.pixel, objects.geometry, ~drawing.geographic),
        "box_px": drawing.boxes_px,
        "area_px": drawing.areas_px,
    }


def _dump(shapes: Any, given: Sequence[bytes], unchanged: Any) -> list[bytes | None]:
    """Return the WKB of shapes; of those that are unchanged the given one."""
    found = np.full(len(shapes), None)
    found[:] = given
    found[~unchanged] = geometry.dump_wkb(shapes[~unchanged])
    return found.tolist()


def _draw(pairs: Pairs, places: Sequence[Georeference], coords: LabelCoords | None) -> Drawing:
    owner = np.array(pairs.objects.owner, dtype=np.intp)
    given = geometry.parse_wkb(pairs.objects.geometry)
    on_ground = np.array([f is not None for f in pairs.footprint], dtype=bool)[owner]
    mapped = np.array([g.transform is not None for g in places], dtype=bool)[owner]
    geographic = on_ground & (coords == "geographic")
    ground = np.where(geographic, given, None)
    pixel = np.where(geographic, None, given)
    _fill(pixel, given, geographic & mapped, owner, places, to_pixel=True)
    _fill(ground, given, on_ground & ~geographic & mapped, owner, places, to_pixel=False)
    return Drawing(owner, geographic, given, ground, pixel, geometry.bounds(pixel), geometry.area(pixel))


def _fill(target: Any, given: Any, chosen: Any, owner: Any, places: Sequence[Georeference], *, to_pixel: bool) -> None:
    """Set the chosen shapes of the target to the given ones, moved between the ground and pixels; one CRS at a time."""
    names = np.array([g.crs or "" for g in places], dtype=object)
    for crs in sorted({*names[owner[chosen]]}):
        of = np.flatnonzero(chosen & (names == crs)[owner])
        if to_pixel:
            shapes = geometry.project(given[of], crs, "from_lonlat")
            if crs == geometry.LONLAT:
                shapes = geometry.turn_towards(shapes, np.array([g.longitude for g in places])[owner[of]])
            target[of] = geometry.apply_affine(shapes, np.array([g.inverse or _NOWHERE for g in places])[owner[of]])
        else:
            transforms = np.array([g.transform or _NOWHERE for g in places])[owner[of]]
            target[of] = geometry.project(geometry.apply_affine(given[of], transforms), crs, "to_lonlat")
