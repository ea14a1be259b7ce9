"""Labels as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vedastore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from vedastore.store.snapshot import Snapshot


def multi_hot(present: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a (sample, class) array that is 1 where a sample has a class.

    Raises
    ------
    StoreError
        When a sample has a class that is not among the classes.

    Examples
    --------
    >>> multi_hot([["car"], [], ["boat", "car"]], ["boat", "car"]).tolist()
    [[0, 1], [0, 0], [1, 1]]
    """
    column = {name: i for i, name in enumerate(classes)}
    hot = np.zeros((len(present), len(classes)), dtype=np.uint8)
    for row, names in enumerate(present):
        if unknown := set(names) - column.keys():
            raise StoreError(f"a sample has the class {min(unknown)!r}, which the version does not list")
        hot[row, [column[name] for name in names]] = 1
    return hot


def hot_array(snapshot: Snapshot, positions: Any) -> xr.DataArray:
    """Return the classes of the samples at some positions; see ``Collection.multi_hot``."""
    import dask.array as da
    import xarray as xr

    table, classes = snapshot.table("samples").read_rows(positions, ["id", "classes"]), snapshot.version.classes
    hot = da.from_array(multi_hot(table.column("classes").to_pylist(), classes))
    ids, names = (np.array(texts, dtype=object) for texts in (table.column("id").to_pylist(), classes))
    coords = {"id": ("sample", ids), "class": ("class", names)}
    return xr.DataArray(hot, coords, ("sample", "class"), name="label")
