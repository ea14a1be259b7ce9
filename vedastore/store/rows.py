"""How pairs become rows of the index: footprints, pixel and geographic geometries, counts and flags. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.io import geometry
from vedastore.spec.geometry import footprint_transform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.model import Affine6, LabelCoords
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


def georeference(pair: PairEntry) -> Georeference:
    """Tell how a pair lies on the ground, by its image or else by its footprint."""
    if pair.crs is not None and pair.transform is not None and invert(pair.transform) is not None:
        return Georeference(pair.crs, pair.transform, frozenset())
    if pair.footprint is None:
        return Georeference(None, None, frozenset())
    transform, flags = footprint_transform(pair.footprint, pair.height, pair.width)
    if transform is None or invert(transform) is None:
        return Georeference(None, None, flags)
    return Georeference(geometry.LONLAT, transform, flags | {"footprint_georeferenced"})


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
    features = _features(pairs, places, coords)
    lost = {i for i, shape in zip(features["position"], features["geometry_px"], strict=True) if shape is None}
    astray = _disagreeing(pairs, places)
    odd = _odd_geometries(pairs)
    flags = [
        sorted(
            {*p.flags, *g.flags}
            | ({"objects_unplaced"} if p.position in lost else set())
            | ({"footprint_disagrees"} if off else set())
            | odd.get(p.position, set())
        )
        for p, g, off in zip(pairs, places, astray, strict=True)
    ]
    return _samples(pairs, places, flags), features


def _odd_geometries(pairs: Sequence[PairEntry]) -> dict[int, set[str]]:
    """Flag what is stored as it was given, but is no sound geometry: by position."""
    flags: dict[int, set[str]] = {}
    footprints = geometry.parse_wkb([p.footprint for p in pairs])
    for pair, (west, south, east, north) in zip(pairs, geometry.bounds(footprints).tolist(), strict=True):
        if west < -180 or east > 180 or south < -90 or north > 90:  # noqa: PLR2004 - the ends of the world
            flags.setdefault(pair.position, set()).add("footprint_out_of_range")
    owners = [*pairs, *(p for p in pairs for _ in p.objects)]
    shapes = np.concatenate([footprints, geometry.parse_wkb([o.geometry for p in pairs for o in p.objects])])
    for index in geometry.find_invalid(shapes):
        flags.setdefault(owners[index].position, set()).add("invalid_geometry")
    return flags


def _disagreeing(pairs: Sequence[PairEntry], places: Sequence[Georeference]) -> list[bool]:
    """Tell which footprints lie more than a pixel off the image, where the image says itself where it is."""
    given = geometry.parse_wkb([p.footprint for p in pairs])
    own = np.array(
        [p.footprint is not None and g.crs is not None and g.crs == p.crs for p, g in zip(pairs, places, strict=True)]
    )
    pixel = np.full(len(pairs), None)
    _fill(pixel, given, own, places, to_pixel=True)
    frames = np.array([(0, 0, p.width, p.height) for p in pairs], dtype="f8").reshape(-1, 4)
    off = np.abs(geometry.bounds(pixel) - frames).max(axis=1)
    return [bool(flag) for flag in own & ~(off <= FOOTPRINT_LIMIT_PX)]


def _samples(pairs: Sequence[PairEntry], places: Sequence[Georeference], flags: list[list[str]]) -> Columns:
    shapes = geometry.parse_wkb([p.footprint for p in pairs])
    return {
        "id": [p.id for p in pairs],
        "position": [p.position for p in pairs],
        "bucket": [p.bucket for p in pairs],
        "row": [p.row for p in pairs],
        "geometry": [p.footprint for p in pairs],
        "bbox": _bboxes(shapes),
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
        "bbox": _bboxes(ground),
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
            target[of] = geometry.apply_affine(geometry.project(given[of], crs, "from_lonlat"), inverses)
        else:
            target[of] = geometry.project(geometry.apply_affine(given[of], transforms), crs, "to_lonlat")


def _bboxes(shapes: Any) -> list[dict[str, float] | None]:
    rows = geometry.bounds(shapes).tolist()
    names = ("xmin", "ymin", "xmax", "ymax")
    return [None if math.isnan(row[0]) else dict(zip(names, row, strict=True)) for row in rows]
