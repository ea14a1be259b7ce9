"""The options that choose samples of a store: their words, and the selection that they make."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import LabelError, UsageError

if TYPE_CHECKING:
    import argparse

    from vedastore.views.collection import Collection

_OBJECTS: Final = re.compile(
    r"(?:(?P<name>.*)=)?(?P<least>[0-9]{0,18})(?P<range>\.\.)?(?P<most>[0-9]{0,18})", re.DOTALL
)


def add_selection(sub: argparse.ArgumentParser) -> None:
    """Add the options."""
    sub.add_argument("--id", metavar="ID", action="append", help="of this id; may be given several times")
    sub.add_argument(
        "--class", metavar="C", dest="class_", action="append", help="with this class; may be given several times"
    )
    sub.add_argument(
        "--match", choices=["any", "all", "none"], default="any", help="with any of the classes, all or none of them"
    )
    sub.add_argument(
        "--objects",
        metavar="[C=]N",
        action="append",
        default=[],
        help="with at least so many objects, or a range of them: 2..5, 2.., ..5; of a class: car=2..5;"
        " may be given several times",
    )
    sub.add_argument("--bbox", metavar="W,S,E,N", help="whose footprint's box meets this one, degrees")
    sub.add_argument("--intersects", metavar="FILE", help="whose footprint meets a shape in a GeoJSON file")
    sub.add_argument("--split", metavar="S", help="of this split; of none with an empty name")
    sub.add_argument("--where", metavar="SQL", help="for which a condition on the columns of samples is true")
    sub.add_argument("--limit", metavar="N", type=int, help="the first so many")


def choose(collection: Collection, options: argparse.Namespace) -> Collection:
    """Return the samples that the options choose; the collection itself where they ask for nothing."""
    counts = [_parse_objects(text) for text in options.objects]
    asked = {
        "classes": options.class_,
        "bbox": None if options.bbox is None else options.bbox.replace(",", " ").split(),
        "intersects": None if options.intersects is None else _read_geojson(options.intersects),
        "split": options.split,
        "where": options.where,
        "limit": options.limit,
    }
    if options.id is None and options.match == "any" and not counts and all(v is None for v in asked.values()):
        return collection
    found = collection.select(ids=options.id)
    for objects in counts:
        found = found.select(objects=objects)
    return found.select(**asked, match=options.match)


def _parse_objects(text: str) -> Any:
    """Read ``2``, ``2..5``, ``2..`` or ``..5``, with ``car=`` in front where it is of a class."""
    found = _OBJECTS.fullmatch(text)
    if not found or not (found["least"] or found["most"]):
        hint = "give 2 for at least two, a range such as 2..5, 2.. or ..5, or car=2..5"
        raise UsageError(f"{text[:40]!r} is no number of objects", hint=hint)
    least, most = (int(edge) if edge else None for edge in (found["least"], found["most"]))
    edges = (least, most) if found["range"] else least
    return edges if found["name"] is None else {found["name"]: edges}


def _read_geojson(path: str) -> Any:
    """Return what a file of GeoJSON says."""
    from pathlib import Path

    from vedastore.io.geojson import parse_json

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"the shape cannot be read: {error.strerror}", where=path) from None
    try:
        return parse_json(data, path)
    except LabelError as error:
        raise UsageError(error.message, where=error.where) from None
