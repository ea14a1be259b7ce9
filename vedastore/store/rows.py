"""How pairs become rows of the index: footprints, pixel and geographic geometries, counts and flags. Pure."""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.io import geometry
from vedastore.spec.geometry import footprint_transform
from vedastore.spec.lonlat import HALF_WORLD, POLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.model import Affine6, LabelCoords
    from vedastore.spec.lonlat import Bbox
    from vedastore.store.ledger import PairEntry

Columns = dict[str, list[Any]]

FOOTPRINT_LIMIT_PX: Final = 1.0
"""How far a footprint may lie off its image's own georeferencing before that is worth a finding."""


@dataclass(frozen=True, slots=True)
class Georeference:
    """How a sample lies on the ground.

    ``crs`` and ``transform`` are the image's own where it has both, else those of its footprint; None where nothing
    maps pixels to the ground.
    """

    crs: str | None
    transform: Affine6 | None
    flags: frozenset[str]
    longitude: float = 0.0
    """Of the image's centre, where ``crs`` is longitude and latitude: what lies half the world away is meant nearer."""


def georeference(pair: PairEntry) -> Georeference:
    """Tell how a pair lies on the ground, by its image or else by its footprint."""
    if pair.crs is not None and pair.transform is not None and invert(pair.transform) is not None:
        return Georeference(pair.crs, pair.transform, frozenset(), _centre(pair, pair.transform))
    if pair.footprint is None:
        return Georeference(None, None, frozenset())
    transform, flags = footprint_transform(pair.footprint, pair.height, pair.width)
    if transform is None or invert(transform) is None:
        return Georeference(None, None, flags)
    flags |= {"footprint-georeferenced"}
    return Georeference(geometry.LONLAT, transform, flags, _centre(pair, transform))


def _centre(pair: PairEntry, transform: Affine6) -> float:
    a, b, c, _, _, _ = transform
    return a * pair.width / 2 + b * pair.height / 2 + c


def invert(transform: Affine6) -> Affine6 | None:
    """Return the transform from coordinates to pixels; None where there is none."""
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    if determinant == 0 or not math.isfinite(determinant):
        return None
    ra, rb, rd, re = e / determinant, -b / determinant, -d / determinant, a / determinant
    return ra, rb, -c * ra - f * rb, rd, re, -c * rd - f * re


def plan_rows(pairs: Sequence[PairEntry], coords: LabelCoords | None) -> tuple[Columns, Columns]:
    """Return the columns of ``samples`` and ``features`` for some pairs."""
    places = [georeference(p) for p in pairs]
    footprints = geometry.parse_wkb([p.footprint for p in pairs])
    boxes = geometry.covering_bboxes(footprints)
    features = _features(pairs, places, coords)
    flags: list[set[str]] = [{*p.flags, *g.flags} for p, g in zip(pairs, places, strict=True)]
    for pair, found in zip(pairs, flags, strict=True):
        if pair.label.startswith(codecs.BOM_UTF8):
            found.add("json-bom")
    _flag_world(flags, footprints, boxes)
    _flag_objects(flags, pairs, features)
    _flag_disagreeing(flags, pairs, places, footprints)
    _flag_odd_shapes(flags, pairs, footprints, features)
    return _samples(pairs, places, boxes, [sorted(f) for f in flags]), features


def _flag_world(flags: list[set[str]], footprints: Any, boxes: Sequence[Bbox | None]) -> None:
    """Flag footprints at the edges of the world, and beyond; ``boxes`` are around them on the globe."""
    for found, box, (west, south, east, north) in zip(flags, boxes, geometry.bounds(footprints).tolist(), strict=True):
        if box is None:
            continue
        if box[0] > box[2]:
            found.add("footprint-antimeridian")
        elif west < -HALF_WORLD or east > HALF_WORLD:
            found.add("footprint-out-of-range")
        if south < -POLE or north > POLE:
            found.add("footprint-out-of-range")
        elif box[1] == -POLE or box[3] == POLE:
            found.add("footprint-pole")


def _flag_objects(flags: list[set[str]], pairs: Sequence[PairEntry], features: Columns) -> None:
    """Flag samples whose objects have no place in pixels, or one outside of the chip."""
    owners = np.repeat(np.arange(len(pairs)), [len(p.objects) for p in pairs]).tolist()
    for owner, box in zip(owners, features["box_px"], strict=True):
        if box is None:
            flags[owner].add("objects-unplaced")
        elif box[0] >= pairs[owner].width or box[1] >= pairs[owner].height or box[2] <= 0 or box[3] <= 0:
            flags[owner].add("object-outside")


def _flag_odd_shapes(flags: list[set[str]], pairs: Sequence[PairEntry], footprints: Any, features: Columns) -> None:
    """Flag what is stored as it was given, but is no sound geometry."""
    given = geometry.parse_wkb([o.geometry for p in pairs for o in p.objects])
    owners = [*range(len(pairs)), *np.repeat(np.arange(len(pairs)), [len(p.objects) for p in pairs]).tolist()]
    pixel = geometry.parse_wkb(features["geometry_px"])
    edges = geometry.bounds(given)
    over = (edges[:, 2] - edges[:, 0] > HALF_WORLD) & (pixel != None)  # noqa: E711 - an array of objects
    given = np.where(over, pixel, given)  # what runs over the antimeridian crosses itself only on paper
    flat = {len(pairs) + i for i in geometry.find_flat(pixel, np.array(features["area_px"], dtype="f8"))}
    invalid, unchecked = geometry.find_invalid(np.concatenate([footprints, given]))
    for indices, flag in ((flat, "geometry-degenerate"), ({*invalid} - flat, "geometry-invalid"),
                          (unchecked, "geometry-unchecked")):  # fmt: skip
        for index in indices:
            flags[owners[index]].add(flag)


