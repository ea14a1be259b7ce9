"""Mends the JSON files of a release where nothing has to be guessed; what is not mended keeps its text. Pure.

Numbers keep the digits that they are written with, keys their order. A file that is mended is written anew as a whole.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from vedastore.spec.release import resembling, some

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

BOM: Final = b"\xef\xbb\xbf"
DROPPINGS: Final = re.compile(r"(?:^|/)(?:\.DS_Store|\._[^/]*|Thumbs\.db)$|(?:^|/)__MACOSX(?:/|$)")
"""What operating systems leave in archives."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:,]')

_ADDED: Final = 100
"""More classes than these are no oversight."""


class Number(str):
    """A number, as it is written."""

    __slots__ = ()


def parse_exact(data: bytes) -> Any:
    """Parse JSON that was read before; numbers keep their text."""
    return json.loads(data.removeprefix(BOM), parse_float=Number, parse_int=Number)


def dump_exact(value: Any, indent: int | None = None) -> bytes:
    """Write JSON as UTF-8, on one line or with an indentation.

    >>> dump_exact(parse_exact(b'{"a":[1.50, 1e2, -7],"b":null}'))
    b'{"a": [1.50, 1e2, -7], "b": null}'
    """
    text = _dump(value, indent, 0)
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates, which only escapes can spell
        return re.sub(r"[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text).encode()


def _dump(value: Any, indent: int | None, level: int) -> str:
    if isinstance(value, Number):
        return str(value)
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        parts = [f"{json.dumps(k, ensure_ascii=False)}: {_dump(v, indent, level + 1)}" for k, v in value.items()]
    else:
        parts = [_dump(item, indent, level + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if indent is None:
        return f"{opening}{', '.join(parts)}{closing}"
    line = "\n" + " " * (indent * (level + 1))
    return f"{opening}{line}{f',{line}'.join(parts)}\n{' ' * (indent * level)}{closing}"


def replace_values(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """Give some keys of a JSON object other values, as JSON; every other byte stays. Keys that it lacks are not added.

    >>> replace_values(b'{ "a" : [1, {"b": 2}] , "b":2.50 }', {"b": b"3"})
    b'{ "a" : [1, {"b": 2}] , "b":3 }'
    """
    parts, done, depth, text, value = [], 0, 0, b"", None
    for token in _TOKEN.finditer(data):
        sign = token[0][:1]
        if depth == 1 and sign in b",}" and value is not None:
            key, begin = value
            if key in values:
                old = data[begin : token.start()]
                space = len(old) - len(old.lstrip())
                parts += [data[done : begin + space], values[key]]
                done = begin + len(old.rstrip())
            value = None
        elif depth == 1 and sign == b":":
            value = json.loads(text), token.end()
        text = token[0]
        depth += (sign in b"{[") - (sign in b"}]")
    return b"".join([*parts, data[done:]])


def mend_label(data: bytes, label_field: str | None = None) -> tuple[bytes, dict[str, str]]:
    """Mend a label file that converts: no byte order mark, closed rings, a Polygon where one polygon is a MultiPolygon.

    Returns
    -------
    data : bytes
    done : dict of str
        What was done, by rule; empty where nothing was to do.
    """
    done: dict[str, str] = {}
    feature = parse_exact(data)
    footprint = feature.get("geometry") or {}
    closed = sum(_close_rings(g) for g in (footprint, *_objects(feature, label_field or "label")))
    if closed:
        done["ring-unclosed"] = f"{closed} ring{'' if closed == 1 else 's'} closed"
    if footprint.get("type") == "MultiPolygon" and len(footprint["coordinates"]) == 1:
        footprint["type"], footprint["coordinates"] = "Polygon", footprint["coordinates"][0]
        done["import-geometry"] = "the MultiPolygon of one polygon is that polygon"
    mended = dump_exact(feature) if done else data.removeprefix(BOM)
    if data.startswith(BOM):
        done["json-bom"] = "the byte order mark is left out"
    return mended, done


def _objects(feature: Mapping[str, Any], label_field: str) -> Iterable[dict[str, Any]]:
    """Yield the geometries of all objects; boxes have no rings."""
    properties = feature.get("properties", feature.get("Properties")) or {}
    label = properties.get(label_field)
    for items in label.values() if isinstance(label, dict) else ():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                yield item["geometry"] if item.get("type") == "Feature" else item


def _close_rings(geometry: dict[str, Any]) -> int:
    """Repeat the first position at the end of every ring that lacks it; return how many did."""
    coordinates = geometry.get("coordinates") or []
    polygons = coordinates if geometry.get("type") == "MultiPolygon" else [coordinates]
    closed = 0
    for ring in (ring for polygon in polygons for ring in polygon):
        if [float(n) for n in ring[0]] != [float(n) for n in ring[-1]]:
            ring.append(ring[0])
            closed += 1
    return closed


def mend_meta(
    data: bytes, broken: Collection[str], *, named: Iterable[str], bbox: tuple[float, ...] | None
) -> tuple[bytes, dict[str, str]]:
    """Mend ``meta.json``: its list of classes, their number, its box; every other key stays as it is.

    Parameters
    ----------
    data : bytes
    broken : collection of str
        The rules that it breaks.
    named : iterable of str
        The classes that labels name.
    bbox : tuple of float, optional
        The box around all footprints, where it is known.

    Returns
    -------
    data : bytes
    done : dict of str
        What was done, by rule.
    """
    document = parse_exact(data)
    done: dict[str, str] = {}
    classes = document.get("classes")
    plain = isinstance(classes, list) and not any(isinstance(c, dict | list) for c in classes)
    if "meta-classes" in broken and plain:
        known = {str(c) if isinstance(c, str) else json.dumps(c) for c in classes}
        added = sorted(set(named) - known)
        if len(added) <= _ADDED and not any(
            resembling(name, {*known, *named}) for name in added
        ):  # slips are not added
            classes += added
            done["meta-classes"] = f"classes: {some(added)} added"
    if "nclasses" in document and ("meta-nclasses" in broken or done) and isinstance(classes, dict | list):
        count = len({json.dumps(c, default=str) if isinstance(c, dict) else str(c) for c in classes})
        if document["nclasses"] != Number(count):
            document["nclasses"] = Number(count)
            done["meta-nclasses"] = f"nclasses is {count}"
    heights = isinstance(document.get("bbox"), list) and len(document["bbox"]) == 6  # noqa: PLR2004 - RFC 7946, 5
    if "meta-bbox" in broken and bbox is not None and not heights:
        document["bbox"] = list(bbox)
        done["meta-bbox"] = f"bbox is {', '.join(map(repr, bbox))}"
    return (dump_exact(document, indent_of(data)) if done else data), done


def indent_of(data: bytes) -> int | None:
    """Return the indentation of a JSON document; None where it stands on one line."""
    found = re.match(rb"(?:\xef\xbb\xbf)?\s*\{\r?\n( *)", data)
    return len(found[1]) if found else None


def footprint_feature(sample_id: str, label: bytes) -> bytes:
    """Return the feature of ``bounds.geojson`` for a sample: its footprint as its label file has it."""
    mended, _ = mend_label(label)
    geometry = parse_exact(mended).get("geometry") or None
    return dump_exact({"type": "Feature", "geometry": geometry, "properties": {"id": sample_id}})


def is_plain_bounds(data: bytes) -> bool:
    """Tell whether ``bounds.geojson`` says nothing but where chips are: what it says besides would be lost."""
    try:
        document = parse_exact(data)
    except (ValueError, RecursionError):
        return True  # nothing can be read from it
    if not isinstance(document, dict) or set(document) - {"type", "features", "bbox"}:
        return not isinstance(document, dict)
    features = document.get("features")
    features = features if isinstance(features, list) else []
    return all(isinstance(f, dict) and not (f.get("properties") or {}).keys() - {"id"} for f in features)


def dump_bounds(features: Iterable[bytes]) -> bytes:
    """Return ``bounds.geojson`` with some features."""
    return b'{"type": "FeatureCollection", "features": [' + b", ".join(features) + b"]}"


def box_feature(west: float, south: float, east: float, north: float) -> bytes:
    """Return one feature around everything."""
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return dump_exact({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}})
