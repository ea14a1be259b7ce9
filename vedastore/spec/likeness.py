"""What images look like in 64 bits, and which of many look alike. Pure rules, no I/O.

A chip becomes a picture of 8 x 9 cells, each the mean of its pixels over all bands. A bit tells whether a cell is
brighter than its neighbour on the right (the "difference hash", dHash): scale and offset of the values, noise and lossy
compression change few of them.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

BITS: Final = 64
ROWS, COLUMNS = 8, 9
BITS_APART: Final = 6
"""How many bits of alike images may differ at most, where a user asks for as many as there may be."""
TELLING: Final = range(8, BITS - 8 + 1)
"""Bits that are set in a hash which tells images apart: of a flat image, or one with a spot, few or nearly all are."""
_STEP: Final = 2.0**-20
"""The part of a picture's range by which a cell is brighter: what is equal stays so however sums are rounded."""


def hash_images(pixels: Array, nodata: Any = None) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the hash of each of some chips.

    Parameters
    ----------
    pixels : array (sample, band, y, x)
        Of any type; of complex numbers the magnitude counts. What is not finite is left out.
    nodata : optional
        A value that is left out as well. Cells without a value are as bright as the mean of the others.

    Returns
    -------
    array (sample,) of uint64

    Examples
    --------
    >>> ramp = np.arange(9, 0, -1, "u1")[None, None, None].repeat(8, 2)
    >>> [hex(h) for h in hash_images(np.concatenate([ramp, 0 * ramp, 7 * ramp[..., ::-1]])).tolist()]
    ['0xffffffffffffffff', '0x0', '0x0']
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        cells = _thumbnails(pixels, nodata).reshape(len(pixels), -1)
        known = np.isfinite(cells)
        cells[~known] = 0
        means = cells.sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)
        filled = np.where(known, cells, means).reshape(-1, ROWS, COLUMNS)
        step = np.ptp(filled, axis=(1, 2), keepdims=True) * _STEP
        brighter = filled[:, :, :-1] - filled[:, :, 1:] > step
    found: np.ndarray[Any, np.dtype[np.uint64]] = np.packbits(brighter.reshape(-1, BITS), axis=1).view(">u8")[:, 0]
    return found.astype("u8")


def _thumbnails(pixels: Array, nodata: Any) -> Array:
    """Return the means of cells (sample, 8, 9), NaN without a value; a strip of rows is looked at a time."""
    height, width = pixels.shape[2:]
    lefts, rights = _edges(width, COLUMNS)
    columns = np.arange(width)[:, None]
    inside = ((lefts <= columns) & (columns < rights)).astype("f8")
    found = np.empty((len(pixels), ROWS, COLUMNS))
    for row, (top, bottom) in enumerate(zip(*_edges(height, ROWS), strict=True)):
        strip = pixels[:, :, top:bottom]
        strip = np.abs(strip) if strip.dtype.kind == "c" else strip
        if nodata is None and strip.dtype.kind != "f":
            counts = np.broadcast_to(float(strip.shape[1] * strip.shape[2]), (len(strip), width))
        else:
            valid = np.isfinite(strip) & (True if nodata is None else strip != nodata)
            counts, strip = _sum(valid), np.where(valid, strip, strip.dtype.type(0))
        found[:, row] = (_sum(strip) @ inside) / (counts @ inside)
    return found


def _sum(strip: Array) -> Array:
    """Return the sums of columns (sample, x); one axis at a time is a third of the work where bands come last."""
    sums: Array = strip.sum(axis=2, dtype="f8").sum(axis=1)
    return sums


def _edges(length: int, cells: int) -> tuple[Array, Array]:
    """Return where each of some cells begins and ends, in pixels; in a small image they overlap."""
    starts = np.arange(cells) * length // cells
    return starts, np.maximum(starts + 1, np.arange(1, cells + 1) * length // cells)


def is_telling(hashes: Array) -> Array:
    """Tell which hashes say enough about an image to compare it by."""
    counts = np.bitwise_count(hashes)
    return (counts >= TELLING.start) & (counts < TELLING.stop)


def near_pairs(hashes: Array, bits: int) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of different hashes of which at most so many bits differ, as places of the one and of the other.

    Every such pair comes at least once. Not all are compared with all: of ``bits + 2`` parts of two such hashes, at
    least two parts are equal, so that hashes are sorted by each two of their parts and compared with those beside them.

    Parameters
    ----------
    hashes : array (n,) of uint64
        Each one once.
    bits : int
    """
    parts = bits + 2
    masks = [sum(1 << bit for bit in range(part, BITS, parts)) for part in range(parts)]
    for one, other in combinations(masks, 2):
        keys = hashes & np.uint64(one | other)
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], hashes[order]
        first, step = np.arange(len(keys)), 0
        while len(first):
            step += 1
            first = first[: np.searchsorted(first, len(keys) - step)]
            first = first[keys[first] == keys[first + step]]
            near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= bits]
            if len(near):
                yield order[near], order[near + step]
