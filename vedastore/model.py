"""The words that all floors share: frozen values, checked once at birth.

Source of the vocabulary: the release format (pairs of image and label) and ``docs/format.md``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from vedastore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

Task = Literal["classification", "object_detection", "segmentation"]
TASKS: tuple[Task, ...] = ("classification", "object_detection", "segmentation")

LabelCoords = Literal["pixel", "geographic"]
"""What the coordinates of a release's labels are, for its georeferenced samples."""

Fidelity = Literal["exact", "equivalent", "decoded"]
"""How an image comes back: the same bytes; the same pixels, tags and layout; the same decoded pixels."""

Affine6 = tuple[float, float, float, float, float, float]
"""``(a, b, c, d, e, f)``: x = a * column + b * row + c, y = d * column + e * row + f, pixel corners."""

Look = Literal["varied", "constant", "black"]
"""What there is to see on an image: something; one value all over each band; nothing but 0 and nodata."""

LabelKind = Literal["flags", "objects", "name", "empty"]
"""The form of one label: ``{class: 0/1}``, ``{class: [objects]}``, ``"class"``, or ``{}``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a release may ask for: more is refused by name, before it is allocated or waited for.

    The defaults take every release that the format was made for, and refuse a hostile one within a few hundred
    megabytes. Raise those that a release of your own needs. A worker may need some times ``image_bytes`` where an image
    is as large as that.

    Attributes
    ----------
    members : int
        Members of the archive, directories included.
    member_bytes : int
        One member.
    header_bytes : int
        One pax header or GNU long name.
    name_chars : int
        The name of one member.
    padding_bytes : int
        Zeros behind the end of the archive.
    archive_expansion : int
        Decompressed bytes for each byte of a gzip stream, once more than ``archive_trusted_bytes`` are out.
    archive_trusted_bytes : int
        Decompressed bytes that any gzip stream may have.
    image_bytes : int
        Pixels of one image, tile padding included.
    image_expansion : int
        Bytes of pixels for each byte that holds them, above ``image_trusted_bytes``.
    image_trusted_bytes : int
        Bytes of pixels that any image may have: constant images compress nearly without bound.
    image_seconds : int
        Time that a codec may take over one image.
    json_bytes : int
        One label, ``meta.json`` or ``bounds.geojson``.
    json_memory_bytes : int
        An upper estimate of what such a file needs once it is parsed.
    json_depth : int
        Levels of nesting in it.
    """

    members: int = 2_100_000
    member_bytes: int = 256 * 2**20
    header_bytes: int = 2**20
    name_chars: int = 4096
    padding_bytes: int = 64 * 2**20
    archive_expansion: int = 250
    archive_trusted_bytes: int = 512 * 2**20
    image_bytes: int = 256 * 2**20
    image_expansion: int = 2000
    image_trusted_bytes: int = 64 * 2**20
    image_seconds: int = 20
    json_bytes: int = 32 * 2**20
    json_memory_bytes: int = 256 * 2**20
    json_depth: int = 512

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"the limit {name} is {value!r}", hint="a limit is a whole number above 0")


DEFAULT_LIMITS: Final = Limits()

EXAMPLES: Final = 20
"""How many samples or members a finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reader of the release should know; one a rule, however often it is broken.

    Attributes
    ----------
    rule : str
        One of ``spec.rules``.
    message : str
    where : str, optional
        The place.
    count : int
        How many samples, or members, break the rule; 1 where it concerns the release as a whole.
    samples : tuple of str
        The first ``EXAMPLES`` of them: ids of samples, or names of members.
    """

    rule: str
    message: str
    where: str | None = None
    count: int = 1
    samples: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return {**asdict(self), "samples": list(self.samples)}


class LabelledObject(NamedTuple):
    """One labelled object, in the coordinates of its label file (a tuple, because a release makes millions of them).

    ``geometry`` is ISO WKB (Polygon or MultiPolygon), ``bounds`` its (minx, miny, maxx, maxy); ``is_box`` tells
    whether it is an axis-aligned rectangle.
    """

    class_name: str
    ordinal: int
    geometry: bytes
    bounds: tuple[float, float, float, float]
    is_box: bool


@dataclass(frozen=True, slots=True)
class Label:
    """What one label file says: its footprint, the classes it names, and its objects."""

    kind: LabelKind
    declared: tuple[str, ...]
    present: tuple[str, ...]
    objects: tuple[LabelledObject, ...]
    footprint: bytes | None
    footprint_bounds: tuple[float, float, float, float] | None
    flags: tuple[str, ...]

    @property
    def objects_bounds(self) -> tuple[float, float, float, float] | None:
        """The box around all objects, in the label's own coordinates; None without objects."""
        if not self.objects:
            return None
        minx, miny, maxx, maxy = zip(*(o.bounds for o in self.objects), strict=True)
        return min(minx), min(miny), max(maxx), max(maxy)


class ImageHalf(NamedTuple):
    """One half of a pair: all that is known of an image file besides its pixels.

    A tuple, because millions of them go from one process to another.

    ``digest`` is the SHA-256 of the file, ``pixel_digest`` that of its pixels (band, y, x; little-endian), which also
    proves a compressed file: codecs of another version may give other bytes for the same pixels. ``pages`` counts the
    images of the file, overviews and masks aside. ``envelope`` is what the file is besides its pixels.
    """

    id: str
    member: str
    ordinal: int
    dtype: str
    bands: int
    height: int
    width: int
    look: Look
    pages: int
    crs: str | None
    transform: Affine6 | None
    nodata: str | None
    digest: bytes
    pixel_digest: bytes
    fidelity: Fidelity
    envelope: bytes


@dataclass(frozen=True, slots=True)
class LabelHalf:
    """The other half of a pair: a label file as it was read, and what it says."""

    id: str
    member: str
    ordinal: int
    data: bytes
    label: Label


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How a release's labels are to be read; the defaults are the release format's own."""

    label_field: str | None = None
    default_label: str | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """The parts of ``meta.json`` that vedastore itself uses; the file is kept whole beside it."""

    name: str | None = None
    version: str | None = None
    task: Task | None = None
    classes: tuple[str, ...] = ()
    declared: Mapping[str, object] | None = None
