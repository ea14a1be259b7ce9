"""What a collection can become: splits, further columns, other labels, samples more or less; each a new version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from vedastore.errors import UsageError
from vedastore.ops import assign as assign_op
from vedastore.ops import split as split_op
from vedastore.ops.allotment import SplitOptions
from vedastore.views.arrays import Arrays
from vedastore.views.edits import Edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vedastore.store.snapshot import Snapshot
    from vedastore.views.sample import Sample


class Changes(Arrays):
    """The samples of a snapshot at some positions, as they can be changed."""

    def __init__(self, snapshot: Snapshot, positions: Any = None) -> None:
        self._snapshot, self._whole = snapshot, positions is None
        self._chosen = range(snapshot.version.samples) if positions is None else positions

    def split(
        self,
        train: float = 70,
        test: float = 20,
        validate: float = 10,
        seed: int = 0,
        *,
        by: Literal["id", "place"] = "id",
        block: float | None = None,
        buffer: float = 0.0,
        stratify: bool = False,
        duplicates: bool | int | None = None,
        given: Mapping[str, str | None] | None = None,
        workers: int | None = None,
        client: Any = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Self:
        """Commit a version in which every sample is of a split, and open it.

        The hash of its id and the seed decide: the same for the same id wherever it is, so that samples which are
        added later move none of the others. The shares come out as percentages do when many coins are thrown.

        Of a selection, its samples get new splits and all others keep theirs, or none; the same samples of the new
        version are returned. Where groups are made, those that hold samples which keep one split get that one.

        Parameters
        ----------
        train, test, validate : float
            Percentages, 100 together.
        seed : int
            Another one gives another split.
        by : {"id", "place"}
            ``"place"`` gives all samples in one block of the ground the same split, and none to those at its edge that
            touch one of a smaller split: no footprint's box touches that of a sample of another split. Samples without
            a footprint are split by id.
        block : float, optional
            The side of a block in degrees. Without it, 16 times that of a chip, or 8, 4 or 2 times, until each split
            gets three blocks; give it if samples are to be added later.
        buffer : float
            With ``"place"``, how many degrees of longitude and latitude lie at least between boxes of footprints of
            different splits; 0 for boxes that do not touch.
        stratify : bool
            Let the shares hold for every class, and for samples without one, as nearly as whole groups allow. Samples
            that are added later may move others.
        duplicates : bool or int, optional
            Keep images that look alike in one split, directly or by others in between: all pixels are read, and
            brightness in 8 x 9 cells makes a hash of 64 bits, of which so many may differ, 0 to 6; True is 4. Flat
            images are compared pixel by pixel.
        given : mapping of id to name, optional
            Splits that exist already, instead; samples that it does not name, or names None for, are of none.
        workers : int, optional
            Threads to read pixels with; one a core without it.
        client : distributed.Client, optional
            A cluster to read them on; the active client without it, if there is one.
        progress : callable, optional
            Called with images read and in all.

        Raises
        ------
        UsageError
            When the shares do not add up to 100, options make no sense, alone or together, or there are no samples.
        SampleNotFoundError
            When ``given`` names an id of no sample of this collection.
        ConflictError
            When the store has changed since it was opened.
        """
        _, changed = split_op.split(
            self._snapshot,
            {"train": train, "test": test, "validate": validate},
            seed,
            SplitOptions(by, block, buffer, stratify, duplicates),
            positions=None if self._whole else self._positions,
            given=given,
            workers=workers,
            client=client,
            progress=progress,
        )
        return self._open(changed, None if self._whole else self._chosen)

    def assign(self, columns: Any = None, /, **named: Any) -> Self:
        """Commit a version with further columns of ``samples``, and open it: results, written back to their samples.

        They are columns of :attr:`samples` then, names in ``select(where=)``, and coordinates of :meth:`to_xarray`:
        after ``c.assign(ndvi=index.mean(("y", "x")))``, ``where="ndvi > 0.3"`` can be asked. A release has no place for
        them: exports stay as they were.

        Parameters
        ----------
        columns : mapping, DataFrame or Dataset, optional
            Columns by name; a DataFrame has ids as its index, a Dataset the coordinate ``id``.
        **named
            The same by keyword. What a column is given as: a dictionary of values by id, a pandas Series with ids as
            its index, a DataArray (sample) with the coordinate ``id``, as :meth:`to_xarray` has it; a list or array of
            as many values as there are samples, in their order; one value for all samples; or None to remove it.

            Values are truths, whole numbers, numbers, or texts of up to 4096 bytes. Samples of this collection for
            which there is no value, or None, have none (null); NaN is a number. Samples that are not of this
            collection keep the value that they have.

        Raises
        ------
        UsageError
            When a name is that of a column of the format, or cannot be written in SQL; when values are of other types,
            not as many as the samples, or would make more than 64 columns.
        SampleNotFoundError
            When an id is not that of a sample of this collection.
        ConflictError
            When the store has changed since it was opened.
        """
        if columns is not None and not hasattr(columns, "items"):
            hint = "give a mapping of names, a DataFrame, or names as keywords"
            raise UsageError(f"columns are {type(columns).__name__}, which has no names", hint=hint)
        given = {**({} if columns is None else dict(columns.items())), **named}
        _, changed = assign_op.assign(self._snapshot, self._positions, given)
        return self._open(changed, None if self._whole else self._chosen)

    def edit(
        self,
        *,
        author: str | None = None,
        message: str | None = None,
        version: str | None = None,
        workers: int | None = None,
    ) -> Edit[Self]:
        """Make several edits in one commit: ``with c.edit() as e: e.remove(...)``; then ``e.collection`` is the result.

        ``e`` has :meth:`update_labels`, :meth:`remove` and :meth:`add`, and besides them ``set_split({id: split})`` and
        ``update_meta({key: value})`` for ``meta.json``. What is not edited comes back on export byte for byte;
        ``meta.json`` and ``bounds.geojson`` are made true then, and keep all else that they say. Where others have
        committed meanwhile, the edits are made to what is there then, unless the same samples have changed.

        Parameters
        ----------
        author, message : str, optional
            Who makes the change, and why; kept with the version.
        version : str, optional
            The name of the new version; without it that of this one with ``+1`` behind it, or the next such number.
        workers : int, optional
            Threads; one a core without it.

        Raises
        ------
        SampleNotFoundError
            When a sample that is to be changed is not there.
        UsageError
            When a sample that is to be added is there, or values make no sense.
        ConflictError
            When another writer was first with one of these samples.
        ReleaseError
            When a conversion would refuse a label or an image.
        """
        how = {"author": author, "message": message, "version": version}
        return Edit(self, self._snapshot, self._reopen, workers=workers, **how)

    def update_labels(self, labels: Mapping[str, Any], **how: Any) -> Self:
        """Commit a version in which some samples have other labels, and open it.

        Parameters
        ----------
        labels : dict
            By id: what ``Sample.label`` gives, ``{class: value}``, in the coordinates that the labels of the release
            have; or a whole GeoJSON Feature, as a dictionary, bytes, or the path of a file (a text is one where it ends
            in ``.json`` or ``.geojson``, and a class elsewhere). Objects may be shapes of shapely. Of a label alone,
            all else that the label file says stays.
        **how
            As in :meth:`edit`, which tells what can go wrong, too.
        """
        with self.edit(**how) as edits:
            edits.update_labels(labels)
        return edits.collection

    def remove(self, ids: Iterable[str] | str, **how: Any) -> Self:
        """Commit a version without some samples, and open it; see :meth:`edit`."""
        with self.edit(**how) as edits:
            edits.remove(ids)
        return edits.collection

    def add(self, samples: Mapping[str, tuple[Any, Any]] | Iterable[Sample], **how: Any) -> Self:
        """Commit a version with further samples, behind all others, and open it.

        Parameters
        ----------
        samples : dict of (image, label), or samples of another collection
            By id: an image is the bytes or the path of a TIFF, or an array (band, y, x), of which an uncompressed
            GeoTIFF is made; a DataArray brings its CRS, its coordinates and its nodata. A label is what
            :meth:`update_labels` takes; of a label alone a Feature without footprint is made, so that its coordinates
            are pixels.
        **how
            As in :meth:`edit`, which tells what can go wrong, too.
        """
        with self.edit(**how) as edits:
            edits.add(samples)
        return edits.collection

    def _reopen(self, snapshot: Snapshot) -> Self:
        """Return what this collection has become in another version: all samples, or those that it has by their ids."""
        if self._whole:
            return self._open(snapshot, None)
        found = snapshot.lookup.find_many(self._snapshot.lookup.names(self._positions))
        return self._open(snapshot, found[found >= 0])

    def _open(self, snapshot: Snapshot, positions: Any) -> Self:
        return type(self)(snapshot, positions)
