"""What a user may name as a place of a release, a store or an archive."""

from __future__ import annotations

import os

from vedastore.errors import UsageError


def local_path(place: str | os.PathLike[str]) -> str:
    """Return the path of a local place.

    Raises
    ------
    UsageError
        For a URL, which this version does not read or write, and for an empty name.

    Examples
    --------
    >>> local_path("ts_104.zarr")
    'ts_104.zarr'
    """
    text = os.fspath(place)
    if "://" in text:
        raise UsageError("only local paths can be read and written", where=text, hint="copy it to a local disk")
    if not text:
        raise UsageError("a path is empty", hint="name a file or directory; '.' is the current one")
    return text
