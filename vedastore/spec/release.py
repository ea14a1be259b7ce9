"""The release format: what each member is, and what ``meta.json`` says. Pure rules, no I/O.

Source: the Veda release format, https://pyveda.readthedocs.io/ ("Releases", "Releases for Importing").
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

from vedastore.errors import LabelError, ReleaseError
from vedastore.model import TASKS, Finding, Meta, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Bounds = tuple[float, float, float, float]
MemberKind = Literal["image", "label", "meta", "bounds", "directory", "unknown"]

_SUFFIXES: Final = {"images": (".tif", ".tiff"), "labels": (".json", ".geojson")}
META_KEYS: Final = (
    *("bbox", "classes", "mlType", "name", "nclasses"),
    *("public", "source", "version", "s3_location", "source_url"),
)
"""What the release format's ``meta.json`` has."""
BBOX_TOLERANCE: Final = 1e-9
"""Degrees that a box may be off, where pixels are smaller."""
HALF_WORLD_DEGREES: Final = 180.0
_TOLD: Final = 5
_ALIKE: Final = 0.8
"""How much of two names is the same where one may be a slip of the other (``difflib``)."""
_COMPARED, _COMPARED_CHARS = 200, 64  # so many names of such a length are compared letter by letter
_PLAIN: Final[dict[str, MemberKind]] = {"meta.json": "meta", "bounds.geojson": "bounds"}


@dataclass(frozen=True, slots=True)
class MemberRole:
    """What a member's name makes it: its kind, the id of its pair, the top folder, and its path below that."""

    kind: MemberKind
    path: str
    top: str = ""
    id: str = ""


@lru_cache(maxsize=1024)
def classify(name: str, *, is_dir: bool = False) -> MemberRole:
    """Tell what a member is by its name alone.

    >>> classify("ts_104-1.0.1/images/7.TIF")
    MemberRole(kind='image', path='images/7.TIF', top='ts_104-1.0.1', id='7')
    >>> classify("./labels/a.b.geojson").id, classify("images/._1.tif").kind
    ('a.b', 'unknown')
    """
    bare = _bare(name)
    if is_dir:
        return MemberRole("directory", bare)
    for top, path in _readings(bare):
        folder, _, file = path.rpartition("/")
        if not folder and path in _PLAIN:
            return MemberRole(_PLAIN[path], path, top)
        stem, dot, suffix = file.rpartition(".")
        if folder in _SUFFIXES and stem and not file.startswith(".") and f"{dot}{suffix}".lower() in _SUFFIXES[folder]:
            return MemberRole("image" if folder == "images" else "label", path, top, stem)
    return MemberRole("unknown", bare)


def _bare(name: str) -> str:
    return re.sub(r"^(?:\./)+", "", name) if name.startswith("./") else name


def _readings(name: str) -> list[tuple[str, str]]:
    """Split a name as (top folder, path): without a top folder, and with one."""
    top, slash, rest = name.partition("/")
    return [("", name), (top, _bare(rest))] if slash else [("", name)]


def comparable(name: str, top: str) -> str:
    """Return a member's name without ``./`` and the release's top folder: the same for all packings of a release."""
    bare = _bare(name)
    return bare.removeprefix(f"{top}/") if top else bare


def parse_task(value: object, where: str) -> Task:
    """Read an ``mlType``; case, spaces and hyphens do not matter.

    >>> parse_task("Object Detection", "meta.json")
    'object_detection'
    """
    text = str(value).strip().lower().replace(" ", "_").replace("-", "_")
    for task in TASKS:
        if text == task:
            return task
    msg = f"the task {value!r} is none of {', '.join(TASKS)}"
    raise ReleaseError(msg, where=where, hint="name it with task= or --task", rule="meta-task")


def class_name(value: object, where: str) -> str:
    """Read the name of a class; what is no string becomes its JSON text.

    >>> class_name(3, ""), class_name("car", "")
    ('3', 'car')
    """
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LabelError("a class name is not Unicode text (lone surrogate)", where=where, rule="label-class") from None
    if not text:
        raise LabelError("a class has an empty name", where=where, rule="label-class")
    return text


def parse_meta(document: Any, where: str, *, task: Task | None = None) -> Meta:
    """Read ``meta.json``; keys that are missing are left to the caller's options, and ``task`` goes before its own."""
    if not isinstance(document, dict):
        hint = "mend it, or leave it out: a release needs none"
        raise ReleaseError("meta.json is not a JSON object", where=where, hint=hint, rule="meta-json")
    named = document.get("mlType")
    return Meta(
        name=_text(document.get("name")),
        version=_text(document.get("version")),
        task=task or (None if named is None else parse_task(named, where)),
        classes=tuple(sorted(declared_classes(document, where))),
        declared=document,
    )


