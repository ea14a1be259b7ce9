"""Labels of a batch, in the form that was asked for, fitted as its images are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from vedastore.errors import UsageError
from vedastore.store.spilled import SpilledColumn, SpilledObjects
from vedastore.views.images import by_bucket
from vedastore.views.labels import multi_hot
from vedastore.views.objects import draw_masks, group_boxes, plan_drawing, read_boxes, require_objects
from vedastore.views.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.store.snapshot import Snapshot
    from vedastore.views.images import Array, ImageForm

FORMS: Final = ("auto", "classes", "masks", "boxes")


def plan_targets(
    snapshot: Snapshot, positions: Array, form: ImageForm, labels: str, *, clip: bool
) -> Callable[[Any], Any]:
    """Return what reads the labels of rows of the index that are among some positions.

    Raises
    ------
    UsageError
        When there is no such form, or not of these samples.
    """
    version = snapshot.version
    if labels not in FORMS:
        raise UsageError(f"labels is {labels!r:.80}", hint=f"give one of {', '.join(FORMS)}")
    if labels in {"masks", "boxes"}:
        require_objects(snapshot, positions)
    if labels == "masks":
        drawn = SpilledObjects(partial(snapshot.table, "features"), ["geometry_px"], positions)
        return lambda part: _read_masks(snapshot, form, part, drawn)
    if labels == "boxes":
        boxed = SpilledObjects(partial(snapshot.table, "features"), ["box_px"], positions)
        return lambda part: _read_boxes(snapshot, form, part, boxed, clip=clip)
    if labels == "classes" or version.task == "classification":
        return lambda part: multi_hot(part.column("classes").to_pylist(), version.classes)
    spilled = SpilledColumn(snapshot.table("samples"), "label", positions)
    return lambda part: Labels([Sample(snapshot, row) for row in part.to_pylist()], spilled)


def _read_masks(snapshot: Snapshot, form: ImageForm, part: Any, spilled: SpilledObjects) -> Array:
    positions, classes = part.column("position").to_numpy(), snapshot.version.classes
    drawings = {
        name: plan_drawing(classes, (spec.height, spec.width), 0, instances=False, scale=1.0, order=None)
        for name, spec in form.specs.items()
    }
    if form.fit is None:
        return draw_masks(positions, snapshot, next(iter(drawings.values())), spilled)
    masks = np.zeros((len(positions), *form.size), next(iter(drawings.values())).dtype)
    for bucket, here in by_bucket(part.column("bucket").to_pylist()):
        form.paste(masks, here, draw_masks(positions[here], snapshot, drawings[bucket], spilled), bucket)
    return masks


def _read_boxes(
    snapshot: Snapshot, form: ImageForm, part: Any, spilled: SpilledObjects, *, clip: bool
) -> list[list[Array]]:
    buckets = part.column("bucket").to_pylist()
    sizes = np.array([(form.specs[name].width, form.specs[name].height) for name in buckets]) if clip else None
    objects, found = read_boxes(snapshot, part.column("position").to_numpy(), sizes, spilled)
    boxes = group_boxes(objects, found, len(buckets), len(snapshot.version.classes))
    if form.fit != "crop":
        return boxes
    corners = [form.corner(bucket) for bucket in buckets]
    return [[_crop(kind, corner, form.size) for kind in own] for own, corner in zip(boxes, corners, strict=True)]


def _crop(boxes: Array, corner: tuple[int, int], size: tuple[int, int]) -> Array:
    """Return boxes (box, 4) from the corner of a part on, cut at its edges; those outside of it are left out."""
    (top, left), (height, width) = corner, size
    cut = np.clip(boxes - (left, top, left, top), 0, (width, height, width, height))
    return cut[(cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])]


class Labels(Sequence[Any]):
    """The labels of a batch as ``Sample.label`` gives them, each read and parsed when it is asked for.

    Parsing takes about as long as reading the pixels, and threads do not share it. The first label that is asked for
    copies those of all batches to a temporary file: in a random order, each would cost the decoding of a row group.
    """

    def __init__(self, samples: list[Sample], spilled: SpilledColumn) -> None:
        self._samples = samples
        self._spilled: SpilledColumn | None = spilled

    def __getstate__(self) -> list[Sample]:
        """Take all labels along: another process has not the file."""
        self._load(self._samples)
        return self._samples

    def __setstate__(self, samples: list[Sample]) -> None:
        self._samples, self._spilled = samples, None

    def __repr__(self) -> str:
        return f"<vedastore labels of {len(self)} samples>"

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, key: int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...
    def __getitem__(self, key: int | slice) -> Any:
        chosen = self._samples[key] if isinstance(key, slice) else [self._samples[key]]
        self._load(chosen)
        return [s.label for s in chosen] if isinstance(key, slice) else chosen[0].label

    def _load(self, samples: list[Sample]) -> None:
        if self._spilled is not None:
            for sample, data in zip(samples, self._spilled.read([s.position for s in samples]), strict=True):
                sample.keep_label(data)
