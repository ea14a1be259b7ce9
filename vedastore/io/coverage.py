"""Which boxes lie within the union of others; shapely does the work."""

from __future__ import annotations

from typing import Any

import numpy as np


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
        for place in np.flatnonzero(~done).tolist():
            near = self._tree.geometries[self._tree.query(inner[place], predicate="intersects")]
            done[place] = shapely.covers(shapely.union_all(near), inner[place])
        return np.flatnonzero(~done)
