"""What splits let through: samples of one that show what samples of another show, and what was not looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.io.contact import touching
from vedastore.store.columns import number_texts

if TYPE_CHECKING:
    from vedastore.ops.likeness import Likeness

    Array = np.ndarray[Any, Any]

_SPLITS_COMPARED: Final = 100


@dataclass(frozen=True, slots=True)
class Leaks:
    """Samples of a split that touch, are near to, or are like one of another, and what that says in words.

    Attributes
    ----------
    touching, near, alike : int or None
        As in the report of a split; None where it was not looked for.
    checked, not_checked : tuple of str
    """

    touching: int | None
    near: int | None
    alike: int | None
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]


def find_leaks(boxes: Array, splits: Array, buffer: float, likeness: Likeness | None, bits: int | None) -> Leaks:
    """Look for leaks between splits.

    Parameters
    ----------
    boxes : array (n, 4)
        Of footprints, NaN without one.
    splits : array (n,) of object
        Names, None for none.
    buffer : float
        Degrees within which samples are near.
    likeness : Likeness, optional
        Of the samples' images.
    bits : int, optional
        How many bits of the hashes of alike images may differ.
    """
    names, codes = number_texts([name or "" for name in splits.tolist()])
    codes -= "" in names  # it is the first, if it is there, and stands for no split: -1
    many = len({*names} - {""}) > _SPLITS_COMPARED
    touch = None if many else _count_meeting(boxes, codes, 0.0)
    near = None if many or not buffer else _count_meeting(boxes, codes, buffer)
    alike = None if likeness is None or bits is None else likeness.count_apart(codes, bits)
    checked, not_checked = [], []
    if touch is None:
        not_checked.append(f"boxes of footprints: there are more than {_SPLITS_COMPARED} splits")
    else:
        checked.append(f"boxes of footprints: {touch} samples of a split touch one of another")
    if near is not None:
        checked.append(f"a buffer of {buffer:g} degrees: {near} samples of a split are within it of one of another")
    nowhere = int(np.count_nonzero(np.isnan(boxes[:, 0]) & (codes >= 0)))
    if nowhere:
        not_checked.append(f"the places of {nowhere} samples, which have no footprint")
    if likeness is None or alike is None:
        not_checked.append("images that look alike, which were not looked for")
    else:
        told = (
            f"{alike} samples of a split look like one of another, with hashes that differ in {bits} of 64 bits at most"
        )
        checked.append(f"images: {told}")
        if likeness.plain:
            checked.append(f"{likeness.plain} images say too little for a hash, and were compared pixel by pixel")
    not_checked.append("scene, date and sensor, which the index does not tell")
    return Leaks(touch, near, alike, tuple(checked), tuple(not_checked))


def _count_meeting(boxes: Array, codes: Array, within: float) -> int:
    """Count the samples of a split that are within some degrees of one of another."""
    each = (
        touching(boxes[codes == code], boxes[(codes != code) & (codes >= 0)], within)
        for code in np.unique(codes[codes >= 0])
    )
    return sum(int(meeting.sum()) for meeting in each)
