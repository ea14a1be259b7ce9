"""What a collection is as arrays and figures: pixels and labels on Dask, batches, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vedastore.ops.stats import PERCENTILES, Stats
from vedastore.ops.stats import stats as measure
from vedastore.views.batches import Batches, BatchReader, Reading
from vedastore.views.dataset import build_dataset, build_tree, mask_array
from vedastore.views.labels import hot_array
from vedastore.views.objects import Boxes, require_objects
from vedastore.views.order import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr

    from vedastore.store.snapshot import Snapshot


class Arrays:
    """The samples of a snapshot at some positions, as arrays."""

    _snapshot: Snapshot
    _whole: bool
    """Whether they are all samples of the version, in its order."""
    if TYPE_CHECKING:

        @property
        def _positions(self) -> Any:
            """The positions of all samples as an array."""

    def to_xarray(self, labels: bool = True, bucket: str | None = None) -> xr.Dataset:
        """Return a Dataset with ``image`` (sample, band, y, x) on Dask, one chunk a shard.

        Coordinates are ``id``, ``split`` and ``transform`` (sample, affine), the six numbers a to f of each image, and
        the columns that :meth:`Collection.assign` added; where these have no value, a text is empty and a number NaN.
        The CRS that all samples share is under ``.rio`` (``spatial_ref``); where they have several, ``crs`` (sample)
        tells each one's. ``.rio.transform()`` knows none of the transforms: ``Sample.image`` is an image in its place.
        With ``labels``, there is what the task's labels say:

        ============================  ====================================================================
        classification                ``label`` (sample, class), 1 where a sample has a class
        segmentation                  ``mask`` (sample, y, x), as :meth:`masks` gives it
        object detection              ``boxes`` (sample, box, edge), NaN behind the last box of a sample;
                                      ``box_class`` (sample, box), from 1 on; ``box_count`` (sample)
        ============================  ====================================================================

        Raises
        ------
        UsageError
            When the samples are of several shapes or types, and no bucket is named (:meth:`to_datatree` has them all);
            with ``labels``, when some have objects without a place in pixels.
        """
        return build_dataset(self._snapshot, self._positions, labels=labels, bucket=bucket)

    def to_datatree(self, labels: bool = True) -> xr.DataTree:
        """Return a DataTree with one node for each shape and type of images, which is its :meth:`to_xarray`.

        A node has the name of its bucket, such as ``uint8-3x256x256``.

        Raises
        ------
        UsageError
            With ``labels``, when some samples have objects without a place in pixels.
        """
        return build_tree(self._snapshot, self._positions, labels=labels)

    def batches(
        self,
        size: int,
        shuffle: bool | Literal["shards"] = False,
        seed: int = 0,
        split: str | None = None,
        workers: int | None = None,
        *,
        bucket: str | None = None,
        labels: Literal["auto", "classes", "masks", "boxes"] = "auto",
        skip: int = 0,
        epoch: int = 0,
        channels: Literal["first", "last"] = "first",
        dtype: Any = None,
        scale: Any = None,
        fit: Literal["pad", "crop"] | None = None,
        size_px: tuple[int, int] | None = None,
        clip: bool = False,
    ) -> Batches:
        """Return ``(images, labels)`` for training, ``size`` samples at a time and fewer in the last batch.

        Batches are read ahead by threads; ``workers`` + 2 of them are in memory at most. What is in which batch depends
        on the collection and the arguments alone, not on ``workers``. In another process, call it there: what was begun
        before a fork does not go on behind it.

        Parameters
        ----------
        size : int
            Samples of a batch.
        shuffle : bool or "shards"
            Whether to take the samples in a random order instead of the collection's. ``"shards"`` keeps reads near one
            another: shards come in a random order, and the samples of each four of them are mixed.
        seed, epoch : int
            Another one gives another order.
        split : str, optional
            Take the samples of this split only; of none where it is an empty text.
        workers : int, optional
            Threads; one for each core that this process may use without it.
        bucket : str, optional
            Take the samples of this shape and type only; a collection of several asks for it, or for ``fit``.
        labels : {"auto", "classes", "masks", "boxes"}
            ``"classes"`` gives an array (sample, class), ``"masks"`` one (sample, y, x) as :meth:`masks` draws it,
            ``"boxes"`` a list of what :meth:`boxes` gives for each sample.
        skip : int
            Leave out the first so many batches: training that was stopped goes on where it was, with the same samples.
        channels : {"first", "last"}
            Where the axis of bands is; ``"last"`` is a view (sample, y, x, band).
        dtype : str or NumPy type, optional
            Of the images. Without ``scale`` it has to hold every value of their own type.
        scale : "max" or (offset, divisor), optional
            Give ``(value - offset) / divisor``, each a number or one for each band, such as means and standard
            deviations; ``"max"`` divides integers by the greatest one of their type. It is computed in ``dtype``, a
            type of floats: float32 unless it is named, and for float16 too. Nodata is a value like others.
        fit : {"pad", "crop"}, optional
            Make images of several heights and widths, but the same bands and type, one size. ``"pad"`` adds rows below
            and columns on the right, of the image's nodata value, or 0 where there is none that its type holds; masks
            get 0. ``"crop"`` cuts out the centre, with half a pixel rounded up and left; masks follow, and boxes are
            moved, cut at its edges and left out when outside. Other labels stay. Larger chips are not padded, nor
            smaller ones cropped.
        size_px : (height, width), optional
            What ``fit`` makes of them.
        clip : bool
            Cut boxes at the edges of their chips, and leave out those outside, as :meth:`boxes` does.

        Returns
        -------
        Batches
            An iterator of (images, labels); :meth:`Batches.state` tells how to go on later. ``images`` is an array
            (sample, band, y, x), yours to change. Chips of 2 to 4 bands of 8 bits have the bands last in memory;
            ``torch.from_numpy`` takes them as they are. Without another choice, ``labels`` is an array (sample, class)
            of uint8 for classification, 1 where a sample has a class; for the other tasks it is a sequence of what
            ``Sample.label`` gives, each parsed when it is asked for.

        Raises
        ------
        UsageError
            When there is no such split or sample, they are of several shapes or types and neither ``bucket`` nor
            ``fit`` is given, or an argument makes no sense for them.
        """
        order = Order(size, shuffle, seed, epoch)
        reading = Reading(split, bucket, labels, channels, dtype, scale, fit, size_px, clip)
        return Batches(BatchReader(self._snapshot, self._positions, reading), order, workers, skip=skip)

    def multi_hot(self) -> xr.DataArray:
        """Return a (sample, class) uint8 array on Dask, 1 where a sample has a class."""
        return hot_array(self._snapshot, self._positions)

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

    def stats(
        self,
        *,
        bucket: str | None = None,
        percentiles: Sequence[float] = PERCENTILES,
        cached: bool = True,
        workers: int | None = None,
        client: Any = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Stats:
        """Measure bands, classes and objects; all numbers are exact, whatever the number of workers.

        A store that can be written keeps the statistics of a whole version with the percentiles that it has by default:
        the next one who asks has them at once.

        Values of 8 and 16 bits take one pass over the pixels, wider ones one more for each further 16 bits. Nodata is
        left out, and so is what is not finite; the latter is counted as ``invalid``.

        Parameters
        ----------
        bucket : str, optional
            Measure the images of this shape and type only; images of several types ask for it.
        percentiles : sequence of float
            Which ones, in percent, of bands and of objects; between two values they are linear, as NumPy's are.
        cached : bool
            Take the answer from the store where it keeps one; without it everything is measured again, and kept.
        workers : int, optional
            Threads; one a core without it.
        client : distributed.Client, optional
            A cluster to run on; the active client without it, if there is one.
        progress : callable, optional
            Called with chips done and in all.

        Returns
        -------
        Stats
            ``to_dict()`` gives plain values, ``plot("out.png")`` draws them.

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
            whole=self._whole,
            cached=cached,
            workers=workers,
            client=client,
            progress=progress,
        )
