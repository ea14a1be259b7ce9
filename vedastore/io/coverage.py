"""Which boxes lie within the union of others; shapely does the work."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

MOST_TOGETHER: Final = 20_000
"""Boxes of which the union is made to see what it covers; where more would be needed, nothing is told."""


class Coverage:
    """The area that some boxes cover.

    Parameters
    ----------
    boxes : sequence of (minx, miny, maxx, maxy)
    """

    def __init__(self, boxes: Any) -> None:
        import shapely

        self._tree = shapely.STRtree(shapely.box(*np.array(boxes, "f8").reshape(-1, 4).T))

    def misses(self, boxes: Any, margins: Any) -> Any:
        """Return the places of boxes that reach over the area by more than their margin.

        Parameters
        ----------
        boxes : array of float
            (n, 4): minx, miny, maxx, maxy.
        margins : array of float
            (n, 2): along x and y.
        """
        import shapely

        low, high = boxes[:, :2] + margins, boxes[:, 2:] - margins
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inner = shapely.box(*np.minimum(low, centre).T, *np.maximum(high, centre).T)
        done = np.zeros(len(inner), bool)
        done[self._tree.query(inner, predicate="covered_by")[0]] = True
        left = np.flatnonzero(~done)
        near = np.unique(self._tree.query(inner[left], predicate="intersects")[1])
        if len(near) > MOST_TOGETHER:
            return left[:0]
        union = shapely.union_all(self._tree.geometries[near])  # once: for each box anew, it would take hours
        shapely.prepare(union)
        done[left] = shapely.covers(union, inner[left])
        return np.flatnonzero(~done)
