"""What a collection is as arrays and figures: pixels and labels on Dask, batches, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vedastore.ops.stats import PERCENTILES, Stats
from vedastore.ops.stats import stats as measure
from vedastore.views.batches import iter_batches
from vedastore.views.dataset import build_dataset, mask_array
from vedastore.views.labels import hot_array
from vedastore.views.objects import Boxes, require_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import xarray as xr

    from vedastore.store.snapshot import Snapshot
    from vedastore.views.batches import Batch


class Arrays:
    """The samples of a snapshot at some positions, as arrays."""

    _snapshot: Snapshot
    if TYPE_CHECKING:

        @property
        def _positions(self) -> Any:
            """The positions of all samples as an array."""

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
        labels: Literal["auto", "classes", "masks", "boxes"] = "auto",
        skip: int = 0,
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
            Take the samples of this split only; of none where it is an empty text.
        workers : int, optional
            Threads; one for each core that this process may use without it.
        bucket : str, optional
            Take the samples of this shape and type only; a collection of several asks for it.
        labels : {"auto", "classes", "masks", "boxes"}
            ``"classes"`` gives an array (sample, class), ``"masks"`` one (sample, y, x) as :meth:`masks` draws it,
            ``"boxes"`` a list of what :meth:`boxes` gives for each sample.
        skip : int
            Leave out the first so many batches: training that was stopped goes on where it was, with the same samples.

        Returns
        -------
        iterator of (images, labels)
            ``images`` is an array (sample, band, y, x) of the bucket's type, yours to change. Chips of 2 to 4 bands of
            8 bits have the bands last in memory; ``torch.from_numpy`` takes them as they are. Without another choice,
            ``labels`` is an array (sample, class) of uint8 for classification, 1 where a sample has a class; for the
            other tasks it is a sequence of what ``Sample.label`` gives, each parsed when it is asked for.

        Raises
        ------
        UsageError
            When there is no such split or sample, or they are of several shapes or types and no bucket is named.
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
            labels=labels,
            skip=skip,
        )

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
