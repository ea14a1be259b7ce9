"""The root document of a store: which versions there are, and which objects each one names.

It stands in the attributes of the root ``zarr.json``; writing that one object is the commit.
Source: ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vedastore.errors import StoreError, UsageError
from vedastore.model import DEFAULT_LIMITS, TASKS, LabelOptions, Limits
from vedastore.spec import arrays, keys
from vedastore.spec.arrays import ChipSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.model import LabelCoords, Task

FORMAT: Final = 1
FORMAT_PARTS: Final = 2
"""Of a store with a version in parts; readers of format 1 would miss them, so that they are told by the number."""
ATTRIBUTE: Final = "vedastore"
LIMIT_BYTES: Final = 64 * 2**20
"""A root document is not longer: it is read and held whole."""
_PARSED_LIMIT_BYTES: Final = 320 * 2**20
_VALUE_BYTES: Final = 160
"""What one value costs while a root is parsed and its checksum computed, at most."""

_COUNT_LIMIT: Final = 2**53
_BANDS_LIMIT: Final = 2**16
_SIDE_LIMIT_PX: Final = 2**32
_CHIP_LIMIT_BYTES: Final = 2**44
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_WIDE: Final = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
_KNOWN_VERSIONS: Final = 20
"""Versions that a message names."""
PARTS_LIMIT: Final = 8
"""Parts that a version has at most: a reader opens the files of all of them."""
SKIPPED_INLINE: Final = 1000
"""Samples that were left out, named by the root document itself; of more an index file has the whole list."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One Parquet file of a version: its key, its size, its SHA-256 and its number of rows."""

    key: str
    bytes: int
    sha256: str
    rows: int

    def __post_init__(self) -> None:
        if not (_is_text(self.key) and keys.is_index(self.key)):
            raise ValueError(f"{self.key!r} is no key of an index file")
        _check(self, _INDEX_FIELDS, self.key)


