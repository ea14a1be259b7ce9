"""Edits as a user gives them: labels, images and metadata of many kinds become the files of a release."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import numpy as np

from vedastore.errors import UsageError
from vedastore.io.tiff import dump_geotiff
from vedastore.ops.changes import Edits, find
from vedastore.ops.edit import edit
from vedastore.ops.options import check_texts
from vedastore.ops.split import is_name
from vedastore.spec.repairs import dump_exact, indent_of, parse_exact
from vedastore.views.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vedastore.spec.root import Version
    from vedastore.store.snapshot import Snapshot

T = TypeVar("T")
_LABEL_FILES: Final = (".json", ".geojson")
_KEPT: Final = ("classes", "nclasses", "bbox", "mlType")
"""Keys of ``meta.json`` that follow from the samples."""


class Edit(Generic[T]):
    """Edits of a collection that are committed together when the block ends; see ``Collection.edit``.

    Attributes
    ----------
    collection : Collection
        The collection as it is; after the block as it has become.
    """

    def __init__(
        self,
        collection: T,
        snapshot: Snapshot,
        reopen: Callable[[Snapshot], T],
        *,
        author: str | None,
        message: str | None,
        version: str | None,
        workers: int | None,
    ) -> None:
        check_texts(author=author, message=message, version=version)
        self.collection = collection
        self._snapshot, self._reopen = snapshot, reopen
        for told, value in (("author", author), ("message", message), ("version", version)):
            if value is not None and not is_name(value):
                raise UsageError(f"{told} is {value!r:.80}", hint="give a text")
        self._author, self._message, self._version, self._workers = author, message, version, workers
        self._labels: dict[str, bytes] = {}
        self._removed: dict[str, None] = {}
        self._added: dict[str, tuple[bytes, bytes]] = {}
        self._splits: dict[str, str | None] = {}
        self._meta: dict[str, Any] = {}
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what was edited; nothing of it after an error."""
        self._check_open()
        self._ended = True
        if error is None and (self._labels or self._removed or self._added or self._splits or self._meta):
            meta = self._dump_meta() if self._meta else None
            edits = Edits(
                labels=self._labels,
                removed=tuple(self._removed),
                added=self._added,
                splits=self._splits,
                meta=meta,
                name=self._meta.get("name"),
                version=self._version,
                author=self._author,
                message=self._message,
            )
            self.collection = self._reopen(edit(self._snapshot, edits, workers=self._workers))

    def update_labels(self, labels: Mapping[str, Any]) -> None:
        """Give samples other labels; see ``Collection.update_labels``."""
        self._check_open()
        _check_mapping(labels, "labels come by id", "{id: label}")
        ids = list(labels)
        positions = find(self._snapshot, [_parse_id(i) for i in ids]).tolist()
        for sample_id, position in zip(ids, positions, strict=True):
            old = self._labels.get(sample_id) or (self._snapshot.read_label(position) if position >= 0 else b"")
            self._labels[sample_id] = _dump_label(labels[sample_id], old, self._field)

    def remove(self, ids: Iterable[str] | str) -> None:
        """Leave samples out; see ``Collection.remove``."""
        self._check_open()
        if not isinstance(ids, Iterable):
            raise UsageError(f"{ids!r:.80} is no id", hint="the id of a sample is a text; give one, or several")
        self._removed |= dict.fromkeys(map(_parse_id, [ids] if isinstance(ids, str) else ids))

    def add(self, samples: Any) -> None:
        """Add samples; see ``Collection.add``."""
        self._check_open()
        for sample_id, image, label in _iter_added(samples, self._snapshot.version):
            if sample_id in self._added:
                raise UsageError(f"two samples with the id {sample_id!r} are added")
            self._added[sample_id] = _dump_image(image), _dump_label(label, b"", self._field)

    def set_split(self, splits: Mapping[str, Any]) -> None:
        """Put samples into splits, by id; None takes one out of its split."""
        self._check_open()
        _check_mapping(splits, "splits come by id", "{id: split}")
        for sample_id, name in splits.items():
            if name is not None and not is_name(name):
                raise UsageError(f"the split of {sample_id!r} is {name!r}", hint="a split is a text, or None")
            self._splits[_parse_id(sample_id)] = name

    def update_meta(self, values: Mapping[str, Any]) -> None:
        """Give keys of ``meta.json`` other values, as JSON; all others stay.

        Raises
        ------
        UsageError
            For what follows from the samples (``classes``, ``nclasses``, ``bbox``, ``mlType``), and for the version,
            which ``edit(version=)`` names.
        """
        self._check_open()
        _check_mapping(values, "values come by key", "{key: value}")
        for name, value in _as_json(dict(values)).items():
            if name in _KEPT or name == "version":
                hint = "name it with edit(version=)" if name == "version" else "it follows from the samples"
                raise UsageError(f"{name} cannot be set", hint=hint)
            if name == "name" and (not isinstance(value, str) or not value):
                raise UsageError(f"the name is {value!r}", hint="a name is a text")
            self._meta[name] = value

    def _check_open(self) -> None:
        """Refuse what would be lost: nothing commits what is edited behind the block."""
        if self._ended:
            raise UsageError("these edits have ended", hint="begin others with collection.edit()")

    @property
    def _field(self) -> str:
        return self._snapshot.version.label_options.label_field or "label"

    def _dump_meta(self) -> bytes:
        member = self._snapshot.read_member("meta")
        document = parse_exact(b"{}" if member is None else member.data)
        if not isinstance(document, dict):
            raise UsageError("meta.json is no object, and so it has no keys", where=self._snapshot.objects.url)
        return dump_exact(document | self._meta, indent_of(b"" if member is None else member.data))


