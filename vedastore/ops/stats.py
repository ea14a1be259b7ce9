"""Statistics of a collection: its bands, its classes and objects, as a whole and by split."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.io import geometry
from vedastore.model import Finding
from vedastore.ops.kept_stats import keep_stats, read_kept, stats_key
from vedastore.ops.label_counts import count_labels
from vedastore.ops.moments import Band, Moments
from vedastore.ops.passes import Passes, plan_blocks
from vedastore.ops.workers import open_team
from vedastore.store.columns import number_texts

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from vedastore.ops.workers import Team
    from vedastore.spec.arrays import ChipSpec
    from vedastore.spec.root import Bucket
    from vedastore.store.snapshot import Snapshot

PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)
_PERCENTILES_MOST: Final = 32
_ROUNDING: Final = 1e-9
_SPLITS_MEASURED: Final = 16
"""Splits that have figures of bands; where there are more, none has."""
_COLUMNS: Final = ("position", "bucket", "row", "nodata", "split", "classes", "objects")


@dataclass(frozen=True, slots=True)
class Stats:
    """What `stats` found.

    Attributes
    ----------
    samples : int
        How many were measured.
    chips : tuple of dict
        Of each shape and type: bucket, dtype, bands, height, width, samples.
    bands : tuple of Band
        In the order of bands: count, invalid (not finite), min, max, mean, std (of the population), percentiles, and a
        histogram with its edges; nodata is left out.
    classes : dict
        By class: samples, objects, and for objects ``area_px``, ``width_px``, ``height_px``, and ``area_m2`` where they
        are georeferenced: count, min, max, mean, median and percentiles of each.
    objects : dict
        Of all objects: how many, the same sizes, and the same of the objects ``per_sample``.
    objects_per_sample : dict
        How many samples have so many objects.
    splits : dict
        By split, "" for none: samples, objects, samples by class, objects by class, and of each of its bands count,
        min, max, mean and std.
    """

    samples: int
    chips: tuple[dict[str, Any], ...]
    bands: tuple[Band, ...]
    classes: dict[str, dict[str, Any]]
    objects: dict[str, Any]
    objects_per_sample: dict[int, int]
    splits: dict[str, dict[str, Any]]
    places: Callable[[], tuple[Any, Any]] | None = field(default=None, repr=False, compare=False)
    """Reads where the samples are, for a picture."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        counts = {str(number): samples for number, samples in self.objects_per_sample.items()}
        return {
            "samples": self.samples,
            "chips": list(self.chips),
            "bands": [{"band": number, **asdict(band)} for number, band in enumerate(self.bands, 1)],
            "classes": self.classes,
            "objects": self.objects,
            "objects_per_sample": counts,
            "splits": self.splits,
        }

    def plot(self, dest: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Draw histograms of bands, class balance, objects per sample, and a map of footprints.

        Parameters
        ----------
        dest : path
            A ``.png``, ``.svg`` or ``.pdf``; it appears whole or not at all.
        overwrite : bool
            Replace a file that is there.

        Raises
        ------
        UsageError
            For another kind of file, and where matplotlib is not installed.
        ConflictError
            When the target exists.
        StoreError
            When the target cannot be written.
        """
        from vedastore.ops.picture import draw

        draw(self, dest, overwrite=overwrite)


def stats(
    snapshot: Snapshot,
    positions: Any,
    *,
    whole: bool = False,
    bucket: str | None = None,
    percentiles: Sequence[float] = PERCENTILES,
    cached: bool = True,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Stats:
    """Measure the samples at some positions; see ``Collection.stats``.

    ``whole`` says that they are all of the version, whose statistics the store keeps; with ``cached`` what it has kept
    is the answer.

    Raises
    ------
    UsageError
        When images are of several types and no bucket is named, are complex, or a percentile is none.
    """
    percents = _parse_percentiles(percentiles)
    is_kept = whole and percents == PERCENTILES
    places = partial(read_places, snapshot, positions, bucket)
    if is_kept and cached:
        with suppress(StoreError):  # which says that what is kept is damaged: it is made again
            if (document := read_kept(snapshot, bucket)) is not None:
                return parse_stats(document, places)
    with open_team(snapshot, workers, client) as team:
        found = _measure(snapshot, positions, bucket, percents, team=team, progress=progress)
    if is_kept:
        keep_stats(snapshot, bucket, found.to_dict())
    return replace(found, places=places)


def check_kept(snapshot: Snapshot, *, workers: int | None = None, client: Any = None) -> Iterator[Finding]:
    """Measure again what the store keeps of a version, and tell where that is not what it says."""
    everything = np.arange(snapshot.version.samples)
    for bucket in (None, *snapshot.arrays):
        key = stats_key(snapshot, bucket)
        try:
            kept = read_kept(snapshot, bucket)
            found = kept and stats(snapshot, everything, bucket=bucket, workers=workers, client=client).to_dict()
        except (StoreError, UsageError) as error:
            yield Finding("statistics", error.message, key)
            continue
        if kept and not _is_alike(kept, json.loads(json.dumps(found))):
            yield Finding("statistics", "the statistics that are kept here are not those of the version", key)


def _is_alike(kept: Any, found: Any) -> bool:
    """Compare documents; another machine may round in another place."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return kept.keys() == found.keys() and all(_is_alike(kept[name], found[name]) for name in kept)
    if isinstance(kept, list) and isinstance(found, list):
        return len(kept) == len(found) and all(map(_is_alike, kept, found))
    if isinstance(kept, float) and isinstance(found, float):
        return math.isclose(kept, found, rel_tol=_ROUNDING)
    return type(kept) is type(found) and bool(kept == found)


def parse_stats(document: dict[str, Any], places: Callable[[], tuple[Any, Any]] | None = None) -> Stats:
    """Return statistics by what their `Stats.to_dict` says."""
    counts = {int(number): samples for number, samples in document["objects_per_sample"].items()}
    return Stats(
        samples=document["samples"],
        chips=tuple(document["chips"]),
        bands=tuple(_parse_band(**band) for band in document["bands"]),
        classes=document["classes"],
        objects=document["objects"],
        objects_per_sample=counts,
        splits=document["splits"],
        places=places,
    )


def _parse_band(band: int, histogram: list[int], edges: list[float], **figures: Any) -> Band:  # noqa: ARG001 - its place
    return Band(histogram=tuple(histogram), edges=tuple(edges), **figures)


def read_places(snapshot: Snapshot, positions: Any, bucket: str | None) -> tuple[Any, list[str]]:
    """Return the footprints of samples, None where one has none, and their splits, "" for none."""
    import pyarrow.compute as pc

    table = snapshot.read_places(positions, ["bucket", "row", "split", "geometry"])
    if bucket is not None:
        table = table.filter(pc.equal(table.column("bucket"), bucket))
    shapes = geometry.parse_wkb(table.column("geometry").to_pylist())
    return shapes, table.column("split").fill_null("").to_pylist()


def _measure(
    snapshot: Snapshot,
    positions: Any,
    bucket: str | None,
    percents: Sequence[float],
    *,
    team: Team,
    progress: Callable[[int, int | None], None] | None,
) -> Stats:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = snapshot.read_places(positions, _COLUMNS)
    chosen = _choose_buckets(snapshot, table, bucket)
    if bucket is not None:
        table = table.filter(pc.equal(table.column("bucket"), bucket))
    names, codes = number_texts(table.column("split").fill_null("").to_pylist())
    blocks = list(plan_blocks(table, codes if len(names) <= _SPLITS_MEASURED else np.zeros_like(codes), chosen))
    bands, by_split = Passes(team, blocks, chosen, progress).describe(percents) if blocks else ((), {})
    labels = count_labels(snapshot, table.append_column("split_code", pa.array(codes, "int64")), percents, names)
    measured = by_split if len(names) <= _SPLITS_MEASURED else {}
    for number, entry in enumerate(labels.splits.values()):
        entry["bands"] = [_figures(band, part) for band, part in enumerate(measured.get(number, ()), 1)]
    counts = Counter(table.column("bucket").to_pylist())
    return Stats(
        samples=len(table),
        chips=tuple(_chips(name, b.spec, counts[name]) for name, b in chosen.items()),
        bands=bands,
        classes=labels.classes,
        objects=labels.objects,
        objects_per_sample=labels.objects_per_sample,
        splits=labels.splits,
    )


def _chips(name: str, spec: ChipSpec, samples: int) -> dict[str, Any]:
    return {"bucket": name, "dtype": spec.dtype, "bands": spec.bands, "height": spec.height, "width": spec.width,
            "samples": samples}  # fmt: skip


def _figures(band: int, part: Moments) -> dict[str, Any]:
    if not part.count:
        return {"band": band, "count": 0, **dict.fromkeys(("min", "max", "mean", "std"))}
    return {"band": band, "count": part.count, "min": part.least, "max": part.most, "mean": float(part.mean),
            "std": part.std}  # fmt: skip


def _parse_percentiles(given: Any) -> tuple[float, ...]:
    try:
        percents = tuple(sorted({float(percent) for percent in given}))
    except (TypeError, ValueError, OverflowError):
        percents = (math.nan,)
    if not all(0 <= percent <= 100 for percent in percents) or len(percents) > _PERCENTILES_MOST:  # noqa: PLR2004
        raise UsageError(f"percentiles are {given!r}", hint=f"give up to {_PERCENTILES_MOST} numbers from 0 to 100")
    return percents


def _choose_buckets(snapshot: Snapshot, table: Any, bucket: str | None) -> dict[str, Bucket]:
    """Return the buckets to measure, which share one type."""
    names = sorted(table.column("bucket").unique().to_pylist())
    if bucket is not None and bucket not in names:
        hint = f"there are {', '.join(names)}"
        raise UsageError(f"there is no bucket {bucket!r}", where=snapshot.objects.url, hint=hint)
    chosen = {name: snapshot.arrays[name] for name in names if bucket in (None, name)}
    types = sorted({b.spec.dtype for b in chosen.values()})
    if len(types) > 1:
        hint = f"name one with bucket=: {', '.join(names)}"
        message = f"the images are of several types, {', '.join(types)}, which have no statistics together"
        raise UsageError(message, where=snapshot.objects.url, hint=hint)
    if any(np.dtype(name).kind == "c" for name in types):
        raise UsageError("complex numbers have no order, and so no statistics here", where=snapshot.objects.url)
    return chosen
