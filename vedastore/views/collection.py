"""The public Collection: an immutable view of one version of a store, and the ways to get one."""

from __future__ import annotations

import operator
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from vedastore.errors import SampleNotFoundError, UsageError, escape
from vedastore.io import geometry
from vedastore.model import DEFAULT_LIMITS, LabelOptions
from vedastore.ops import convert as convert_op
from vedastore.ops import export as export_op
from vedastore.ops import split as split_op
from vedastore.ops import verify as verify_op
from vedastore.ops.options import ConvertOptions
from vedastore.ops.select import find_bounds
from vedastore.ops.select import select as find_samples
from vedastore.ops.stats import PERCENTILES, Stats
from vedastore.ops.stats import stats as measure
from vedastore.spec.tables import HEAVY, SAMPLES
from vedastore.store.snapshot import Snapshot, open_snapshot
from vedastore.views import sample as sample_view
from vedastore.views.batches import iter_batches
from vedastore.views.dataset import build_dataset, mask_array
from vedastore.views.labels import multi_hot
from vedastore.views.objects import Boxes, require_objects
from vedastore.views.sample import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import geopandas as gpd
    import xarray as xr

    from vedastore.model import Limits, Task
    from vedastore.ops.export import ExportReport
    from vedastore.ops.verify import VerifyReport
    from vedastore.views.batches import Batch
    from vedastore.views.sample import Sample


