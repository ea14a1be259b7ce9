"""Labelled objects as arrays: boxes and masks in pixels of their samples, read from the index block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.io import geometry
from vedastore.io.raster import burn, scaled_size

if TYPE_CHECKING:
    from vedastore.store.snapshot import Snapshot
    from vedastore.store.spilled import SpilledObjects

EDGES: Final = ("minx", "miny", "maxx", "maxy")
UNPLACED: Final = "objects-unplaced"
_BLOCK: Final = 256
"""Samples whose objects are read at once, where they are asked for one by one."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of some samples: whose each is (by its place among them), its class from 1 on, and columns."""

    owner: Any
    code: Any
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.owner)


def read_objects(
    snapshot: Snapshot, positions: Any, columns: Sequence[str], spilled: SpilledObjects | None = None
) -> Objects:
    """Read the objects of the samples at some positions, sample by sample in their order, as the label has them.

    They come from the index, where no position may occur twice, or from where they were ``spilled``.

    Raises
    ------
    StoreError
        When an object is of a class that the version does not list, or the index is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    owner, table = _read_index(snapshot, positions, columns) if spilled is None else spilled.read(positions)
    code = pc.index_in(table.column("class"), pa.array(snapshot.version.classes, "string"))
    if code.null_count:
        raise StoreError("an object has a class that the version does not list", where=snapshot.objects.url)
    return Objects(owner, code.to_numpy() + 1, {name: table.column(name) for name in columns})


def _read_index(snapshot: Snapshot, positions: Any, columns: Sequence[str]) -> tuple[Any, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    reader, positions = snapshot.table("features"), np.asarray(positions, dtype="i8")
    table = reader.read_kept(("position", "class", *columns), reader.groups_with(positions))
    table = table.filter(pc.is_in(table.column("position"), pa.array(positions, "int64")))
    order = np.argsort(positions, kind="stable")
    owner = order[np.searchsorted(positions, table.column("position").to_numpy(), sorter=order)]
    by_owner = np.argsort(owner, kind="stable")
    return owner[by_owner], table.take(by_owner)


def require_objects(snapshot: Snapshot, positions: Any) -> None:
    """Refuse samples that have no objects by their task, or some that have no place in pixels.

    Raises
    ------
    UsageError
        Nothing is left out of an array silently.
    """
    import pyarrow.compute as pc

    version = snapshot.version
    if version.task == "classification":
        message = "labels for classification have no objects, and so no boxes or masks"
        raise UsageError(message, where=snapshot.objects.url, hint="multi_hot() gives the classes")
    flags = snapshot.table("samples").read_rows(positions, ["flags"]).column(0)
    flat, parents = pc.list_flatten(flags), pc.list_parent_indices(flags)
    count = len(pc.unique(parents.filter(pc.equal(flat, UNPLACED))))
    if count:
        hint = f"""select(where="not list_contains(flags, '{UNPLACED}')") is without them"""
        message = f"{count} samples have objects without a place in pixels, for lack of georeferencing"
        raise UsageError(message, where=snapshot.objects.url, hint=hint)


# --------------------------------------------------------------------------------------------------------------- boxes


class Boxes(Sequence[list[Any]]):
    """The boxes of some samples, read when they are asked for.

    The item of a sample is a list with one array for each class of the collection, in alphabetical order: (box, 4)
    float64, ``[minx, miny, maxx, maxy]`` in pixels of the sample.
    """

    def __init__(self, snapshot: Snapshot, positions: Any, *, clip: bool) -> None:
        self._snapshot, self._positions, self._clip = snapshot, positions, clip

    def __repr__(self) -> str:
        return f"<vedastore boxes of {len(self)} samples>"

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Any:
        for start in range(0, len(self), _BLOCK):
            yield from self._read(self._positions[start : start + _BLOCK])

    @overload
    def __getitem__(self, key: int) -> list[Any]: ...
    @overload
    def __getitem__(self, key: slice) -> list[list[Any]]: ...
    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return self._read(self._positions[key])
        if not -len(self) <= key < len(self):
            raise IndexError(f"there are boxes of {len(self)} samples, and no number {key}")
        return self._read(self._positions[[key]])[0]

    def _read(self, positions: Any) -> list[list[Any]]:
        sizes = _chip_sizes(self._snapshot, positions) if self._clip else None
        objects, boxes = read_boxes(self._snapshot, positions, sizes)
        return group_boxes(objects, boxes, len(positions), len(self._snapshot.version.classes))


def group_boxes(objects: Objects, boxes: Any, samples: int, classes: int) -> list[list[Any]]:
    """Return boxes (object, 4) by sample and by class, as :class:`Boxes` has them."""
    if not classes:
        return [[] for _ in range(samples)]
    order = np.lexsort((np.arange(len(objects)), objects.code, objects.owner))
    slots = objects.owner[order] * classes + objects.code[order] - 1
    parts = np.split(boxes[order], np.searchsorted(slots, np.arange(1, samples * classes)))
    return [parts[i * classes : (i + 1) * classes] for i in range(samples)]


def read_boxes(
    snapshot: Snapshot, positions: Any, sizes: Any = None, spilled: SpilledObjects | None = None
) -> tuple[Objects, Any]:
    """Return the objects of some samples with their boxes, (object, 4) in pixels.

    With ``sizes`` (sample, 2), width and height, boxes are cut at the edges of their chips, and those that lie outside
    are left out.
    """
    objects = read_objects(snapshot, positions, ["box_px"], spilled)
    column = objects.columns["box_px"]
    if column.null_count:
        raise StoreError("an object has no box, though its sample is not flagged so", where=snapshot.objects.url)
    boxes = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    if sizes is None:
        return objects, boxes
    cut = np.clip(boxes, 0, np.concatenate([sizes, sizes], axis=1)[objects.owner])
    inside = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    return Objects(objects.owner[inside], objects.code[inside], {}), cut[inside]


def _chip_sizes(snapshot: Snapshot, positions: Any) -> Any:
    """Return (sample, 2): width and height of each chip, pixels."""
    table = snapshot.table("samples").read_rows(np.asarray(positions), ["width", "height"])
    return np.stack([table.column(name).to_numpy() for name in ("width", "height")], axis=1)


def pad_boxes(positions: Any, snapshot: Snapshot, most: int) -> Any:
    """Return (sample, box, 5): four edges and the class from 1 on; NaN where a sample has fewer boxes."""
    objects, boxes = read_boxes(snapshot, positions)
    starts = np.searchsorted(objects.owner, np.arange(len(positions)))
    padded = np.full((len(positions), most, len(EDGES) + 1), np.nan)
    place = np.arange(len(objects)) - starts[objects.owner]
    if len(place) and int(place.max()) >= most:
        raise StoreError("the index has more objects of a sample than it counts", where=snapshot.objects.url)
    padded[objects.owner, place, :4], padded[objects.owner, place, 4] = boxes, objects.code
    return padded


# --------------------------------------------------------------------------------------------------------------- masks


@dataclass(frozen=True, slots=True)
class Drawing:
    """How masks are drawn: their size and type, which class lies on top, and what a pixel says.

    ``rank`` has the height of each class, by its place in the collection; with ``instances`` a pixel says which object
    of its sample it shows, from 1 on, and else which class.
    """

    shape: tuple[int, int]
    dtype: str
    rank: tuple[int, ...]
    instances: bool
    scale: float


def plan_drawing(
    classes: Sequence[str], size: tuple[int, int], most: int, *, instances: bool, scale: Any, order: Any
) -> Drawing:
    """Say how masks of chips (height, width) are to be drawn; ``most`` is the greatest number of objects of a sample.

    Raises
    ------
    UsageError
        When the scale gives no whole number of pixels, or the order is not one of all classes.
    """
    scale = scale.item() if isinstance(scale, np.number) else scale
    shape = [scaled_size(side, scale) if isinstance(scale, int | float) else None for side in size]
    if None in shape:
        told = f"a scale of {scale} makes no whole number of pixels of {size[0]} x {size[1]}"
        raise UsageError(told, hint="a power of 2 does for most sizes")
    names = list(classes) if order is None else list(order) if np.iterable(order) else []
    if len(names) != len(classes) or not all(isinstance(n, str) for n in names) or set(names) != set(classes):
        hint = f"name each once: {', '.join(classes)}"
        raise UsageError("order= has not just the classes of the collection, the topmost last", hint=hint)
    height = {name: index for index, name in enumerate(names)}
    rank = tuple(height[name] for name in classes)
    largest = most if instances else len(classes)
    dtype = next(kind for kind in ("uint8", "uint16", "uint32") if largest <= np.iinfo(kind).max)
    if instances:
        dtype = max(dtype, "uint16", key=lambda kind: np.dtype(kind).itemsize)
    return Drawing((shape[0] or 0, shape[1] or 0), dtype, rank, instances, float(scale))


def draw_masks(
    positions: Any, snapshot: Snapshot, drawing: Drawing, spilled: SpilledObjects | None = None
) -> np.ndarray[Any, Any]:
    """Return the masks (sample, y, x) of some samples."""
    objects = read_objects(snapshot, positions, ["geometry_px"], spilled)
    shapes = geometry.parse_wkb(objects.columns["geometry_px"].to_pylist())
    if any(shape is None for shape in shapes):
        raise StoreError("an object has no place, though its sample is not flagged so", where=snapshot.objects.url)
    masks = np.zeros((len(positions), *drawing.shape), drawing.dtype)
    edges = np.searchsorted(objects.owner, np.arange(len(positions) + 1))
    rank = np.array(drawing.rank)
    for index in np.unique(objects.owner).tolist():
        own = slice(edges[index], edges[index + 1])
        codes = objects.code[own]
        values = np.arange(1, len(codes) + 1) if drawing.instances else codes
        if len(values) and values.max() > np.iinfo(drawing.dtype).max:
            raise StoreError("the index has more objects of a sample than it counts", where=snapshot.objects.url)
        order = np.argsort(rank[codes - 1], kind="stable")
        masks[index] = burn(shapes[own][order], values[order].tolist(), drawing.shape, drawing.dtype, drawing.scale)
    return masks