def declared_classes(document: dict[str, Any], where: str) -> set[str]:
    """Return the classes that ``meta.json`` lists: names, keys of an object, or the names of objects.

    >>> sorted(declared_classes({"classes": [{"name": "car"}, {"name": 3}, ["boat"]]}, ""))
    ['3', 'car']
    """
    classes = document.get("classes")
    names = list(classes) if isinstance(classes, dict | list) else []
    if any(isinstance(n, dict | list) for n in names):
        names = [n["name"] for n in names if isinstance(n, dict) and "name" in n]
    return {class_name(n, where) for n in names}


def check_meta(meta: Meta, classes: set[str], where: str, *, complete: bool = True) -> list[Finding]:
    """Compare what ``meta.json`` says with the labels that were read; ``complete`` tells whether those are all."""
    declared = meta.declared or {}
    findings = []
    missing = [key for key in META_KEYS if key not in declared]
    if missing:
        told = f"meta.json lacks {some(missing)}"
        findings.append(Finding("meta-key", told, where, len(missing)))
    unlisted = sorted(classes - set(meta.classes))
    if meta.classes and unlisted:
        slips = ((name, resembling(name, meta.classes)) for name in unlisted[:_TOLD])
        meant = [f"{name!r} for {listed!r}?" for name, listed in slips if listed]
        told = f"labels name classes that meta.json does not list: {some(unlisted)}"
        told += f"; perhaps {some(meant)}" if meant else ""
        findings.append(Finding("meta-classes", told, where, len(unlisted)))
    unused = sorted(set(meta.classes) - classes)
    if unused and complete:
        told = f"meta.json lists classes that no label names: {some(unused)}"
        findings.append(Finding("meta-unused-class", told, where, len(unused)))
    if isinstance(declared.get("classes"), dict | list) and "nclasses" in declared:
        count = declared["nclasses"]
        if isinstance(count, bool) or not isinstance(count, int | float) or count != len(meta.classes):
            told = f"nclasses is {json.dumps(count):.40}, but classes are {len(meta.classes)}"
            findings.append(Finding("meta-nclasses", told, where))
    return findings


def resembling(name: str, classes: Iterable[str]) -> str | None:
    """Return the class that a name may be a slip of: another case, or a letter or two.

    >>> resembling("bulding", ["building", "tree"]), resembling("car", ["building", "tree"])
    ('building', None)
    """
    known = {_plain(c): c for c in classes if c != name}
    plain = _plain(name)
    if plain in known or len(known) > _COMPARED or len(name) > _COMPARED_CHARS:
        return known.get(plain)
    short = [c for c in known if len(c) <= _COMPARED_CHARS]
    found = get_close_matches(plain, short, n=1, cutoff=_ALIKE)
    return known[found[0]] if found else None


def check_classes(named: Iterable[str], where: str) -> list[Finding]:
    """Tell classes that labels name in two spellings, which differ in case or normal form only."""
    spellings: dict[str, list[str]] = {}
    for name in sorted(named):
        spellings.setdefault(_plain(name), []).append(name)
    alike = [" and ".join(names) for names in spellings.values() if len(names) > 1]
    told = f"classes that differ in case or normal form only: {some(alike)}"
    return [Finding("class-case", told, where, len(alike))] if alike else []


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_bbox(
    meta: Meta, edges: Bounds, pixel: tuple[float, float], where: str, *, complete: bool = True
) -> list[Finding]:
    """Compare ``bbox`` with the box around all footprints, a pixel (width, height in degrees) more or less.

    Where not all footprints could be read, the box may be larger. Boxes over the antimeridian are not judged.
    """
    declared = meta.declared or {}
    if "bbox" not in declared or edges[2] - edges[0] > HALF_WORLD_DEGREES:
        return []
    box = parse_bbox(declared["bbox"])
    told = ", ".join(f"{edge:.7g}" for edge in edges)
    if box is None:
        return [Finding("meta-bbox", f"bbox is no list of west, south, east and north: they are {told}", where)]
    margins = [max(BBOX_TOLERANCE, p) for p in (*pixel, *pixel)]
    outward = (-1, -1, 1, 1)  # how much further out than the footprints each edge is
    off = [sign * (given - edge) for sign, given, edge in zip(outward, box, edges, strict=True)]
    fits = [-m <= o and (o <= m or not complete) for o, m in zip(off, margins, strict=True)]
    if all(fits):
        return []
    given = ", ".join(f"{edge:.7g}" for edge in box)
    return [Finding("meta-bbox", f"bbox is {given}, but the footprints have {told}", where)]


