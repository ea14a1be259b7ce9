"""What a user may name as a place of a release, a store or an archive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vedastore.errors import UsageError

_S3 = "s3://"


@dataclass(frozen=True, slots=True)
class Place:
    """A local path, or a key of an S3 bucket.

    Attributes
    ----------
    path : str
        The local path; on S3 the key or prefix, without slashes at its ends.
    bucket : str, optional
        None for a local path.
    options : dict
        What s3fs is given besides: credentials, the endpoint. They may be secret and are not shown.
    """

    path: str
    bucket: str | None = None
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.path if self.bucket is None else f"{_S3}{self.bucket}/{self.path}"

    @property
    def name(self) -> str:
        """The last part, for messages."""
        return self.path.rstrip("/").rpartition("/")[2] or str(self)


def parse_place(place: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Place:
    """Read a place that a user names.

    Raises
    ------
    UsageError
        For a URL that is not of S3, an empty name, and for options of a local path.

    Examples
    --------
    >>> parse_place("s3://chips/ts_104.zarr/")
    Place(path='ts_104.zarr', bucket='chips')
    >>> print(parse_place("s3://chips/ts_104.zarr"))
    s3://chips/ts_104.zarr
    """
    text = os.fspath(place)
    if text.startswith(_S3):
        bucket, _, key = text.removeprefix(_S3).partition("/")
        key = key.rstrip("/")
        if not bucket or any(part in {"", ".", ".."} for part in key.split("/")):
            raise UsageError("the place names no key of a bucket", where=text, hint="write s3://bucket/name")
        if not isinstance(storage_options or {}, Mapping):
            raise UsageError("storage_options are no mapping", where=text, hint='write {"anon": True}, for example')
        return Place(key, bucket, dict(storage_options or {}))
    if text.startswith(_S3[:-1]):
        raise UsageError("pathlib takes a slash out of s3://", where=text, hint="give the address as a text")
    if "://" in text:
        raise UsageError(
            "only local paths and s3:// can be read and written", where=text, hint="copy it to a local disk"
        )
    if not text:
        raise UsageError("a path is empty", hint="name a file or directory; '.' is the current one")
    return Place(text)


def check_options(storage_options: Mapping[str, Any] | None, *places: str | os.PathLike[str]) -> None:
    """Refuse storage options that nothing is left to use.

    Raises
    ------
    UsageError
        When all places are local.
    """
    if storage_options and all(parse_place(place).bucket is None for place in places):
        raise UsageError("storage_options belong to object stores, and these are local paths")


def local_path(place: str | os.PathLike[str]) -> str:
    """Return the path of a place that has to be local.

    Raises
    ------
    UsageError
        For a URL, and for an empty name.

    Examples
    --------
    >>> local_path("ts_104.zarr")
    'ts_104.zarr'
    """
    found = parse_place(place)
    if found.bucket is not None:
        raise UsageError("this has to be on a local disk", where=str(found), hint="copy it to a local disk")
    return found.path
