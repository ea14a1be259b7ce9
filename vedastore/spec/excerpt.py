"""What ``meta.json`` and ``bounds.geojson`` say of some samples of a release; whatever is true keeps its bytes. Pure.

Documents were parsed before, with all that ``io.geojson`` refuses.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from vedastore.spec.release import comparable, declared_classes
from vedastore.spec.repairs import box_feature, dump_bounds, dump_exact, parse_exact, replace_values

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vedastore.spec.lonlat import Bbox

_FOLDERS: Final = ("images", "labels")
_SUFFIXES: Final = 3
"""How many suffixes may stand behind an id: ``7.tif.aux.xml``."""


def cut_meta(data: bytes, document: Any, box: Bbox | None) -> bytes:
    """Return ``meta.json`` with the box around the footprints of the samples that stay, None where they have none.

    Its classes stay: what a class index means must not depend on which samples were chosen.
    """
    return _with_box(data, document, box)


def retell_meta(data: bytes, document: Any, version: str, classes: Iterable[str]) -> bytes:
    """Return ``meta.json`` with the version, and with classes that it lacks; what it does not tell it is not told."""
    if not isinstance(document, dict):
        return data
    values = {} if document.get("version", version) == version else {"version": json.dumps(version).encode()}
    declared = parse_exact(data).get("classes")
    known = declared_classes(document, "meta.json")
    if (missing := [name for name in classes if name not in known]) and isinstance(declared, list):
        is_named = any(isinstance(c, dict | list) for c in declared)
        values["classes"] = dump_exact([*declared, *({"name": name} if is_named else name for name in missing)])
    elif missing and isinstance(declared, dict):
        values["classes"] = dump_exact(declared | dict.fromkeys(missing))
    if values.get("classes") and "nclasses" in document:
        values["nclasses"] = json.dumps(len(known) + len(missing)).encode()
    return replace_values(data, values)


def renew_features(data: bytes, features: Iterable[bytes], box: Bbox | None) -> bytes:
    """Return a collection of features with others, and the box around them."""
    value = {"features": b"[%b]" % b",".join(features)}
    return _with_box(replace_values(data, value), json.loads(data), box)


def bound_features(data: bytes, box: Bbox | None) -> bytes:
    """Return a collection of features with the box around them, where it has one that says something else."""
    return _with_box(data, json.loads(data), box)


def move_feature(feature: bytes, renewed: bytes) -> bytes:
    """Return a feature with the geometry of another one."""
    return replace_values(feature, {"geometry": dump_exact(parse_exact(renewed)["geometry"])})


def cut_features(data: bytes, kept: Iterable[tuple[int, int]], ends: tuple[int, int], box: Bbox | None) -> bytes:
    """Return a collection of features with some of them, by where each begins and ends.

    ``ends`` are where the first of all begins and the last one ends.
    """
    around = data[: ends[0]] + data[ends[1] :]
    features = b",".join(data[begin:end] for begin, end in kept)
    return replace_values(_with_box(around, json.loads(around), box), {"features": b"[%b]" % features})


def bound_all(data: bytes, found: Iterable[tuple[int, int, Any]], box: Bbox | None) -> bytes:
    """Return ``bounds.geojson`` with one feature around all samples that stay, None where they have no footprint.

    ``found`` is what it holds: where each feature begins and ends, and the feature. Where it has a single one, or is
    one, that gets another geometry and keeps the rest; else a collection is made anew.
    """
    match [*found]:
        case [(begin, end, {"geometry": _} as feature)]:
            geometry = b"null" if box is None else _polygon(box)
            changed = replace_values(_with_box(data[begin:end], feature, box), {"geometry": geometry})
            if end - begin == len(data):
                return changed
            around = data[:begin] + data[end:]
            return replace_values(_with_box(around, json.loads(around), box), {"features": b"[%b]" % changed})
    nowhere = b'{"type": "Feature", "geometry": null, "properties": {}}'
    return dump_bounds([nowhere if box is None else box_feature(*box)])


def _with_box(data: bytes, document: Any, box: Bbox | None) -> bytes:
    """Return a JSON object with another ``bbox``, where it has one that says something else; heights stay."""
    given = document.get("bbox") if isinstance(document, dict) else None
    edges = None if box is None else [*box]
    if edges and isinstance(given, list) and len(given) == 6:  # noqa: PLR2004 - RFC 7946, section 5: with heights
        edges = [*edges[:2], given[2], *edges[2:], given[5]]
    return data if given is None or given == edges else replace_values(data, {"bbox": json.dumps(edges).encode()})


def _polygon(box: Bbox) -> bytes:
    return json.dumps(json.loads(box_feature(*box))["geometry"]).encode()


def feature_id(feature: Any) -> str | None:
    """Return the id of a feature of ``bounds.geojson``: a property, as Veda has it, or GeoJSON's own.

    >>> feature_id({"properties": {"id": 7}}), feature_id({"id": "a"}), feature_id({"properties": None})
    ('7', 'a', None)
    """
    properties = feature.get("properties") if isinstance(feature, dict) else None
    found = properties.get("id") if isinstance(properties, dict) else None
    found = feature.get("id") if found is None and isinstance(feature, dict) else found
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and found.encode("utf-8", "replace").decode() == found:  # no lone surrogates
        return found
    return None


def owners(member: str, top: str) -> list[str]:
    """Return the ids of the samples that a member beside images or labels may belong to, the likeliest first.

    >>> owners("ts/images/7.tif.aux.xml", "ts"), owners("labels/._7.json", ""), owners("images/README", "")
    (['7.tif.aux', '7.tif', '7'], ['7'], [])
    """
    path = comparable(member, top)
    stem = path.rpartition("/")[2].removeprefix("._")
    found: list[str] = []
    while path.startswith(tuple(f"{folder}/" for folder in _FOLDERS)) and "." in stem and len(found) < _SUFFIXES:
        stem = stem.rpartition(".")[0]
        found.append(stem)
    return found