def parse_bbox(value: object) -> Bounds | None:
    """Read a box of four numbers, or of six with heights; None for anything else.

    >>> parse_bbox([1, 2, 3, 4]), parse_bbox([1, 2, 0, 3, 4, 9]), parse_bbox("1, 2, 3, 4")
    ((1, 2, 3, 4), (1, 2, 3, 4), None)
    """
    if not isinstance(value, list) or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in value):
        return None
    if len(value) == 6:  # noqa: PLR2004 - RFC 7946, section 5: with heights
        value = [value[i] for i in (0, 1, 3, 4)]
    return tuple(value) if len(value) == 4 else None  # noqa: PLR2004 - the four edges


def parse_bounds(feature: Any, where: str) -> Bounds | None:
    """Read one feature of ``bounds.geojson``, or its only one: the box around it, None where it has no geometry.

    Raises
    ------
    ReleaseError
        When it is no GeoJSON.
    """
    if not isinstance(feature, dict) or not isinstance(feature.get("type"), str):
        raise ReleaseError("bounds.geojson is no GeoJSON", where=where, rule="bounds-json")
    geometry = feature.get("geometry") if feature["type"] == "Feature" else feature
    return None if geometry is None or geometry == {} else _box(geometry, where)


def _box(geometry: Any, where: str) -> Bounds:
    """Return the box around all positions of a geometry."""
    if isinstance(geometry, dict) and isinstance(geometry.get("geometries"), list) and geometry["geometries"]:
        return _box_around([_box(part, where) for part in geometry["geometries"]])  # as deep as JSON may be, at most
    if not isinstance(geometry, dict) or not isinstance(geometry.get("coordinates"), list):
        raise ReleaseError("bounds.geojson has a feature that is no GeoJSON", where=where, rule="bounds-json")
    todo: list[Any] = [geometry["coordinates"]]
    edges: list[Bounds] = []
    while todo:
        item = todo.pop()
        if not set(map(type, item)) <= {list}:
            raise ReleaseError("bounds.geojson has coordinates that are no numbers", where=where, rule="bounds-json")
        if item and item[0] and not isinstance(item[0][0], list):
            edges.append(_ring_box(item, where))
        else:
            todo += item
    if not edges:
        raise ReleaseError("bounds.geojson has a geometry without positions", where=where, rule="bounds-json")
    return edges[0] if len(edges) == 1 else _box_around(edges)


def _box_around(boxes: list[Bounds]) -> Bounds:
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)


def _ring_box(ring: list[Any], where: str) -> Bounds:
    if not set(map(type, chain.from_iterable(ring))) <= {int, float} or min(map(len, ring)) < 2:  # noqa: PLR2004 - x, y
        raise ReleaseError("bounds.geojson has coordinates that are no numbers", where=where, rule="bounds-json")
    x, y, *_ = zip(*ring, strict=False)  # heights, where all have them
    return min(x), min(y), max(x), max(y)


def check_bounds(features: int, samples: int, where: str, *, read: int | None = None) -> list[Finding]:
    """Compare the number of features with that of samples: one for all, or one for each that is there or was read."""
    if features in {1, samples, read or samples}:
        return []
    return [Finding("bounds-count", f"bounds.geojson describes {features} chips, the release has {samples}", where)]


def some(names: Sequence[str]) -> str:
    """Name the first of many, for a message.

    >>> some(["a", "b"]), some("abcdefg")
    ('a, b', 'a, b, c, d, e ...')
    """
    return ", ".join(names[:_TOLD]) + (" ..." if len(names) > _TOLD else "")


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def import_request(
    *,
    name: str,
    task: Task,
    dtype: str,
    shape: tuple[int, int, int],
    meta: Any,
    options: dict[str, Any],
    archive: str,
) -> dict[str, Any]:
    """Return the body of a bulk-import request for an exported archive; ``shape`` is (band, y, x).

    ``meta`` is what ``meta.json`` says, None where there is none. ``s3path`` is the archive's name: it has to be put in
    front of the bucket that it is uploaded to.
    """
    declared = meta if isinstance(meta, dict) else {}
    metadata = {
        "name": name,
        "description": declared.get("description", name),
        "dtype": dtype,
        "imshape": list(shape),
        "mltype": task,
        "public": bool(declared.get("public", False)),
        "sensors": [declared["source"]] if declared.get("source") else [],
    }
    chosen = {
        "default_label": options.get("default_label"),
        "label_field": options.get("label_field"),
        "s3path": archive,
    }
    return {"metadata": metadata, "options": chosen}