def _check_mapping(values: Any, told: str, form: str) -> None:
    if not isinstance(values, Mapping):
        raise UsageError(told, hint=f"give a dictionary: {form}")


def _parse_id(sample_id: Any) -> str:
    if not isinstance(sample_id, str) or sample_id.encode("utf-8", "replace").decode() != sample_id:
        raise UsageError(f"{sample_id!r} is no id", hint="the id of a sample is a text of Unicode")
    return sample_id


def _iter_added(samples: Any, version: Version) -> Any:
    """Yield (id, image, label) of samples in one of the forms that `Collection.add` takes."""
    if isinstance(samples, Mapping):
        for sample_id, pair in samples.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004
                raise UsageError(f"{sample_id!r} is given as {type(pair).__name__}", hint="give {id: (image, label)}")
            yield _parse_id(sample_id), *pair
    elif isinstance(samples, Iterable) and not isinstance(samples, str | bytes):
        for sample in samples:
            if not isinstance(sample, Sample):
                raise UsageError(
                    f"{sample!r:.80} is no sample", hint="give {id: (image, label)}, or samples of a store"
                )
            _require_same_labels(sample, version)
            yield sample.id, *sample.read_files()
    else:
        raise UsageError(f"{samples!r:.80} are no samples", hint="give {id: (image, label)}, or samples of a store")


def _require_same_labels(sample: Sample, version: Version) -> None:
    """Refuse a sample whose label file would say something else in a version: it is copied as it is."""
    theirs = sample._snapshot.version  # noqa: SLF001 - the same floor
    coords = {theirs.label_coords, version.label_coords} - {None}
    reason = ""
    if theirs.label_options != version.label_options:
        reason = "its label is another property, or has another default"
    elif len(coords) > 1 and sample.classes and sample.geometry is not None:
        reason = f"its label has {theirs.label_coords} coordinates, those here are {version.label_coords}"
    if reason:
        hint = "give {id: (image, label)} with a label as those of this collection are"
        raise UsageError(f"sample {sample.id!r} cannot be copied: {reason}", hint=hint)


def _dump_image(image: Any) -> bytes:
    """Return the bytes of an image file."""
    import xarray as xr

    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return _read_file(image)
    if isinstance(image, np.ndarray) and not isinstance(image, np.ma.MaskedArray):
        image = xr.DataArray(image, dims=("band", "y", "x")) if image.ndim == 3 else image  # noqa: PLR2004
    if not isinstance(image, xr.DataArray) or image.dims != ("band", "y", "x"):
        hint = "give the bytes or the path of a TIFF, or an array (band, y, x)"
        raise UsageError(f"an image is given as {type(image).__name__}", hint=hint)
    import rioxarray  # noqa: F401 - registers .rio

    crs, transform = image.rio.crs, image.rio.transform(recalc={"x", "y"} <= set(image.coords))
    return dump_geotiff(image.to_numpy(), crs and crs.to_wkt(), transform, image.rio.nodata)


def _dump_label(label: Any, old: bytes, name: str) -> bytes:
    """Return the bytes of a label file: of a whole Feature, or of an old one with another label."""
    if isinstance(label, bytes):
        return label
    if isinstance(label, os.PathLike) or (isinstance(label, str) and label.lower().endswith(_LABEL_FILES)):
        return _read_file(label)
    value = _as_json(label)
    if isinstance(value, dict) and value.get("type") == "Feature":
        return dump_exact(value)
    try:
        document = parse_exact(old or b'{"type": "Feature", "geometry": null, "properties": {}}')
        key = "Properties" if "Properties" in document and "properties" not in document else "properties"
        document[key] = {**(document.get(key) or {}), name: value}
    except (ValueError, TypeError, AttributeError, RecursionError):
        hint = "give a whole GeoJSON Feature"
        raise UsageError("the label file that is to get another label is no GeoJSON Feature", hint=hint) from None
    return dump_exact(document, indent_of(old))


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it: NumPy's numbers and arrays as plain ones, shapes as their GeoJSON."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{value!r:.80} cannot be written as JSON: {error}", hint="give plain values") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "__geo_interface__"):
        return value.__geo_interface__
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=os.fspath(path)) from error