@dataclass(frozen=True, slots=True)
class Part:
    """What a version changes of the tables below it: rows that replace those of their positions, or stand behind all.

    ``removed`` names the positions that have no row any more.
    """

    samples: IndexFile
    features: IndexFile
    removed: IndexFile | None = None

    @property
    def files(self) -> tuple[IndexFile, ...]:
        """Its files."""
        return (self.samples, self.features, *(() if self.removed is None else (self.removed,)))


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a version has of one bucket: the shape of its chips, the length of its array, its bytes in shards."""

    spec: ChipSpec
    rows: int
    bytes: int

    def __post_init__(self) -> None:
        _check(self, _BUCKET_FIELDS, "a bucket")

    @property
    def shards(self) -> int:
        """How many shards hold the rows."""
        return -(-self.rows // self.spec.samples_per_shard)


@dataclass(frozen=True, slots=True)
class Version:
    """One committed state of a store."""

    version: str
    parent: str | None
    created: str
    name: str
    task: Task
    classes: tuple[str, ...]
    label_coords: LabelCoords | None
    samples: int
    features: int
    bounds: tuple[float, float, float, float] | None
    fidelity: dict[str, int]
    index: dict[str, IndexFile]
    buckets: dict[str, Bucket]
    content: dict[str, str]
    source: dict[str, Any]
    skipped: tuple[dict[str, Any], ...]
    findings: tuple[dict[str, Any], ...]
    parts: tuple[Part, ...] = ()
    author: str | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        _check(self, _VERSION_FIELDS, "a version")
        for table, rows in (("samples", self.samples), ("features", self.features)):
            most = self.index[table].rows + sum(getattr(part, table).rows for part in self.parts)
            if rows > most or (rows < most and not self.parts):
                raise ValueError(f"a version's {table} are {rows}, but its index has {most}")
        _ = self.arrays  # together they have no more rows than there can be, or else this raises

    @property
    def label_options(self) -> LabelOptions:
        """How the labels of its release were read."""
        return LabelOptions(**self.source.get("options", {}).get("labels", {}))

    @property
    def limits(self) -> Limits:
        """The limits that the release was converted with; what it holds is within them, and within the defaults."""
        told = self.source.get("options", {}).get("limits", {})
        known = {name: told[name] for name in Limits.__slots__ if name in told}
        return Limits(**{name: max(value, getattr(DEFAULT_LIMITS, name)) for name, value in known.items()})

    @property
    def files(self) -> tuple[IndexFile, ...]:
        """Every index file that the version names."""
        return (*self.index.values(), *(file for part in self.parts for file in part.files))

    @property
    def samples_files(self) -> tuple[IndexFile, ...]:
        """The files of ``samples``, the oldest first."""
        return (self.index["samples"], *(part.samples for part in self.parts))

    @property
    def arrays(self) -> dict[str, Bucket]:
        """Its buckets by shape: those of one shape, made by several writes, are one array to whoever reads chips."""
        merged: dict[str, Bucket] = {}
        for name, bucket in sorted(self.buckets.items()):
            before = merged.get(shape := keys.bucket_shape(name), Bucket(bucket.spec, 0, 0))
            merged[shape] = Bucket(before.spec, before.rows + bucket.rows, before.bytes + bucket.bytes)
        return merged

    @property
    def bytes(self) -> int:
        """Bytes of all shards and index files that the version names."""
        return sum(b.bytes for b in self.buckets.values()) + sum(f.bytes for f in self.files)


@dataclass(frozen=True, slots=True)
class Root:
    """The root document: the versions, oldest first, and the id of the write that made it."""

    write_id: str
    versions: tuple[Version, ...]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("it names no version")
        if not keys.is_write(self.write_id):
            raise ValueError(f"its write_id is {_shown(self.write_id)}")

    def find(self, version: str | None, where: str) -> Version:
        """Return a version by its name; the latest without one."""
        if version is None:
            return self.versions[-1]
        for candidate in reversed(self.versions):
            if candidate.version == version:
                return candidate
        known = [v.version for v in self.versions[-_KNOWN_VERSIONS:]]
        more = f"{len(self.versions) - len(known)} others, " if len(known) < len(self.versions) else ""
        hint = f"the store has {more}{', '.join(known)}"
        raise UsageError(f"there is no version {version!r}", where=where, hint=hint)

    def buckets(self) -> dict[str, Bucket]:
        """Return every bucket that any version names, at its greatest length."""
        longest: dict[str, Bucket] = {}
        for version in self.versions:
            for name, bucket in version.buckets.items():
                if name not in longest or bucket.rows > longest[name].rows:
                    longest[name] = bucket
        return longest


def dump_root(root: Root) -> bytes:
    """Return the bytes of the root ``zarr.json``: deterministic, with the whole hierarchy's metadata inline."""
    versions = [_dump_version(v) for v in root.versions]
    number = FORMAT_PARTS if any(version.parts for version in root.versions) else FORMAT
    body = {"format": number, "write_id": root.write_id, "versions": versions}
    nodes = arrays.hierarchy({name: (b.spec, b.rows) for name, b in root.buckets().items()})
    document = arrays.group_metadata(nodes, {ATTRIBUTE: seal(body)})
    return dump_json(document, indent=1 if number == FORMAT else None)  # that of many versions is made often


def digest_version(version: Version) -> str:
    """Return what tells a version from every other one: the SHA-256 of all that the root document says of it."""
    return _checksum(_dump_version(version))


def dump_json(document: Any, *, indent: int | None = 1) -> bytes:
    """Return a metadata document as bytes, the same for the same document.

    ASCII only, as zarr-python writes it: names from a release or a file system may hold lone surrogates.
    """
    return json.dumps(document, indent=indent, allow_nan=False).encode()


def parse_root(data: bytes, where: str) -> Root:
    """Read a root ``zarr.json``: every field of it has been checked when this returns.

    Raises
    ------
    StoreError
        When it is no vedastore root, of a later format, or damaged.
    """
    check_size(data, where)
    try:
        body = json.loads(data, parse_constant=_refuse_constant, parse_float=_parse_finite)["attributes"][ATTRIBUTE]
        number, told = body.pop("format"), body.pop("checksum")
    except StoreError as error:
        raise error.at(where) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hint = "vedastore convert makes one from a release"
        raise StoreError("this is not a vedastore store", where=where, hint=hint) from None
    if number not in (FORMAT, FORMAT_PARTS) or isinstance(number, bool | float):
        raise StoreError(
            f"the store is of format {_shown(number)}, this is vedastore for format {FORMAT} and {FORMAT_PARTS}",
            where=where,
            hint="update vedastore",
        )
    if told != _checksum({"format": number, **body}):
        raise StoreError("the root document is damaged: its checksum does not fit", where=where)
    try:
        return _parse_body(body)
    except ValueError as error:
        raise StoreError(f"the root document is damaged: {error}", where=where) from None


