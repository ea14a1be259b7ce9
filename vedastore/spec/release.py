"""The release format: what each member is, and what ``meta.json`` says. Pure rules, no I/O.

Source: the Veda release format, https://pyveda.readthedocs.io/ ("Releases", "Releases for Importing").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from vedastore.errors import LabelError, ReleaseError
from vedastore.model import TASKS, Finding, Meta, Task

MemberKind = Literal["image", "label", "meta", "bounds", "directory", "unknown"]

_SUFFIXES: Final = {"images": (".tif", ".tiff"), "labels": (".json", ".geojson")}
_PLAIN: Final[dict[str, MemberKind]] = {"meta.json": "meta", "bounds.geojson": "bounds"}


@dataclass(frozen=True, slots=True)
class MemberRole:
    """What a member's name makes it: its kind, the id of its pair, the top folder, and its path below that."""

    kind: MemberKind
    path: str
    top: str = ""
    id: str = ""


def classify(name: str, *, is_dir: bool = False) -> MemberRole:
    """Tell what a member is by its name alone.

    >>> classify("ts_104-1.0.1/images/7.TIF")
    MemberRole(kind='image', path='images/7.TIF', top='ts_104-1.0.1', id='7')
    >>> classify("./labels/a.b.geojson").id, classify("images/._1.tif").kind
    ('a.b', 'unknown')
    """
    bare = re.sub(r"^(?:\./)+", "", name)
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


def _readings(name: str) -> list[tuple[str, str]]:
    """Split a name as (top folder, path): without a top folder, and with one."""
    top, slash, rest = name.partition("/")
    return [("", name), (top, re.sub(r"^(?:\./)+", "", rest))] if slash else [("", name)]


def comparable(name: str, top: str) -> str:
    """Return a member's name without ``./`` and the release's top folder: the same for all packings of a release."""
    bare = re.sub(r"^(?:\./)+", "", name)
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
    raise ReleaseError(msg, where=where, hint="name it with task= or --task")


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
        raise ReleaseError("meta.json is not a JSON object", where=where)
    classes = document.get("classes")
    names = list(classes) if isinstance(classes, dict | list) else []
    if any(isinstance(n, dict | list) for n in names):
        names = [n["name"] for n in names if isinstance(n, dict) and "name" in n]
    named = document.get("mlType")
    return Meta(
        name=_text(document.get("name")),
        version=_text(document.get("version")),
        task=task or (None if named is None else parse_task(named, where)),
        classes=tuple(sorted({class_name(n, where) for n in names})),
        declared=document,
    )


def check_meta(meta: Meta, classes: set[str], where: str) -> list[Finding]:
    """Compare what ``meta.json`` says with the labels that were read."""
    findings = []
    unlisted = sorted(classes - set(meta.classes))
    if meta.classes and unlisted:
        message = f"labels name classes that meta.json does not list: {', '.join(unlisted)}"
        findings.append(Finding("meta-classes", message, where))
    declared = meta.declared or {}
    count = declared.get("nclasses")
    if isinstance(count, int) and meta.classes and count != len(meta.classes):
        findings.append(
            Finding("meta-nclasses", f"nclasses is {count}, but {len(meta.classes)} classes are listed", where)
        )
    return findings


def check_bounds(document: Any, samples: int, where: str) -> list[Finding]:
    """Compare ``bounds.geojson`` with the number of samples: one Feature for all, or one for each."""
    features = document.get("features") if isinstance(document, dict) else None
    if isinstance(features, list) and len(features) not in {1, samples}:
        message = f"bounds.geojson describes {len(features)} chips, the release has {samples}"
        return [Finding("bounds-count", message, where)]
    return []


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def import_request(
    *,
    name: str,
    task: Task,
    dtype: str,
    shape: tuple[int, int, int],
    meta: bytes | None,
    options: dict[str, Any],
    archive: str,
) -> dict[str, Any]:
    """Return the body of a bulk-import request for an exported archive; ``shape`` is (band, y, x).

    ``s3path`` is the archive's name: it has to be put in front of the bucket that it is uploaded to.
    """
    declared = json.loads(meta) if meta else {}
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
