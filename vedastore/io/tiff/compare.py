"""Say in words how two TIFF files differ."""

from __future__ import annotations

import numpy as np

from vedastore.io.tiff.image import Image, parse_image, read_pixels
from vedastore.io.tiff.layout import STRIP_COUNTS, STRIP_OFFSETS, TILE_COUNTS, TILE_OFFSETS
from vedastore.io.tiff.structure import ASCII, Directory, iter_later_directories

PLACES = frozenset({STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS})
SHOWN = 8  # numbers of a long tag in a message


def differences(a: bytes, b: bytes) -> list[str]:
    """Compare the first images' pixels and all pages' tags, except where the segments lie and how long they are.

    Parameters
    ----------
    a, b : bytes
        Two whole files.

    Returns
    -------
    list of str
        One line for each difference; empty where the files are equivalent.

    Raises
    ------
    ImageError
        Where one of them cannot be read.
    """
    first, second = parse_image(a), parse_image(b)
    found = _pixel_differences(a, first, b, second)
    pages = [[image.directory, *iter_later_directories(image.directory)] for image in (first, second)]
    if len(pages[0]) != len(pages[1]):
        found.append(f"{len(pages[0])} pages against {len(pages[1])}")
    for number, (one, other) in enumerate(zip(*pages, strict=False), 1):
        found += [f"page {number}: {line}" for line in _tag_differences(one, other)]
    return found


def _pixel_differences(a: bytes, first: Image, b: bytes, second: Image) -> list[str]:
    pixels, others = read_pixels(a, first)[0], read_pixels(b, second)[0]
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
