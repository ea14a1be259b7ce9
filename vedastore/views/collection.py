"""The public Collection: an immutable view of one version of a store, and the ways to get one."""

from __future__ import annotations

import operator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from vedastore.errors import SampleNotFoundError, UsageError, escape
from vedastore.model import DEFAULT_LIMITS
from vedastore.ops import diff as diff_op
from vedastore.ops import export as export_op
from vedastore.ops import verify as verify_op
from vedastore.ops.select import find_bounds
from vedastore.ops.select import select as find_samples
from vedastore.store.snapshot import open_version, read_json
from vedastore.views import sample as sample_view
from vedastore.views.changes import Changes
from vedastore.views.frames import feature_frame, sample_frame
from vedastore.views.html import SHOWN, collection_page

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import geopandas as gpd

    from vedastore.model import Limits, Task
    from vedastore.ops.differences import DiffReport
    from vedastore.ops.export import ExportReport
    from vedastore.ops.verify import VerifyReport
    from vedastore.views.sample import Sample


class Collection(Changes):
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

    def __repr__(self) -> str:
        version = self._snapshot.version
        of = f"{self.version}: {len(self)} samples, {version.task} of {', '.join(self.classes)}"
        return f"<vedastore.Collection {self.name!r} {escape(of)}>"

    def _repr_html_(self) -> str:
        facts = {
            "name": self.name,
            "version": self.version,
            "samples": len(self),
            "task": self.task,
            "classes": ", ".join(self.classes),
            "store": self.store,
        }
        return collection_page(facts, self._samples_at(self._chosen[:SHOWN]))

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
        return sample_frame(self._snapshot, self._positions)

    @cached_property
    def features(self) -> gpd.GeoDataFrame:
        """One row a labelled object (EPSG:4326); ``geometry_px`` and ``box_px`` are in pixels of its sample."""
        return feature_frame(self._snapshot, None if self._whole else self._positions)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of :attr:`samples` that :meth:`assign` has added."""
        return self._snapshot.table("samples").added

    def select(
        self,
        *,
        ids: Iterable[str] | str | None = None,
        classes: Iterable[str] | str | None = None,
        match: Literal["any", "all", "none"] = "any",
        objects: int | tuple[int | None, int | None] | Mapping[str, int | tuple[int | None, int | None]] | None = None,
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
            Samples that have these classes, as ``match`` says.
        match : {"any", "all", "none"}
            Whether a sample must have at least one of the classes, each of them, or none.
        objects : int, (least, most), or mapping of class to one of these, optional
            Samples with at least so many labelled objects, or with a number of them in a range, None for an open end;
            objects of a class where it is named. In a classification each class that a sample has counts as one.
        bbox : (west, south, east, north), optional
            Samples whose footprint's box has a point in common with this one, in degrees. West is above east where the
            box runs over the antimeridian; footprints there are found however their longitudes are written.
        intersects : geometry, optional
            Samples whose footprint has a point in common with a shape of shapely, GeoJSON as a dictionary, or anything
            with a ``__geo_interface__``, in longitude and latitude; a GeoDataFrame or GeoSeries may have another CRS.
            Edges are straight between these numbers: let longitudes go on past 180 where it runs over the
            antimeridian, or cut it there. A footprint around a pole counts as its box.
        split : str, optional
            Samples of this split; of none where it is an empty text.
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
            When the version has no such class or split, or a number, box, shape, condition or limit makes no sense.
        """
        chosen = find_samples(
            self._snapshot,
            self._positions,
            ids=ids,
            classes=classes,
            match=match,
            objects=objects,
            bbox=bbox,
            intersects=intersects,
            split=split,
            where=where,
            limit=limit,
        )
        return Collection(self._snapshot, chosen)

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
        storage_options: Mapping[str, Any] | None = None,
    ) -> ExportReport:
        """Write a version, this one unless it is named, as a release; of a selection, a smaller one.

        The samples of a selection come in the order of the store, with the bytes that they have in the whole release.
        ``meta.json`` and ``bounds.geojson`` are made true for them, and keep what is true already; classes stay as they
        are. Members that belong to other samples are left out. The report names what was rewritten, and why.

        Parameters
        ----------
        dest : path
            A ``.tar.gz``, ``.tgz`` or ``.tar``, also ``s3://``; it appears whole or not at all.
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
        storage_options : mapping, optional
            As in :func:`open`, for an archive on S3; those of the store without them.

        Raises
        ------
        UsageError
            For a selection without samples, or of another version than the one that is named, and for a target or
            level that makes no sense.
        ConflictError
            When the target exists.
        StoreError
            When the store is damaged, or the target cannot be written.
        """
        if not self._whole and version not in (None, self.version):
            hint = "open that version, and select from it"
            raise UsageError(f"the selection is one of version {self.version}", where=self.store, hint=hint)
        return export_op.export(
            self._snapshot if version in (None, self.version) else open_version(self._snapshot.objects, version),
            dest,
            positions=None if self._whole else self._positions,
            for_import=for_import,
            overwrite=overwrite,
            level=level,
            workers=workers,
            client=client,
            progress=progress,
            storage_options=storage_options,
        )

    def verify(
        self,
        against: str | os.PathLike[str] | None = None,
        *,
        limits: Limits | None = None,
        workers: int | None = None,
        client: Any = None,
        progress: Callable[[int, int | None], None] | None = None,
        storage_options: Mapping[str, Any] | None = None,
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
        storage_options : mapping, optional
            As in :func:`open`, for a release on S3; those of the store without them.

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
            storage_options=storage_options,
        )

    def diff(self, other: str | Collection) -> DiffReport:
        """Tell what changed from this version to another one: samples, images, labels, columns, other members.

        Samples are compared by id: first the digests of their files, then what is other of those that differ. No pixels
        are read. Names of folders and the order of the release do not count.

        Parameters
        ----------
        other : str or Collection
            A version of this store, or any collection. Of a selection and a version's name, the samples of the
            selection are looked up in that version; of two selections, their samples are compared.

        Returns
        -------
        DiffReport
            ``differs``; ``counts``; ids that were ``added`` and ``removed``; and a record for each image, label,
            column, member and field that changed. ``to_dict()`` gives plain values. Memory grows with the differences.

        Raises
        ------
        UsageError
            When there is no such version, or ``other`` is neither.
        StoreError
            When an index is damaged.
        """
        if not isinstance(other, str | Collection):
            raise UsageError(f"{other!r:.80} is nothing to compare with", hint="give a version's name or a collection")
        whole = self._whole and (isinstance(other, str) or other._whole)  # noqa: SLF001 - one of the same class
        mine = None if whole else self._positions
        if isinstance(other, str):
            return diff_op.diff(self._snapshot, open_version(self._snapshot.objects, other), mine)
        return diff_op.diff(self._snapshot, other._snapshot, mine, None if whole else other._positions)  # noqa: SLF001

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