def _flag_disagreeing(
    flags: list[set[str]], pairs: Sequence[PairEntry], places: Sequence[Georeference], footprints: Any
) -> None:
    """Flag footprints more than a pixel off the image, where the image says itself where it is."""
    own = np.array(
        [p.footprint is not None and g.crs is not None and g.crs == p.crs for p, g in zip(pairs, places, strict=True)],
        dtype=bool,
    )
    astray = own & ~_fits(pairs, places, footprints, own)
    if astray.any():
        swapped = astray & _fits(pairs, places, geometry.exchange_axes(footprints), astray)
        for index in np.flatnonzero(astray).tolist():
            flags[index].add("footprint-swapped" if swapped[index] else "footprint-disagrees")


def _fits(pairs: Sequence[PairEntry], places: Sequence[Georeference], footprints: Any, chosen: Any) -> Any:
    """Tell which footprints lie within a pixel of their image's edges."""
    pixel = np.full(len(pairs), None)
    _fill(pixel, footprints, chosen, places, to_pixel=True)
    frames = np.array([(0, 0, p.width, p.height) for p in pairs], dtype="f8").reshape(-1, 4)
    return np.abs(geometry.bounds(pixel) - frames).max(axis=1) <= FOOTPRINT_LIMIT_PX


def _samples(
    pairs: Sequence[PairEntry], places: Sequence[Georeference], boxes: Sequence[Bbox | None], flags: list[list[str]]
) -> Columns:
    return {
        "id": [p.id for p in pairs],
        "position": [p.position for p in pairs],
        "bucket": [p.bucket for p in pairs],
        "row": [p.row for p in pairs],
        "geometry": [p.footprint for p in pairs],
        "bbox": _edges(boxes),
        "crs": [g.crs if g.transform else p.crs for p, g in zip(pairs, places, strict=True)],
        "transform": [g.transform or p.transform for p, g in zip(pairs, places, strict=True)],
        "height": [p.height for p in pairs],
        "width": [p.width for p in pairs],
        "nodata": [p.nodata for p in pairs],
        "split": [None] * len(pairs),
        "classes": [p.present for p in pairs],
        "objects": [len(p.objects) for p in pairs],
        "flags": flags,
        "label": [p.label for p in pairs],
        "image_digest": [p.image_digest for p in pairs],
        "pixel_digest": [p.pixel_digest for p in pairs],
        "fidelity": [p.fidelity for p in pairs],
        "envelope": [p.envelope for p in pairs],
        "image_member": [p.image_member for p in pairs],
        "image_ordinal": [p.image_ordinal for p in pairs],
        "label_member": [p.label_member for p in pairs],
        "label_ordinal": [p.label_ordinal for p in pairs],
    }


def _features(pairs: Sequence[PairEntry], places: Sequence[Georeference], coords: LabelCoords | None) -> Columns:
    entries = [(p, g, o) for p, g in zip(pairs, places, strict=True) for o in p.objects]
    given = geometry.parse_wkb([o.geometry for _, _, o in entries])
    on_ground = np.array([p.footprint is not None for p, _, _ in entries], dtype=bool)
    mapped = np.array([g.transform is not None for _, g, _ in entries], dtype=bool)
    geographic = on_ground & (coords == "geographic")
    ground = np.where(geographic, given, None)
    pixel = np.where(geographic, None, given)
    _fill(pixel, given, geographic & mapped, [g for _, g, _ in entries], to_pixel=True)
    _fill(ground, given, on_ground & ~geographic & mapped, [g for _, g, _ in entries], to_pixel=False)
    boxes = [None if math.isnan(b[0]) else b for b in geometry.bounds(pixel).tolist()]
    areas = [None if math.isnan(a) else a for a in geometry.area(pixel).tolist()]
    return {
        "id": [p.id for p, _, _ in entries],
        "position": [p.position for p, _, _ in entries],
        "class": [o.class_name for _, _, o in entries],
        "ordinal": [o.ordinal for _, _, o in entries],
        "geometry": geometry.dump_wkb(ground),
        "bbox": _edges(geometry.covering_bboxes(ground)),
        "geometry_px": geometry.dump_wkb(pixel),
        "box_px": boxes,
        "area_px": areas,
    }


def _fill(target: Any, given: Any, chosen: Any, places: Sequence[Georeference], *, to_pixel: bool) -> None:
    """Set the chosen shapes of the target to the given ones, moved between the ground and pixels; one CRS at a time."""
    indices = sorted(np.flatnonzero(chosen).tolist(), key=lambda i: places[i].crs or "")
    for crs, group in groupby(indices, key=lambda i: places[i].crs or ""):
        of = list(group)
        transforms = [t for i in of if (t := places[i].transform) is not None]
        if to_pixel:
            inverses = [t for t in map(invert, transforms) if t is not None]
            shapes = geometry.project(given[of], crs, "from_lonlat")
            if crs == geometry.LONLAT:
                shapes = geometry.turn_towards(shapes, [places[i].longitude for i in of])
            target[of] = geometry.apply_affine(shapes, inverses)
        else:
            target[of] = geometry.project(geometry.apply_affine(given[of], transforms), crs, "to_lonlat")


def _edges(boxes: Sequence[Bbox | None]) -> list[dict[str, float] | None]:
    names = ("xmin", "ymin", "xmax", "ymax")
    return [None if box is None else dict(zip(names, box, strict=True)) for box in boxes]
