"""The forms of a label, and what the labels of a whole release add up to. Pure rules, no I/O.

Source: the Veda release format ("Label Formats", "Releases for Importing").
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from vedastore.errors import LabelError, ReleaseError
from vedastore.model import Label, LabelCoords, LabelKind, LabelledObject, LabelOptions, Task
from vedastore.spec.geometry import Bounds, Shape, parse_box, parse_footprint, parse_geometry
from vedastore.spec.lonlat import HALF_WORLD, WORLD, unwrap_box
from vedastore.spec.release import class_name

SHORT: Final = 40
"""Characters of a name or value in a message."""
GEOGRAPHIC_AREA_SHARE: Final = 0.01
"""A footprint that covers more of the pixel range than this makes labels that fit both ambiguous."""


def parse_label(feature: Any, options: LabelOptions, where: str) -> Label:
    """Read one label file, a GeoJSON Feature whose ``properties.label`` says what the chip shows.

    Raises
    ------
    LabelError
        With the place, for everything that is not a label of a known form.
    """
    if not isinstance(feature, dict):
        raise LabelError("a label file is not a GeoJSON Feature", where=where, rule="label-form")
    if feature.get("type", "Feature") != "Feature":
        kind = _short(feature["type"])
        raise LabelError(f"a label file is a GeoJSON {kind}, not a Feature", where=where, rule="label-form")
    footprint, odd = parse_footprint(feature.get("geometry"), f"{where}: geometry")
    kind, flags_by_class, objects = _parse_value(_label_value(feature, options, where), f"{where}: label")
    flags = set(odd)
    found = []
    for name, shapes in objects.items():
        for ordinal, shape in enumerate(shapes):
            flags |= shape.flags
            found.append(LabelledObject(name, ordinal, shape.wkb, shape.bounds, shape.is_box))
    present = {n for n, flag in flags_by_class.items() if flag} | {n for n, shapes in objects.items() if shapes}
    return Label(
        kind=kind,
        declared=tuple(sorted({*flags_by_class, *objects})),
        present=tuple(sorted(present)),
        objects=tuple(found),
        footprint=footprint.wkb if footprint else None,
        footprint_bounds=footprint.bounds if footprint else None,
        flags=tuple(sorted(flags)),
    )


def _label_value(feature: dict[str, Any], options: LabelOptions, where: str) -> Any:
    spellings = [k for k in ("properties", "Properties") if k in feature]
    if len(spellings) > 1:
        raise LabelError("a label file has both 'properties' and 'Properties'", where=where, rule="label-form")
    properties = feature[spellings[0]] if spellings else None
    if properties is not None and not isinstance(properties, dict):
        raise LabelError("the properties of a label file are not a JSON object", where=where, rule="label-form")
    field = options.label_field or "label"
    value = (properties or {}).get(field)
    if value is None:
        value = options.default_label
    if value is None:
        hint = "name another property with --label-field, or give --default-label"
        lack = f"{field!r} is null" if field in (properties or {}) else f"properties have no {field!r}"
        raise LabelError(f"there is no label: {lack}", where=where, hint=hint, rule="label-missing")
    return value


def _parse_value(value: Any, where: str) -> tuple[LabelKind, dict[str, bool], dict[str, list[Shape]]]:
    """Return the form of a label, the flag of each class, and the objects of each class."""
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise LabelError("a label is a list, not {class: value} or a class", where=where, rule="label-form")
        return "name", {class_name(value, where): True}, {}
    flags: dict[str, bool] = {}
    objects: dict[str, list[Shape]] = {}
    for key, item in value.items():
        name = class_name(key, where)
        place = f"{where}: {name if len(name) <= SHORT else f'{name[:SHORT]}...'}"
        if isinstance(item, list):
            objects[name] = [_parse_object(o, f"{place}[{i}]") for i, o in enumerate(item)]
        elif isinstance(item, bool | int | float) and item in {0, 1}:
            flags[name] = bool(item)
        else:
            told = f"the class has the value {_short(item)}, not 0, 1 or a list of objects"
            raise LabelError(told, where=place, rule="label-form")
    if flags and objects:
        raise LabelError("a label has both 0/1 values and lists of objects", where=where, rule="label-form")
    return ("flags" if flags else "objects" if objects else "empty"), flags, objects


def _parse_object(item: Any, where: str) -> Shape:
    if isinstance(item, list):
        return parse_box(item, where)
    if isinstance(item, dict) and item.get("type") == "Feature":
        return parse_geometry(item.get("geometry"), where)
    return parse_geometry(item, where)


def belongs(task: Task, kind: LabelKind) -> bool:
    """Tell whether labels of a form belong to a task."""
    return kind != ("objects" if task == "classification" else "flags")


def wrong_task(task: Task, kind: LabelKind, where: str) -> LabelError:
    """Return the error for a label whose form does not belong to the release's task."""
    form = "lists of objects" if kind == "objects" else "0/1 values"
    hint = "name the task with task= or --task if meta.json is wrong"
    return LabelError(f"the label has {form}, but the task is {task}", where=where, hint=hint, rule="label-task")


