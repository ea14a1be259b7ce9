"""Say in words how two TIFF files differ."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from vedastore.io.isolation import with_codecs
from vedastore.io.tiff.file import read_first_image
from vedastore.io.tiff.layout import STRIP_COUNTS, STRIP_OFFSETS, TILE_COUNTS, TILE_OFFSETS
from vedastore.io.tiff.segments import iter_segments
from vedastore.io.tiff.structure import (
    ASCII,
    LIMIT_SHARING,
    Directory,
    damaged,
    iter_later_directories,
    iter_sub_directories,
)
from vedastore.model import DEFAULT_LIMITS

if TYPE_CHECKING:
    from vedastore.io.tiff.image import Pixels
    from vedastore.model import Limits

PLURAL = {"page": "pages", "directory below": "directories below"}
PLACES = frozenset({STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS})
SHOWN = 8  # numbers of a long tag in a message


def differences(a: bytes, b: bytes, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """Compare the first images' pixels, the stored bytes of all other pages, and all tags.

    Where strips and tiles lie does not count, nor how long those of the first image are.

    Parameters
    ----------
    a, b : bytes
        Two whole files.
    limits : Limits, optional

    Returns
    -------
    list of str
        One line for each difference; empty where the files are equivalent.

    Raises
    ------
    ImageError
        Where one of them cannot be read.
    """
    return [] if a == b else with_codecs(limits, _differences, a, b, limits)


def _differences(a: bytes, b: bytes, limits: Limits) -> list[str]:
    (first, pixels), (second, others) = read_first_image(a, limits), read_first_image(b, limits)
    pages = _pages(first), _pages(second)
    below = [list(iter_sub_directories(directories)) for directories in pages]
    return [
        *_pixel_differences(pixels, others),
        *_page_differences("page", *pages, begin=2),
        *_page_differences("directory below", *below, begin=1),
    ]


def _pages(first: Directory) -> list[Directory]:
    return [first, *iter_later_directories(first)]


def _page_differences(what: str, ones: list[Directory], others: list[Directory], *, begin: int) -> list[str]:
    """Compare tags, and from page number ``begin`` on the stored bytes."""
    found = [] if len(ones) == len(others) else [f"{len(ones)} {PLURAL[what]} against {len(others)}"]
    for number, (one, other) in enumerate(zip(ones, others, strict=False), 1):
        lines = _tag_differences(one, other)
        if number >= begin and not lines and not _same_segments(one, other):
            lines = ["other strips or tiles"]
        found += [f"{what} {number}: {line}" for line in lines]
    return found


def _same_segments(one: Directory, other: Directory) -> bool:
    """Compare all strips and tiles of two pages, as they stand in the files."""
    pairs = list(zip_longest(iter_segments(one), iter_segments(other)))
    if any(None in pair for pair in pairs):
        return False
    distinct = set(pairs)
    if sum(end - begin for (begin, end), _ in distinct) > LIMIT_SHARING * len(one.data):
        raise damaged("strips or tiles overlap")
    a, b = memoryview(one.data), memoryview(other.data)
    return all(a[begin:end] == b[start:stop] for (begin, end), (start, stop) in distinct)


def _pixel_differences(pixels: Pixels, others: Pixels) -> list[str]:
    if pixels.shape != others.shape or pixels.dtype != others.dtype:
        return [f"pixels {pixels.shape} {pixels.dtype} against {others.shape} {others.dtype}"]
    if pixels.tobytes() == others.tobytes():
        return []
    one, other = (array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize) for array in (pixels, others))
    return [f"{int((one != other).any(axis=1).sum())} of {pixels.size} pixel values"]


def _tag_differences(one: Directory, other: Directory) -> list[str]:
    found = []
    for tag in sorted((one.entries.keys() | other.entries.keys()) - PLACES):
        if tag not in one.entries or tag not in other.entries:
            found.append(f"tag {tag} only in the {'first' if tag in one.entries else 'second'} file")
            continue
        x, y = one.entries[tag], other.entries[tag]
        if (x.kind, x.number) != (y.kind, y.number):
            found.append(f"tag {tag}: type {x.kind} x {x.number} against type {y.kind} x {y.number}")
        elif one.raw(tag) != other.raw(tag) and (
            one.form.order == other.form.order or one.values(tag) != other.values(tag)
        ):
            found.append(f"tag {tag}: {_short(one, tag)} against {_short(other, tag)}")
    return found


def _short(directory: Directory, tag: int) -> str:
    entry = directory.entries[tag]
    if entry.kind == ASCII:
        return repr(directory.text(tag) or "")[:80]
    values = directory.values(tag)
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
