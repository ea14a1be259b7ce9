"""The ways to a collection: open a store, or convert a release to one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from vedastore.io.objects import open_objects
from vedastore.model import DEFAULT_LIMITS, LabelOptions
from vedastore.ops import clean as clean_op
from vedastore.ops import convert as convert_op
from vedastore.ops import repair as repair_op
from vedastore.ops.options import ConvertOptions
from vedastore.spec.places import check_options
from vedastore.store.snapshot import Snapshot, open_snapshot
from vedastore.views.collection import Collection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vedastore.model import Limits, Task
    from vedastore.ops.clean import CleanReport
    from vedastore.ops.verify import VerifyReport


def open(
    store: str | os.PathLike[str], version: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Collection:
    """Open a store at a version, the latest without a name.

    Parameters
    ----------
    store : path
    version : str, optional
    storage_options : mapping, optional
        What s3fs takes for ``s3://``: ``key``, ``secret``, ``anon``, ``endpoint_url``, ``requester_pays`` ... Without
        them the standard AWS environment counts. Refused for local paths.

    Raises
    ------
    StoreError
        When there is no store, or its root document is damaged.
    UsageError
        When there is no such version, or the place cannot be read by this version of vedastore.
    """
    check_options(storage_options, store)
    return Collection(open_snapshot(store, version, storage_options))


def clean(
    store: str | os.PathLike[str],
    *,
    grace_days: float = clean_op.GRACE_DAYS,
    dry_run: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> CleanReport:
    """Remove the objects of a store that no version names: of versions that were replaced, of writers that died.

    Whoever reads a version that an overwrite has replaced still needs its objects, and whoever writes a version has
    objects that none names yet. So nothing goes before the grace period is over: neither an object that was written
    since, nor any at all where the store itself has changed since. What is none of a store's is left alone.

    Parameters
    ----------
    store : path
    grace_days : float
        Longer than any conversion and any reader takes; 0 where nobody reads or writes.
    dry_run : bool
        Only tell what would be removed.
    storage_options : mapping, optional
        As in :func:`open`.

    Returns
    -------
    CleanReport
        ``removed`` objects and their ``bytes``; how many are ``waiting`` for the end of the grace period, and how many
        are ``foreign``.

    Raises
    ------
    UsageError
        When the grace period is no number of days.
    StoreError
        When there is no store, or something cannot be removed.
    ConflictError
        When the store changes all the time.
    """
    check_options(storage_options, store)
    return clean_op.clean(store, grace_days=grace_days, dry_run=dry_run, storage_options=storage_options)


def repair(
    store: str | os.PathLike[str],
    *,
    version: str | None = None,
    root: str | None = None,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Make again what can be made of a damaged store, and verify it.

    A root document that is lost or damaged comes back from its copy, metadata of groups and arrays from the root
    document, and statistics are measured again. Nothing else is touched: what is wrong with pixels, labels and tables
    stays a problem of the report. Repair while nobody writes.

    Parameters
    ----------
    store : path
    version : str, optional
        The version that is verified, the latest without it.
    root : str, optional
        Id of the write whose copy of the root document is taken, where several may be the last.
    workers, client, progress : optional
        As in :meth:`Collection.verify`.
    storage_options : mapping, optional
        As in :func:`open`.

    Returns
    -------
    VerifyReport
        As of :meth:`Collection.verify`; ``repaired`` tells what was made again.

    Raises
    ------
    StoreError
        When the root document cannot be restored: there is no copy that is whole, or several may be the last.
    UsageError
        When there is no copy of that write, or ``root`` is given and the root document is sound.
    ConflictError
        When a writer was first.
    """
    check_options(storage_options, store)
    return repair_op.repair(
        open_objects(store, storage_options),
        version=version,
        write_id=root,
        workers=workers,
        client=client,
        progress=progress,
    )


def convert(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    mode: Literal["create", "overwrite", "append"] = "create",
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
    """Convert a release to a store, and open it; where the same conversion was killed, go on with what it stored.

    Parameters
    ----------
    source : path, or list of paths
        A ``.tar.gz``, ``.tgz`` or ``.tar``, also ``s3://``, or an extracted directory. Several releases of one
        collection become versions of one store, in their order.
    store : path
        The store's directory, or ``s3://bucket/prefix``.
    mode : {"create", "overwrite", "append"}
        Whether a store that is there already is a conflict, is replaced, or gets a version more. Images that any of its
        versions has are not stored again; splits and added columns stay with the samples that keep their ids.
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
        How many work at a time, one a core without it: threads; of a large directory or plain tar processes, which
        share no lock.
    client : distributed.Client, optional
        A cluster to run on; the active client without it, if there is one. A Dask task does the work by itself.
    progress : callable, optional
        Called with the bytes of the archive that were read, and its size.
    storage_options : mapping, optional
        As in :func:`open`, for the source and the store; refused where both are local.

    Raises
    ------
    ReleaseError
        When the release is refused; no store is visible then, and the source is as it was.
    ConflictError
        When the target exists, or another writer was first; when the store has a version of that name.
    UsageError
        When the release is of another collection than the store it is to be added to, or of another task.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    check_options(storage_options, *sources, store)
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
    *_, report = convert_op.convert_all(
        sources, store, options, workers=workers, client=client, progress=progress, storage_options=storage_options
    )
    return Collection(Snapshot(open_objects(store, storage_options), report.root, report.version))