class Collection:
    """The samples of one version of a store, or some of them.

    It sees the version that it was opened at for as long as it lives, is cheap to open and to pickle, and reads nothing
    before it is asked. Made by :func:`open` and :func:`convert`.

    ``len(c)`` counts the samples, a loop gives each :class:`Sample`, ``c[0]`` and ``c["id"]`` give one (or IndexError,
    SampleNotFoundError), and a slice ``c[10:20]`` is a collection again.

    Parameters
    ----------
    snapshot : Snapshot
        The version.
    positions : range or array of int, optional
        The positions of the samples that it has, upwards or downwards; all of them without it.
    """

    def __init__(self, snapshot: Snapshot, positions: Any = None) -> None:
        self._snapshot, self._whole = snapshot, positions is None
        self._chosen = range(snapshot.version.samples) if positions is None else positions

    def __repr__(self) -> str:
        version = self._snapshot.version
        of = f"{self.version}: {len(self)} samples, {version.task} of {', '.join(self.classes)}"
        return f"<vedastore.Collection {self.name!r} {escape(of)}>"

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), 256):
            yield from self._samples_at(self._chosen[start : start + 256])

    @overload
    def __getitem__(self, key: int | str) -> Sample: ...
    @overload
    def __getitem__(self, key: slice) -> Collection: ...
    def __getitem__(self, key: int | str | slice) -> Sample | Collection:
        if isinstance(key, slice):
            return Collection(self._snapshot, self._chosen[key])
        if isinstance(key, str):
            return self._by_id(key)
        index = operator.index(key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, and no number {index}")
        return self._samples_at([self._chosen[index]])[0]

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._snapshot.version.name

    @property
    def task(self) -> Task:
        """What its labels are for: ``classification``, ``object_detection`` or ``segmentation``."""
        return self._snapshot.version.task

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes in alphabetical order."""
        return self._snapshot.version.classes

    @property
    def version(self) -> str:
        """The name of the version."""
        return self._snapshot.version.version

    @property
    def versions(self) -> tuple[str, ...]:
        """The names of all versions of the store when it was opened, oldest first."""
        return tuple(v.version for v in self._snapshot.root.versions)

    @property
    def store(self) -> str:
        """Where the store is."""
        return self._snapshot.objects.url

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east and north of all footprints, degrees; None where no sample is georeferenced."""
        if self._whole:
            return self._snapshot.version.bounds
        return find_bounds(self._snapshot, self._positions)

    @property
    def skipped(self) -> tuple[dict[str, Any], ...]:
        """What a conversion left out: id, members, rules and reason of each sample, of the first thousand at most."""
        return self._snapshot.version.skipped

    @property
    def findings(self) -> tuple[dict[str, Any], ...]:
        """What a conversion found: rule, message, place, count, and the first samples."""
        return self._snapshot.version.findings

    @cached_property
    def meta(self) -> dict[str, Any] | None:
        """The release's ``meta.json``; None where it had none."""
        member = self._snapshot.read_member("meta")
        return (
            None
            if member is None
            else read_json(member.data, f"{self.store}: {member.member}", self._snapshot.version.limits)
        )

    @cached_property
    def samples(self) -> gpd.GeoDataFrame:
        """One row a sample (EPSG:4326), without the bytes that only export needs."""
        columns = [name for name in SAMPLES if name not in HEAVY]
        return _geo_frame(self._snapshot.table("samples").read_rows(self._positions, columns), ("geometry",))

    @cached_property
    def features(self) -> gpd.GeoDataFrame:
        """One row a labelled object (EPSG:4326); ``geometry_px`` and ``box_px`` are in pixels of its sample."""
        import pyarrow as pa
        import pyarrow.compute as pc

        reader, wanted = self._snapshot.table("features"), self._positions
        table = reader.read(groups=None if self._whole else reader.groups_with(wanted))
        if not self._whole:
            table = table.filter(pc.is_in(table.column("position"), pa.array(wanted, "int64")))
        return _geo_frame(table, ("geometry", "geometry_px"))

    def select(
        self,
        *,
        ids: Iterable[str] | str | None = None,
        classes: Iterable[str] | str | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        intersects: Any = None,
        split: str | None = None,
        where: str | None = None,
        limit: int | None = None,
    ) -> Collection:
        """Return the samples that have all that is asked for, in the order that they have here.

        What is asked is compared with the index; no pixel and no label is read. Columns of the index are read when
        they are first needed and kept for the next question, up to 128 MiB.

        Parameters
        ----------
        ids : iterable of str, optional
            The samples of these ids.
        classes : str or iterable of str, optional
            Samples that have at least one of these classes.
        bbox : (west, south, east, north), optional
            Samples whose footprint's box has a point in common with this one, in degrees. West is above east where the
            box runs over the antimeridian; footprints there are found however their longitudes are written.
        intersects : geometry, optional
            Samples whose footprint has a point in common with a shape of shapely, GeoJSON as a dictionary, or anything
            with a ``__geo_interface__``, in longitude and latitude. Its edges are straight between these numbers: let
            longitudes go on past 180 where it runs over the antimeridian, or cut it there. A footprint around a pole
            counts as its box.
        split : str, optional
            Samples of this split.
        where : str, optional
            Samples for which a condition in SQL (DuckDB's) on the columns of ``samples`` is true, without subqueries.
            Besides those of :attr:`samples` there are ``bbox.xmin`` and its like, ``envelope``, ``label``, and digests.
        limit : int, optional
            The first so many of them.

        Raises
        ------
        SampleNotFoundError
            When an id is not that of a sample of this collection.
        UsageError
            When there is no such class, or a box, shape, condition or limit makes no sense.

        """
        chosen = find_samples(
            self._snapshot,
            self._positions,
            ids=ids,
            classes=classes,
            bbox=bbox,
            intersects=intersects,
            split=split,
            where=where,
            limit=limit,
        )
        return Collection(self._snapshot, chosen)

    def to_xarray(self, labels: bool = True, bucket: str | None = None) -> xr.Dataset:
        """Return a Dataset with ``image`` (sample, band, y, x) on Dask, one chunk a shard.

        Coordinates are ``id``, ``split`` and ``transform`` (sample, affine), the six numbers a to f of each image. With
        ``labels``, there is what the task's labels say:

        ============================  ====================================================================
        classification                ``label`` (sample, class), 1 where a sample has a class
        segmentation                  ``mask`` (sample, y, x), as :meth:`masks` gives it
        object detection              ``boxes`` (sample, box, edge), NaN behind the last box of a sample;
                                      ``box_class`` (sample, box), from 1 on; ``box_count`` (sample)
        ============================  ====================================================================

        Raises
        ------
        UsageError
            When the samples are of several shapes or types, and no bucket is named; with ``labels``, when some have
            objects without a place in pixels.
        """
        return build_dataset(self._snapshot, self._positions, labels=labels, bucket=bucket)

    def batches(
        self,
        size: int,
        shuffle: bool = False,
        seed: int = 0,
        split: str | None = None,
        workers: int | None = None,
        *,
        bucket: str | None = None,
    ) -> Iterator[Batch]:
        """Yield ``(images, labels)`` for training, ``size`` samples at a time and fewer in the last batch.

        Batches are read ahead by threads; ``workers`` + 2 of them are in memory at most. What is in which batch depends
        on the collection, ``seed`` and ``size`` alone. In another process, call it there: what was begun before a fork
        does not go on behind it.

        Parameters
        ----------
        size : int
            Samples of a batch.
        shuffle : bool
            Whether to take all samples in a random order, another one for each ``seed``, instead of the collection's.
        split : str, optional
            Take the samples of this split only.
        workers : int, optional
            Threads; one for each core that this process may use without it.
        bucket : str, optional
            Take the samples of this shape and type only; a collection of several asks for it.

        Returns
        -------
        iterator of (images, labels)
            ``images`` is an array (sample, band, y, x) of the bucket's type, yours to change. Chips of 2 to 4 bands of
            8 bits have the bands last in memory; ``torch.from_numpy`` takes them as they are. For classification,
            ``labels`` is an array (sample, class) of uint8, 1 where a sample has a class; for the other tasks it is
            a sequence of what ``Sample.label`` gives, each parsed when it is asked for.

        Raises
        ------
        UsageError
            When there are no such samples, or they are of several shapes or types and no bucket is named.
        """
        return iter_batches(
            self._snapshot,
            self._positions,
            size,
            shuffle=shuffle,
            seed=seed,
            split=split,
            workers=workers,
            bucket=bucket,
        )

    def multi_hot(self) -> xr.DataArray:
        """Return a (sample, class) uint8 array on Dask, 1 where a sample has a class."""
        import dask.array as da
        import xarray as xr

        table = self._snapshot.table("samples").read_rows(self._positions, ["id", "classes"])
        hot = da.from_array(multi_hot(table.column("classes").to_pylist(), self.classes))
        coords = {"id": ("sample", np.array(table.column("id").to_pylist(), dtype=object)), "class": list(self.classes)}
        return xr.DataArray(hot, coords, ("sample", "class"), name="label")

    def boxes(self, *, clip: bool = False) -> Boxes:
        """Return the boxes of all samples, read when they are asked for.

        Parameters
        ----------
        clip : bool
            Cut boxes at the edges of the chip, and leave out those that lie outside of it.

        Returns
        -------
        sequence
            One item a sample: a list with one array for each class in alphabetical order, (box, 4) float64,
            ``[minx, miny, maxx, maxy]`` in pixels from the corner of the first one.

        Raises
        ------
        UsageError
            For classification, and when samples have objects without a place in pixels.
        """
        positions = self._positions
        require_objects(self._snapshot, positions)
        return Boxes(self._snapshot, positions, clip=clip)

    def masks(
        self,
        *,
        instances: bool = False,
        scale: float = 1.0,
        order: Sequence[str] | None = None,
        bucket: str | None = None,
    ) -> xr.DataArray:
        """Return masks (sample, y, x) on Dask, drawn by GDAL: an object covers the pixels whose centre it has.

        Parameters
        ----------
        instances : bool
            Tell objects apart: a pixel says which object of its sample it shows, by its place among the sample's rows
            of :attr:`features`, from 1 on. Without it a pixel says which class: 1 for the first in alphabetical order.
            0 is the background.
        scale : float
            Pixels of the mask for one of the image, along each side; both sides must be whole numbers.
        order : sequence of str, optional
            All classes from the lowest to the topmost: where objects overlap, the later one is seen. Alphabetical
            without it. Of one class, the later object is seen.
        bucket : str, optional
            Take the samples of this shape and type only; a collection of several asks for it.

        Raises
        ------
        UsageError
            For classification, when samples have objects without a place in pixels, or an argument makes no sense.
        """
        return mask_array(self._snapshot, self._positions, instances=instances, scale=scale, order=order, bucket=bucket)

    def split(
        self,
        train: float = 70,
        test: float = 20,
        validate: float = 10,
        seed: int = 0,
        *,
        given: Mapping[str, str] | None = None,
    ) -> Collection:
        """Commit a version in which every sample is of a split, and open it.

        The hash of its id and the seed decide: the same for the same id wherever it is, so that samples which are
        added later move none of the others. The shares come out as percentages do when many coins are thrown.

        Parameters
        ----------
        train, test, validate : float
            Percentages, 100 together.
        seed : int
            Another one gives another split.
        given : mapping of id to name, optional
            Splits that exist already, instead; samples that it does not name are of none.

        Raises
        ------
        UsageError
            For a selection, and when the shares do not add up to 100.
        SampleNotFoundError
            When ``given`` names an id of no sample.
        ConflictError
            When the store has changed since it was opened.
        """
        if not self._whole:
            raise UsageError(
                "only a whole version can be split", hint="split the collection without a slice or select()"
            )
        shares = {"train": train, "test": test, "validate": validate}
        report = split_op.split(self._snapshot, shares, seed, given)
        return open(self.store, report.version)

    def stats(
        self,
        *,
        bucket: str | None = None,
        percentiles: Sequence[float] = PERCENTILES,
        workers: int | None = None,
        client: Any = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Stats:
        """Measure bands, classes and objects; all numbers are exact, whatever the number of workers.

        Values of 8 and 16 bits take one pass over the pixels, wider ones one more for each further 16 bits. Nodata is
        left out, and so is what is not finite; the latter is counted as ``invalid``.

        Parameters
        ----------
        bucket : str, optional
            Measure the images of this shape and type only; images of several types ask for it.
        percentiles : sequence of float
            Which ones, in percent; between two values they are linear, as NumPy's are.
        workers : int, optional
            Threads; one a core without it.
        client : distributed.Client, optional
            A cluster to run on; the active client without it, if there is one.
        progress : callable, optional
            Called with chips done and in all.

        Returns
        -------
        Stats
            ``to_dict()`` gives plain values.

        Raises
        ------
        UsageError
            When images are of several types and no bucket is named, or are complex.
        """
        return measure(
            self._snapshot,
            self._positions,
            bucket=bucket,
            percentiles=percentiles,
            workers=workers,
            client=client,
            progress=progress,
        )

    def export(
        self,
        dest: str | os.PathLike[str],
        version: str | None = None,
        for_import: bool = False,
        *,
        overwrite: bool = False,
        level: int | None = None,
        workers: int | None = None,
        client: Any = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> ExportReport:
        """Write a version, this one unless it is named, as a release.

        Parameters
        ----------
        dest : path
            A ``.tar.gz``, ``.tgz`` or ``.tar``; it appears whole or not at all.
        for_import : bool
            Leave out all but images and labels, as bulk import takes them; the report's ``request`` is the body.
        overwrite : bool
            Replace a file that is there.
        level : int, optional
            1 and 2 (the default) compress fast; 3 to 9 are the levels of gzip, many times as slow, for an archive that
            is a few percent smaller. A ``.tar`` has none.
        workers : int, optional
            Threads; one a core without it.
        client : distributed.Client, optional
            A cluster to run on; the active client without it, if there is one.
        progress : callable, optional
            Called with members done and in all.

        Raises
        ------
        UsageError
            For a selection, and for a target or level that makes no sense.
        ConflictError
            When the target exists.
        StoreError
            When the store is damaged, or the target cannot be written.
        """
        if not self._whole:
            hint = "export the collection without a slice or select()"
            raise UsageError("only a whole version can be exported", hint=hint)
        return export_op.export(
            self._snapshot if version is None else open_snapshot(self.store, version),
            dest,
            for_import=for_import,
            overwrite=overwrite,
            level=level,
            workers=workers,
            client=client,
            progress=progress,
        )

    def verify(
        self,
        against: str | os.PathLike[str] | None = None,
        *,
        limits: Limits | None = None,
        workers: int | None = None,
        client: Any = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> VerifyReport:
        """Read the whole version again and check it, of a selection too.

        Parameters
        ----------
        against : path, optional
            A release; member by member, it is compared with what an export would write.
        limits : Limits, optional
            What that release may ask for; give those again that it was converted with.
        workers : int, optional
            Threads; one a core without it.
        client : distributed.Client, optional
            A cluster to run on; the active client without it, if there is one.
        progress : callable, optional
            Called with members done and in all.

        Raises
        ------
        StoreError
            When the root document cannot be read; damage below it is reported.
        ReleaseError
            When the release cannot be read.
        """
        return verify_op.verify(
            self._snapshot,
            against=against,
            limits=limits or DEFAULT_LIMITS,
            workers=workers,
            client=client,
            progress=progress,
        )

    @property
    def _positions(self) -> Any:
        """The positions of all samples as an array."""
        self._snapshot.table("samples")  # as many samples as the root document says, or else it is refused
        chosen = self._chosen
        return np.arange(chosen.start, chosen.stop, chosen.step) if isinstance(chosen, range) else chosen

    def _samples_at(self, positions: Any) -> list[Sample]:
        rows = self._snapshot.table("samples").take(positions, sample_view.COLUMNS)
        return [sample_view.Sample(self._snapshot, row) for row in rows]

    def _by_id(self, sample_id: str) -> Sample:
        position = self._snapshot.lookup.find(sample_id)
        if position is None or position not in self._chosen:
            raise SampleNotFoundError(f"there is no sample {sample_id!r}", where=self.store)
        return self._samples_at([position])[0]


def _geo_frame(table: Any, shape_columns: tuple[str, ...]) -> gpd.GeoDataFrame:
    import geopandas as gpd

    frame = table.drop_columns(["bbox"]).to_pandas()
    for name in shape_columns:
        shapes = geometry.parse_wkb(table.column(name).to_pylist())
        frame[name] = gpd.GeoSeries(shapes, crs="EPSG:4326" if name == "geometry" else None)
    return gpd.GeoDataFrame(frame, geometry="geometry")


def open(
    store: str | os.PathLike[str], version: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Collection:
    """Open a store at a version, the latest without a name.

    Parameters
    ----------
    store : path
    version : str, optional
    storage_options : mapping, optional
        For object stores; refused for local paths.

    Raises
    ------
    StoreError
        When there is no store, or its root document is damaged.
    UsageError
        When there is no such version, or the place cannot be read by this version of vedastore.
    """
    _refuse_options(storage_options)
    return Collection(open_snapshot(store, version))


def convert(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    mode: Literal["create", "overwrite"] = "create",
    label_coords: Literal["auto", "pixel", "geographic"] = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    label_field: str | None = None,
    default_label: str | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    version: str | None = None,
    codec: Literal["default", "compact"] = "default",
    limits: Limits | None = None,
    workers: int | None = None,
    client: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Collection:
    """Convert a release to a store, and open it.

    Parameters
    ----------
    source : path
        A ``.tar.gz``, ``.tgz`` or ``.tar``, or an extracted directory.
    store : path
        The store's directory.
    mode : {"create", "overwrite"}
        Whether a store that is there already is a conflict, or is replaced.
    label_coords : {"auto", "pixel", "geographic"}
        What the label coordinates of georeferenced samples are; ``"auto"`` tells from all of them, or refuses.
    on_error : {"raise", "skip"}
        Whether a bad sample refuses the release, or is left out and listed. A bad archive is always refused.
    label_field, default_label : str, optional
        The property that holds the label instead of ``label``; the class of samples that have none.
    task, classes, name, version : optional
        What ``meta.json`` would say; given here they win.
    codec : {"default", "compact"}
        ``"compact"`` takes about a sixth less room for imagery of 8 bits; readers of the Zarr store need numcodecs.
    limits : Limits, optional
        What the release may ask for; more is refused.
    workers : int, optional
        Threads; one a core without it.
    client : distributed.Client, optional
        A cluster to run on; the active client without it, if there is one.
    progress : callable, optional
        Called with the bytes of the archive that were read, and its size.
    storage_options : mapping, optional
        For object stores; refused for local paths.

    Raises
    ------
    ReleaseError
        When the release is refused; no store is visible then, and the source is as it was.
    ConflictError
        When the target exists, or another writer was first.
    """
    _refuse_options(storage_options)
    options = ConvertOptions(
        mode=mode,
        label_coords=label_coords,
        on_error=on_error,
        labels=LabelOptions(label_field, default_label),
        task=task,
        classes=None if classes is None else tuple(classes),
        name=name,
        version=version,
        codec=codec,
        limits=limits or DEFAULT_LIMITS,
    )
    report = convert_op.convert(_only(source), store, options, workers=workers, client=client, progress=progress)
    return open(report.store, report.version.version)


def _only(source: Any) -> str | os.PathLike[str]:
    """Return the one source of a call."""
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    if len(sources) != 1:
        raise UsageError(f"there are {len(sources)} sources", hint="convert one release to one store")
    only: str | os.PathLike[str] = sources[0]
    return only


def _refuse_options(storage_options: Mapping[str, Any] | None) -> None:
    if storage_options:
        raise UsageError("storage_options belong to object stores, and only local paths can be opened")