def infer_task(kinds: set[LabelKind], *, only_boxes: bool, where: str) -> Task:
    """Tell the task from the forms of all labels: flags or names, boxes alone, or other polygons."""
    if {"objects", "flags"} <= kinds:
        message = (
            "some labels have 0/1 values and others lists of objects, and there is no meta.json that says the task"
        )
        raise ReleaseError(message, where=where, hint="name it with task= or --task")
    if "objects" in kinds:
        return "object_detection" if only_boxes else "segmentation"
    if kinds & {"flags", "name"}:
        return "classification"
    hint = "name it with task= or --task"
    raise ReleaseError(
        "the task cannot be told: there is no meta.json and every label is empty", where=where, hint=hint
    )


class CoordinateEvidence(NamedTuple):
    """What the object coordinates of one georeferenced sample fit."""

    id: str
    pixel: bool
    geographic: bool


def weigh(sample_id: str, objects: Bounds, footprint: Bounds, height: int, width: int) -> CoordinateEvidence:
    """Compare the box around a sample's objects with the chip in pixels and with its footprint in degrees.

    An object may reach over the chip's edge, by the chip's own size at most. Degrees are often
    small positive numbers, which lie in the pixel range too; only the footprint, a speck in that range, decides: what
    fits it is geographic, unless the footprint itself covers more than a hundredth of the pixel range.
    """
    pixel = _fits(objects, (0.0, 0.0, float(width), float(height)))
    if HALF_WORLD < footprint[2] - footprint[0] < WORLD:  # over the antimeridian
        objects, footprint = unwrap_box(objects), unwrap_box(footprint)
    geographic = _fits(objects, footprint)
    if pixel and geographic:
        area = (footprint[2] - footprint[0]) * (footprint[3] - footprint[1])
        pixel = area > GEOGRAPHIC_AREA_SHARE * width * height
    return CoordinateEvidence(sample_id, pixel, geographic)


def _fits(inner: Bounds, outer: Bounds) -> bool:
    """Tell whether a box lies at least partly in another one, and nowhere further outside than that one's size."""
    margin_x, margin_y = outer[2] - outer[0], outer[3] - outer[1]
    apart = inner[0] > outer[2] or inner[2] < outer[0] or inner[1] > outer[3] or inner[3] < outer[1]
    return not apart and (
        inner[0] >= outer[0] - margin_x
        and inner[1] >= outer[1] - margin_y
        and inner[2] <= outer[2] + margin_x
        and inner[3] <= outer[3] + margin_y
    )


_VERDICTS: Final = {
    (True, True): "both", (True, False): "pixel", (False, True): "geographic", (False, False): "neither",
}  # fmt: skip
"""What a sample tells, by whether it fits pixels, and whether it fits its footprint."""


class CoordinateDecision:
    """Adds up the evidence of all samples, in bounded memory, and decides once for the release."""

    def __init__(self) -> None:
        self._samples: dict[str, list[str]] = {"pixel": [], "geographic": [], "both": [], "neither": []}
        self._counts = dict.fromkeys(self._samples, 0)

    def add(self, evidence: CoordinateEvidence) -> None:
        """Count one sample; a few ids of each verdict are kept for the message."""
        found = _VERDICTS[evidence.pixel, evidence.geographic]
        self._counts[found] += 1
        examples = self._samples[found]
        if len(examples) < 3:  # noqa: PLR2004 - three names are enough for a message
            examples.append(evidence.id)

    def decide(self, where: str) -> LabelCoords | None:
        """Return what the coordinates are; None where no sample has any.

        Raises
        ------
        ReleaseError
            When the evidence is mixed, fits both, or fits neither.
        """
        found = {verdict: ids for verdict, ids in self._samples.items() if ids}
        if not found:
            return None
        if "pixel" in found and "geographic" not in found:
            return "pixel"
        if "geographic" in found and "pixel" not in found:
            return "geographic"
        words = {"pixel": "pixels", "geographic": "degrees", "both": "both", "neither": "neither"}
        told = "; ".join(f"{words[verdict]}: {self._told(verdict)}" for verdict in found)
        mixed = "are pixels in some labels and degrees in others"
        either = "fit pixels as well as degrees" if "both" in found else "fit neither pixels nor degrees"
        reason = mixed if "pixel" in found else either
        hint = "mend the labels, or say what all of them are with label_coords= or --label-coords pixel|geographic"
        message = f"label coordinates {reason} ({told})"
        raise ReleaseError(message, where=where, hint=hint, rule="coordinates-unclear")

    def _told(self, verdict: str) -> str:
        count, ids = self._counts[verdict], self._samples[verdict]
        more = " ..." if count > len(ids) else ""
        return f"{count} {'sample' if count == 1 else 'samples'} ({', '.join(ids)}{more})"


def _short(value: object) -> str:
    """Return a value as it may stand in a message, whatever its size."""
    if isinstance(value, dict | list):
        return "{...}" if isinstance(value, dict) else "[...]"
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."
