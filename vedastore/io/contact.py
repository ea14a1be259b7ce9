"""Boxes on the globe that touch boxes of others; shapely does the work."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vedastore.spec.lonlat import HALF_WORLD, WORLD

_REACH: Final = 1e-12
"""Degrees within which boxes touch."""


def unroll(boxes: Any) -> Any:
    """Return boxes (n, 4) of west, south, east, north with east above west: past 180 over the antimeridian."""
    flat = np.array(boxes, dtype="f8").reshape(-1, 4)
    flat[flat[:, 0] > flat[:, 2], 2] += WORLD
    return flat


def touching(boxes: Any, others: Any, within: float = 0.0) -> Any:
    """Tell which boxes (n, 4), as `unroll` gives them, have a point in common with any of some others; NaN has none.

    ``within`` is how many degrees may lie between them, in a plane of longitude and latitude.
    """
    import shapely

    reach = _REACH + within

    found = np.zeros(len(boxes), dtype=bool)
    # Of chips that show one place again and again, one box is enough: searches of many alike take quadratic time.
    there = np.unique(others[~np.isnan(others[:, 0])], axis=0)
    here = np.flatnonzero(~np.isnan(boxes[:, 0]))
    if not len(there) or not len(here):
        return found
    # What reaches the antimeridian is met from both sides.
    over = there[there[:, 2] >= HALF_WORLD - reach] - (WORLD, 0, WORLD, 0)
    tree = shapely.STRtree(shapely.box(*np.concatenate([there, over]).T))
    for turn in (0.0, -WORLD):
        own = here if turn == 0 else here[boxes[here, 2] >= HALF_WORLD - reach]
        if len(own):
            shapes = shapely.box(*(boxes[own] + (turn, 0, turn, 0)).T)
            hits, _ = tree.query_nearest(shapes, max_distance=reach, all_matches=False)
            found[own[hits]] = True
    return found