def is_later(data: bytes) -> bool:
    """Tell whether what cannot be parsed is of a later format, and not damaged for all that is known of it."""
    try:
        check_size(data, "")
        number = json.loads(data)["attributes"][ATTRIBUTE]["format"]
    except (StoreError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(number, int) and number > FORMAT_PARTS


def check_size(data: bytes, where: str) -> None:
    """Refuse what would take too much memory, before it is parsed; no writer publishes what no reader takes."""
    values = sum(data.count(sign) for sign in (b",", b"[", b"{", b":"))
    needed = values * _VALUE_BYTES + 3 * len(data)
    if max(len(data) - LIMIT_BYTES, needed - _PARSED_LIMIT_BYTES) <= 0:
        width = 1 if data.isascii() and b"\\u" not in data else 4 if _WIDE.search(data) else 2
        needed += 3 * (width - 1) * len(data)
        if needed <= _PARSED_LIMIT_BYTES:
            return
    raise StoreError(f"the root document is too large, {len(data)} bytes", where=where)


def _refuse_constant(name: str) -> NoReturn:
    raise StoreError(f"the root document is damaged: {name} is not JSON")


def _parse_finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise StoreError(f"the root document is damaged: {text[:40]} is out of range")
    return value


def seal(body: dict[str, Any]) -> dict[str, Any]:
    """Return a document with its checksum."""
    return {**body, "checksum": _checksum(body)}


def _checksum(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _dump_version(version: Version) -> dict[str, Any]:
    document = {f.name: getattr(version, f.name) for f in fields(version)}
    for name in _OPTIONAL:
        if not document[name]:
            del document[name]
    if version.parts:
        parts = [{name: file and _plain(file) for name, file in _plain(part).items()} for part in version.parts]
        document["parts"] = parts
    document["index"] = {name: _plain(file) for name, file in version.index.items()}
    document["buckets"] = {
        name: {**_plain(b.spec), "rows": b.rows, "bytes": b.bytes} for name, b in sorted(version.buckets.items())
    }
    return document


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as they are: ``asdict`` copies all that is in them."""
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _parse_body(body: dict[str, Any]) -> Root:
    versions = _get(body, "versions", list, "it")
    return Root(_get(body, "write_id", str, "it"), tuple(_parse_version(v) for v in versions))


def _parse_version(document: Any) -> Version:
    values = {f.name: _get(document, f.name, object, "a version") for f in fields(Version) if f.name not in _OPTIONAL}
    for name in ("classes", "skipped", "findings", "bounds"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
        elif name != "bounds":
            raise ValueError(f"a version's {name} is {_shown(values[name])}")
    buckets, index = _get(document, "buckets", dict, "a version"), _get(document, "index", dict, "a version")
    values["buckets"] = {name: _parse_bucket(name, b) for name, b in buckets.items()}
    tables = (*keys.TABLES, *(name for name in keys.LISTS if name in index))
    values["index"] = {name: _parse_index(_get(index, name, dict, "an index"), name) for name in tables}
    parts = _get(document, "parts", list, "a version") if "parts" in document else []
    values["parts"] = tuple(map(_parse_part, parts))
    return Version(**values, **{name: document.get(name) for name in ("author", "message")})


def _parse_part(document: Any) -> Part:
    found = {name: _get(document, name, dict | None, "a part") for name in keys.PARTS}
    samples, features, removed = (
        None if file is None else _parse_index(file, keys.PARTS[name]) for name, file in found.items()
    )
    if samples is None or features is None:
        raise ValueError("a part lacks its tables")
    return Part(samples, features, removed)


def _parse_bucket(name: str, document: Any) -> Bucket:
    if not keys.is_bucket(name):
        raise ValueError(f"{_shown(name)} is no name of a bucket")
    where = f"bucket {name}"
    dtype = _get(document, "dtype", str, where)
    bands, height, width = (_get(document, field, int, where) for field in ("bands", "height", "width"))
    spec = ChipSpec(dtype, bands, height, width, _get(document, "codec", str, where))
    if keys.bucket_shape(name) != keys.bucket(dtype, bands, height, width):
        raise ValueError(f"{where} holds chips of {dtype} {bands} x {height} x {width}")
    return Bucket(spec, _get(document, "rows", int, where), _get(document, "bytes", int, where))


def _parse_index(document: dict[str, Any], table: str) -> IndexFile:
    known = {f.name for f in fields(IndexFile)}
    if foreign := sorted(set(document) - known):
        raise ValueError(f"an index file has the unknown field {_shown(foreign[0])}")
    file = IndexFile(**{name: _get(document, name, object, "an index file") for name in known})
    if not file.key.endswith(f"/{table}.parquet"):
        raise ValueError(f"{_shown(file.key)} is no key of an index file of {table}")
    return file


def _get(document: Any, field: str, kind: Any, where: str) -> Any:
    """Return a field of a document; ValueError where it is absent or of another kind."""
    if not isinstance(document, dict):
        raise ValueError(f"{where} is {_shown(document)}")  # noqa: TRY004 - what is read is wrong, not the call
    if field not in document:
        raise ValueError(f"{where} has no {field}")
    value = document[field]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} has a {field} that is {_shown(value)}")
    return value


# What the fields of a root may be, each one told by a function.


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_LIMIT


def _is_bounds(value: object) -> bool:
    """Tell whether it is west, south, east and north; numbers that are not finite are refused when they are parsed."""
    numbers = value if isinstance(value, tuple) else ()
    are_numbers = all(isinstance(n, float) or (type(n) is int and _is_count(abs(n))) for n in numbers)
    return value is None or (len(numbers) == 4 and are_numbers)  # noqa: PLR2004 - the four edges


def _is_told(value: object) -> bool:
    """Tell whether it is a value of a finding: a text, a count, or the ids of samples."""
    return (
        value is None or _is_text(value) or _is_count(value) or (isinstance(value, list) and all(map(_is_text, value)))
    )


def _is_finding(value: object) -> bool:
    """Tell whether it has what every finding has; what it may have besides is told where it is."""
    return (
        _dict_of(_is_told)(value)
        and isinstance(value, dict)
        and all(_is_text(value.get(name)) for name in ("rule", "message"))
        and (value.get("where") is None or _is_text(value["where"]))
        and _is_count(value.get("count", 1))
        and isinstance(value.get("samples", []), list)
    )


def _is_chip(value: object) -> bool:
    return (
        isinstance(value, ChipSpec)
        and value.bands < _BANDS_LIMIT
        and max(value.height, value.width) < _SIDE_LIMIT_PX
        and math.prod(value.shape) * value.itemsize <= _CHIP_LIMIT_BYTES
    )


def _is_source(value: object) -> bool:
    """Tell whether it is a dictionary in which those entries that are read are what they should be."""
    if not isinstance(value, dict) or not isinstance(value.get("url", ""), str):
        return False
    options = value.get("options", {})
    labels = options.get("labels", {}) if isinstance(options, dict) else None
    known = {f.name for f in fields(LabelOptions)}
    limits = options.get("limits", {}) if isinstance(options, dict) else None
    if not isinstance(limits, dict) or not all(_is_count(v) and v for v in limits.values()):
        return False
    return isinstance(labels, dict) and all(k in known and (v is None or _is_text(v)) for k, v in labels.items())


def _dict_of(holds: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(_is_text(k) and holds(v) for k, v in value.items())


def _tuple_of(holds: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and all(holds(v) for v in value)


_INDEX_FIELDS: Final[dict[str, Callable[[object], bool]]] = {
    "bytes": _is_count,
    "sha256": lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
    "rows": _is_count,
}
_BUCKET_FIELDS: Final[dict[str, Callable[[object], bool]]] = {"spec": _is_chip, "rows": _is_count, "bytes": _is_count}
_VERSION_FIELDS: Final[dict[str, Callable[[object], bool]]] = {
    "version": _is_text,
    "parent": lambda value: value is None or _is_text(value),
    "created": _is_text,
    "name": _is_text,
    "task": lambda value: value in TASKS,
    "classes": _tuple_of(_is_text),
    "label_coords": lambda value: value is None or value in ("pixel", "geographic"),
    "samples": _is_count,
    "features": _is_count,
    "bounds": _is_bounds,
    "fidelity": _dict_of(_is_count),
    "content": _dict_of(_is_text),
    "source": _is_source,
    "skipped": _tuple_of(_dict_of(_is_told)),
    "findings": _tuple_of(_is_finding),
    "parts": lambda value: isinstance(value, tuple) and len(value) <= PARTS_LIMIT,
    "author": lambda value: value is None or _is_text(value),
    "message": lambda value: value is None or _is_text(value),
}
_OPTIONAL: Final = ("parts", "author", "message")
"""Fields that a version has only where they say something."""


def _check(record: object, known: dict[str, Callable[[object], bool]], what: str) -> None:
    for name, holds in known.items():
        value = getattr(record, name)
        if not holds(value):
            raise ValueError(f"{what} has {name} {_shown(value)}")


def _shown(value: object) -> str:
    """Return a value as a message shows it: short, whatever it is."""
    return reprlib.repr(value)
