"""The root document of a store: which versions there are, and which objects each one names.

It stands in the attributes of the root ``zarr.json``; writing that one object is the commit.
Source: ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import StoreError, UsageError
from vedastore.spec import arrays, keys
from vedastore.spec.arrays import ChipSpec

if TYPE_CHECKING:
    from vedastore.model import Task

FORMAT: Final = 1
ATTRIBUTE: Final = "vedastore"
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
        if not keys.is_index(self.key):
            raise ValueError(f"{self.key!r} is no key of an index file")


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a version has of one bucket: the shape of its chips, the length of its array, its bytes in shards."""

    spec: ChipSpec
    rows: int
    bytes: int

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
    label_coords: str | None
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

    @property
    def bytes(self) -> int:
        """Bytes of all shards and index files that the version names."""
        return sum(b.bytes for b in self.buckets.values()) + sum(f.bytes for f in self.index.values())


@dataclass(frozen=True, slots=True)
class Root:
    """The root document: the versions, oldest first, and the id of the write that made it."""

    write_id: str
    versions: tuple[Version, ...]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("it names no version")

    def find(self, version: str | None, where: str) -> Version:
        """Return a version by its name; the latest without one."""
        if version is None:
            return self.versions[-1]
        for candidate in reversed(self.versions):
            if candidate.version == version:
                return candidate
        known = ", ".join(v.version for v in self.versions)
        raise UsageError(f"there is no version {version!r}", where=where, hint=f"the store has {known}")

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
    body = {"format": FORMAT, "write_id": root.write_id, "versions": versions}
    nodes = arrays.hierarchy({name: (b.spec, b.rows) for name, b in root.buckets().items()})
    return dump_json(arrays.group_metadata(nodes, {ATTRIBUTE: {**body, "checksum": _checksum(body)}}))


def dump_json(document: Any) -> bytes:
    """Return a metadata document as bytes, the same for the same document.

    ASCII only, as zarr-python writes it: names from a release or a file system may hold lone surrogates.
    """
    return json.dumps(document, indent=1, allow_nan=False).encode()


def parse_root(data: bytes, where: str) -> Root:
    """Read a root ``zarr.json``.

    Raises
    ------
    StoreError
        When it is no vedastore root, of a later format, or damaged.
    """
    try:
        body = json.loads(data)["attributes"][ATTRIBUTE]
        number, checksum = body.pop("format"), body.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hint = "vedastore convert makes one from a release"
        raise StoreError("this is not a vedastore store", where=where, hint=hint) from None
    if number != FORMAT:
        raise StoreError(
            f"the store is of format {number!r}, this is vedastore for format {FORMAT}",
            where=where,
            hint="update vedastore",
        )
    if checksum != _checksum({"format": number, **body}):
        raise StoreError("the root document is damaged: its checksum does not fit", where=where)
    try:
        return Root(str(body["write_id"]), tuple(_parse_version(v) for v in body["versions"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError(f"the root document is damaged: {error}", where=where) from None


def _checksum(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _dump_version(version: Version) -> dict[str, Any]:
    document = {f.name: getattr(version, f.name) for f in fields(version)}
    document["index"] = {name: asdict(file) for name, file in version.index.items()}
    document["buckets"] = {
        name: {**asdict(b.spec), "rows": b.rows, "bytes": b.bytes} for name, b in sorted(version.buckets.items())
    }
    return document


def _parse_version(document: dict[str, Any]) -> Version:
    buckets = {}
    for name, b in document["buckets"].items():
        if not keys.is_bucket(name):
            raise ValueError(f"{name!r} is no name of a bucket")
        spec = ChipSpec(b["dtype"], int(b["bands"]), int(b["height"]), int(b["width"]))
        buckets[name] = Bucket(spec, int(b["rows"]), int(b["bytes"]))
    listed = [name for name in keys.LISTS if name in document["index"]]
    index = {name: IndexFile(**document["index"][name]) for name in (*keys.TABLES, *listed)}
    known = {f.name for f in fields(Version)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items() if k in known}
    return Version(**(values | {"index": index, "buckets": buckets}))
