"""What a comparison of two versions found: frozen records, and the report that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

CHANGES = ("added", "removed", "moved", "renamed")
"""What becomes of an object."""


class Side(NamedTuple):
    """One of the two versions that were compared, and how many samples of it were."""

    store: str
    version: str
    samples: int


class ObjectDiff(NamedTuple):
    """One labelled object that is not as it was (a tuple, because a new version may have changed millions of them).

    ``change`` is ``added``, ``removed``, ``moved`` (another place or shape) or ``renamed`` (the same shape, another
    class). ``class_name`` is the class that it has, or had where it was removed; ``was`` the one that it had
    where that changed. ``old`` and ``new`` are its places among the objects of its class in the label files. Of what
    moved, ``distance_px`` is how far its centroid did, and ``iou`` the intersection over union of both shapes in
    pixels; None where a shape is not valid or has more than 512 vertices.
    """

    change: str
    class_name: str
    was: str | None = None
    old: int | None = None
    new: int | None = None
    distance_px: float | None = None
    iou: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values; ``class_name`` is called ``class``."""
        document = self._asdict()
        return {"change": document.pop("change"), "class": document.pop("class_name"), **document}


@dataclass(frozen=True, slots=True)
class ImageDiff:
    """A sample whose image file has other bytes.

    ``changed`` says what of it is other: ``pixels``, ``shape`` (bands, size or data type) besides, ``crs``,
    ``transform``, ``nodata``; ``file`` where it is none of them, but other tags or another compression.
    """

    id: str
    changed: tuple[str, ...]

    @property
    def kind(self) -> str:
        """``pixels`` where these are other, else ``georeferencing``, else ``file``."""
        if "pixels" in self.changed:
            return "pixels"
        return "file" if {"crs", "transform"}.isdisjoint(self.changed) else "georeferencing"


@dataclass(frozen=True, slots=True)
class LabelDiff:
    """A sample whose label file has other bytes.

    Classes are those that the sample has. ``footprint`` tells whether it is other, ``footprint_m`` how far its centroid
    moved where there are both. Where nothing is other, the file only says the same in other words: ``rewritten``.
    """

    id: str
    classes_added: tuple[str, ...]
    classes_removed: tuple[str, ...]
    footprint: bool
    footprint_m: float | None
    objects: tuple[ObjectDiff, ...]

    @property
    def rewritten(self) -> bool:
        """Whether classes, objects and footprint are as they were."""
        return not (self.classes_added or self.classes_removed or self.footprint or self.objects)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "id": self.id,
            "rewritten": self.rewritten,
            "classes_added": list(self.classes_added),
            "classes_removed": list(self.classes_removed),
            "footprint": self.footprint,
            "footprint_m": self.footprint_m,
            "objects": [o.to_dict() for o in self.objects],
        }


@dataclass(frozen=True, slots=True)
class ColumnDiff:
    """The split, or a column of users: its type in both versions, None where there is no such column.

    ``samples`` are those that have another value, or one where they had none.
    """

    name: str
    old: str | None
    new: str | None
    samples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberDiff:
    """A member besides images and labels, by its name without the top folder: ``added``, ``removed`` or ``changed``."""

    name: str
    change: str


@dataclass(frozen=True, slots=True)
class FieldDiff:
    """What is said of the whole version, and changed: ``name``, ``task``, ``classes`` or ``label_coords``."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What changed from one version to another.

    Attributes
    ----------
    old, new : Side
        ``store``, ``version`` and ``samples`` of each.
    same : int
        Samples that both have, with the same image file, label file, split and columns.
    added, removed : tuple of str
        Ids.
    images : tuple of ImageDiff
        ``id`` and what is ``changed``: pixels, shape, crs, transform, nodata; else only the file.
    labels : tuple of LabelDiff
        ``id``, ``classes_added``, ``classes_removed``, ``footprint``, ``footprint_m`` and ``objects``.
    columns : tuple of ColumnDiff
        ``name``, types, and the ``samples`` whose value changed; ``split`` is one of them.
    members : tuple of MemberDiff
        ``name`` and ``change`` of other members.
    fields : tuple of FieldDiff
        What changed of the version's name, task, classes or label coordinates.
    """

    old: Side
    new: Side
    same: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    images: tuple[ImageDiff, ...]
    labels: tuple[LabelDiff, ...]
    columns: tuple[ColumnDiff, ...]
    members: tuple[MemberDiff, ...]
    fields: tuple[FieldDiff, ...]

    @property
    def differs(self) -> bool:
        """Whether anything changed."""
        return any((self.added, self.removed, self.images, self.labels, self.columns, self.members, self.fields))

    @property
    def counts(self) -> dict[str, int]:
        """How many samples, and objects of them, changed in which way."""
        images = [image.kind for image in self.images]
        objects = [o.change for label in self.labels for o in label.objects]
        return {
            "same": self.same,
            "added": len(self.added),
            "removed": len(self.removed),
            "pixels": images.count("pixels"),
            "georeferencing": images.count("georeferencing"),
            "files": images.count("file"),
            "labels": sum(not label.rewritten for label in self.labels),
            "rewritten": sum(label.rewritten for label in self.labels),
            **{f"objects_{change}": objects.count(change) for change in CHANGES},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "old": self.old._asdict(),
            "new": self.new._asdict(),
            "differs": self.differs,
            "counts": self.counts,
            "added": list(self.added),
            "removed": list(self.removed),
            "images": [{"id": i.id, "kind": i.kind, "changed": list(i.changed)} for i in self.images],
            "labels": [label.to_dict() for label in self.labels],
            "columns": [{**asdict(c), "samples": list(c.samples)} for c in self.columns],
            "members": [asdict(m) for m in self.members],
            "fields": [asdict(f) for f in self.fields],
        }
