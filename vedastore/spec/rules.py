"""What a good release is, rule by rule: the vocabulary of refusals, findings and the validator.

Ids are stable: they stand in reports, in stores and in other people's scripts. A rule that is no longer used stays
reserved. ``docs/rules.md`` is made from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
"""``error``: it does not convert. ``warning``: it converts, but something seems wrong. ``note``: worth knowing."""

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes
    ----------
    id : str
        Its name: what it is about, a hyphen, and what is wrong with it.
    severity : {"error", "warning", "note"}
    title : str
        What is wrong, in one line that holds for every release.
    advice : str
        Why it matters, and what to do.
    fix : str or None
        What ``validate --fix`` does about it; None where mending would be guessing.
    """

    id: str
    severity: Severity
    title: str
    advice: str
    fix: str | None = None


_ANEW: Final = "it is made anew from the footprints, unless it says more than where chips are"
SECTIONS: Final[dict[str, tuple[Rule, ...]]] = {
    "The archive": (
        Rule("archive-damaged", "error", "the archive is damaged, cut short, or followed by other data",
             "nothing inside it can be trusted; get it again, or make it anew from its files"),
        Rule("archive-member", "error", "a member is something that no release may hold",
             "links, devices, sparse files, and names that point elsewhere or mean different things to different "
             "programs are refused; pack plain files under plain names"),
        Rule("archive-limit", "error", "the archive is above a limit",
             "raise the limit with --limit if you trust the archive; otherwise it is a decompression bomb"),
        Rule("release-refused", "error", "the release contradicts itself",
             "the message says what does not fit; options such as --task decide what cannot be told"),
        Rule("release-empty", "error", "there is no sample in it",
             "a release has images/<id>.tif and labels/<id>.json, below one folder at most"),
        Rule("release-two", "error", "two releases are in one archive", "convert each by itself"),
        Rule("kept-member", "note", "members that are no part of a release",
             "they are kept, and come back with the export; leave them out of the archive if nobody needs them",
             "operating systems' own droppings (.DS_Store, ._*, Thumbs.db, __MACOSX) are left out"),
    ),
    "Pairs and names": (
        Rule("pair-incomplete", "error", "an image without label, or a label without image",
             "add the other half; vedastore convert --on-error=skip leaves the sample out"),
        Rule("pair-twice", "error", "one id has two files", "rename one of them, with its other half"),
        Rule("name-case", "warning", "ids that differ in case only",
             "they overwrite each other where the release is extracted to a disk that ignores case"),
        Rule("name-normal-form", "warning", "ids that differ in their Unicode normal form only",
             "they look the same, and are the same file on some systems; rename one"),
    ),
    "meta.json and bounds.geojson": (
        Rule("meta-json", "error", "meta.json cannot be read", "mend it, or leave it out: a release needs none"),
        Rule("meta-missing", "note", "there is no meta.json",
             "nothing but the labels tells name, task and classes then; import needs none"),
        Rule("meta-key", "note", "meta.json lacks a key of the release format", "readers may expect all of them"),
        Rule("meta-task", "error", "mlType is none of classification, object_detection, segmentation",
             "mend it, or name the task with --task"),
        Rule("meta-classes", "warning", "labels name classes that meta.json does not list",
             "readers that size their arrays by the list lose these classes",
             "they are added to the list, unless one may be a slip of another class"),
        Rule("meta-unused-class", "note", "meta.json lists classes that no label names",
             "a part of the data may be missing"),
        Rule("meta-nclasses", "warning", "nclasses is not the number of classes",
             "one of the two is wrong", "it is set to the number of classes"),
        Rule("meta-bbox", "warning", "bbox is not the box around all footprints",
             "spatial searches miss chips, or find none", "it is set to the box around all footprints"),
        Rule("bounds-json", "warning", "bounds.geojson cannot be read",
             "it is kept as it is; maps of the release stay empty", _ANEW),
        Rule("bounds-count", "warning", "bounds.geojson describes another number of chips",
             "chips are missing, or the file is of another release", _ANEW),
        Rule("bounds-footprint", "warning", "bounds.geojson does not cover the footprints",
             "the file may be of another release", _ANEW),
    ),
    "Label files": (
        Rule("json-syntax", "error", "the file is not JSON", "mend it where the message points"),
        Rule("json-encoding", "error", "the file is not UTF-8 text", "save it as UTF-8"),
        Rule("json-number", "error", "a number that JSON does not have, or that no program could hold",
             "NaN, Infinity and 1e999 are read differently by different programs; leave the value out"),
        Rule("json-duplicate-key", "error", "a key stands twice in one object",
             "some programs take the first, some the last; leave one out"),
        Rule("json-limit", "error", "the file is larger or nested deeper than the limits allow",
             "raise json_bytes, json_memory_bytes or json_depth with --limit if you trust it"),
        Rule("json-bom", "note", "the file begins with a byte order mark",
             "many JSON parsers refuse it", "the mark is left out"),
        Rule("json-rounded", "note", "a coordinate has more digits than a double holds",
             "the label's bytes are kept; tables and arrays have the nearest double"),
        Rule("label-form", "error", "the label is of no known form",
             "a label is a GeoJSON Feature whose properties.label is {class: 0 or 1}, {class: [objects]} or a class"),
        Rule("label-missing", "error", "the file has no label",
             "name another property with --label-field, or a class for all with --default-label"),
        Rule("label-task", "error", "the label's form does not belong to the task",
             "mend the label, or name the task with --task if meta.json is wrong"),
        Rule("label-class", "error", "a class has an empty name, or one that is not Unicode", "rename the class"),
        Rule("class-case", "warning", "classes that differ in case or normal form only",
             "they count as two classes; mend the labels that have the wrong one"),
        Rule("coordinates-unclear", "error", "label coordinates could be pixels or degrees",
             "say which with --label-coords"),
    ),
    "Geometry": (
        Rule("geometry-form", "error", "a geometry is no Polygon or MultiPolygon of finite numbers",
             "points, lines and collections have no area to label; null and empty geometries hold nothing"),
        Rule("box-inverted", "error", "a box has its minimum above its maximum",
             "a box is [minx, miny, maxx, maxy], not [x, y, width, height]"),
        Rule("ring-unclosed", "warning", "a ring is not closed",
             "GeoJSON asks that the last position repeats the first; it is closed in the index, not in the label",
             "the first position is repeated at the end"),
        Rule("geometry-invalid", "warning", "a footprint or an object crosses or touches itself",
             "areas and masks of such shapes differ between programs; it is stored as it is"),
        Rule("geometry-degenerate", "warning", "an object has no area", "it covers no pixel; it is stored as it is"),
        Rule("geometry-unchecked", "note", "a shape cannot be checked, or not in time",
             "it is too intricate, or its numbers are too large: whether it crosses itself is not known"),
        Rule("geometry-3d", "note", "coordinates have heights", "they are kept, and have no part in areas and boxes"),
        Rule("object-outside", "warning", "an object lies outside of its chip",
             "it covers no pixel; its coordinates may be of another chip"),
        Rule("objects-astray", "warning", "objects lie more than a chip's size outside of it",
             "their coordinates may be of another chip, or in another unit"),
        Rule("objects-unplaced", "warning", "an object has no place in pixels",
             "nothing maps the ground to this image; give it a footprint with four corners, or a CRS and transform"),
    ),
    "Georeferencing": (
        Rule("footprint-missing", "warning", "some samples have a footprint and others have none",
             "those without are not found by place"),
        Rule("footprint-empty", "note", "the geometry is a Polygon without positions",
             "it is read as none: the sample is not georeferenced"),
        Rule("footprint-disagrees", "warning",
             "the footprint lies more than a pixel off the image's own georeferencing",
             "the image's own is used for pixels; one of the two is wrong"),
        Rule("footprint-skewed", "note", "the footprint is no exact parallelogram",
             "the transform is the closest one, at most half a pixel off"),
        Rule("footprint-not-rectangle", "warning", "the footprint is no parallelogram",
             "pixels cannot be placed on the ground by it"),
        Rule("footprint-antimeridian", "note", "the footprint runs over the antimeridian",
             "pixels are placed as if longitudes went on past 180; a footprint that is cut in two places none"),
        Rule("footprint-pole", "note", "the footprint touches a pole", "longitudes mean little there"),
        Rule("footprint-out-of-range", "warning", "the footprint has longitudes or latitudes that do not exist",
             "axes may be exchanged, or the coordinates are not degrees"),
        Rule("footprint-swapped", "warning", "the footprint fits the image only with latitude and longitude exchanged",
             "GeoJSON asks for longitude first"),
    ),
    "Images": (
        Rule("image-damaged", "error", "the image is damaged", "get it again, or make it anew"),
        Rule("image-unsupported", "error", "the image is of a layout that could not be given back",
             "save it in another layout, such as uncompressed or Deflate"),
        Rule("image-limit", "error", "the image is above a limit",
             "raise image_bytes, image_expansion or image_seconds with --limit if you trust it"),
        Rule("image-crash", "error", "the codec that reads the image crashed or did not come to an end",
             "nothing else was harmed; the file is damaged or made to do this"),
        Rule("image-size", "warning", "images are of several sizes", "most training code wants one size"),
        Rule("image-type", "warning", "images are of several data types", "values may be scaled differently"),
        Rule("image-bands", "warning", "images have different numbers of bands", "most training code wants one number"),
        Rule("image-black", "warning", "every pixel is 0 or nodata", "there is nothing to see on it"),
        Rule("image-constant", "warning", "every pixel of each band has one value", "there is nothing to see on it"),
        Rule("image-duplicate", "warning", "images have the same pixels",
             "a sample counts twice, and may stand in the training and the test split"),
        Rule("image-lossy", "note", "the image is compressed with loss",
             "the decoded pixels are stored, and the export has them without loss"),
        Rule("image-equivalent", "note", "the image's encoder is not known",
             "the export has the same pixels, tags and layout, but other compressed bytes"),
        Rule("image-pages", "note", "the image has further pages", "the first is read; all of them come back"),
    ),
    "Bulk import": (
        Rule("import-container", "note", "the release is no tar.gz", "bulk import takes nothing else",
             "the release is packed as tar.gz"),
        Rule("import-suffix", "note", "a file's suffix is not .tif or .json",
             "bulk import pairs by exactly these", "it is renamed"),
        Rule("import-geometry", "note", "a footprint is no Polygon", "bulk import asks for one",
             "a MultiPolygon of one polygon becomes that polygon"),
        Rule("import-option", "note", "the labels were read with --label-field or --default-label",
             "give bulk import the same options"),
    ),
}  # fmt: skip

RULES: Final[dict[str, Rule]] = {rule.id: rule for rules in SECTIONS.values() for rule in rules}
