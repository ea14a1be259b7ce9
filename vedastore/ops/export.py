"""A version, or some samples of it, becomes a release: members in order, images rebuilt, one deterministic archive."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import UsageError
from vedastore.exchange.release import ReleaseWriter
from vedastore.io.deflate import DEFAULT_LEVEL, LEVELS
from vedastore.io.files import new_target
from vedastore.ops.excerpt import Rewritten, plan_excerpt
from vedastore.ops.rebuild import iter_rebuilt, iter_sections
from vedastore.ops.select import require_samples
from vedastore.ops.shipment import iter_shipped
from vedastore.ops.workers import count_workers, find_client, is_local, open_executor
from vedastore.spec.places import check_options, parse_place
from vedastore.spec.release import import_request
from vedastore.store.snapshot import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from vedastore.ops.rebuild import Outcome, Rebuilt
    from vedastore.spec.places import Place
    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot

_SUFFIXES: Final = {".tar.gz": True, ".tgz": True, ".tar": False}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    ``identical`` members have the bytes that were converted; ``equivalent`` ones are images with the same pixels, tags
    and layout; ``rewritten`` ones are not as they were converted, because only some samples were exported: each has its
    ``member`` and the ``reason``. ``left_out`` counts other members that belong to samples which are not there.
    ``request`` is the body of a bulk-import request, for an export that is for import.
    """

    dest: str
    version: str
    samples: int
    members: int
    identical: int
    equivalent: int
    bytes: int
    rewritten: tuple[Rewritten, ...] = ()
    left_out: int = 0
    request: dict[str, Any] | None = None


def export(
    snapshot: Snapshot,
    dest: str | os.PathLike[str],
    *,
    positions: Positions | None = None,
    for_import: bool = False,
    overwrite: bool = False,
    level: int | None = None,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a version as ``.tar.gz``, ``.tgz`` or ``.tar``; ``progress`` is called with members done and in all.

    Parameters
    ----------
    positions : array of int, optional
        Those of the samples that it is to have, in any order; all of them without it.
    level : int, optional
        How hard to compress. 1 and 2 (the default) are fast; 3 to 9 are the levels of gzip, ten times as slow, for an
        archive that is a few percent smaller.

    Raises
    ------
    UsageError
        For a target in the store or of another kind, for a level that is none, or of a ``.tar``, and for no samples.
    ConflictError
        When the target exists.
    StoreError
        When the store is damaged, or the target cannot be written.
    """
    check_options(storage_options, dest)
    place = parse_place(dest, storage_options or snapshot.objects.options)
    compress = _check_target(snapshot, place, level)
    positions = None if positions is None else _parse_positions(snapshot, positions)
    samples = snapshot.version.samples if positions is None else len(positions)
    counts: Counter[Outcome] = Counter()
    with ExitStack() as stack:
        file = stack.enter_context(new_target(place, overwrite=overwrite))
        excerpt = None if for_import else plan_excerpt(snapshot, positions)
        kept = snapshot.version.index["members"].rows if excerpt is None else int(excerpt.stays.sum())
        total = 2 * samples + (0 if for_import else kept)
        others = excerpt.iter_members() if excerpt else iter(()) if for_import else None
        executor = stack.enter_context(open_executor(workers, client))
        deflaters = stack.enter_context(ThreadPoolExecutor(count_workers(workers), thread_name_prefix="vedastore-gzip"))
        level = (level or DEFAULT_LEVEL) if compress else None
        writer = ReleaseWriter(file, compress=compress, executor=deflaters, level=level or DEFAULT_LEVEL)
        sections = iter_sections(snapshot, positions, others)
        if is_local(executor):
            written = _iter_written(iter_rebuilt(snapshot, executor, sections), writer)
        else:
            written = iter_shipped(find_client(client), snapshot, sections, writer, file=file, level=level)
        for done, outcome in enumerate(written, 1):
            counts[outcome] += 1
            if progress:
                progress(done, total)
        writer.close()
        size = file.tell()
    rewritten = () if excerpt is None else excerpt.rewritten
    return ExportReport(
        dest=os.fspath(dest),
        version=snapshot.version.version,
        samples=samples,
        members=counts.total(),
        identical=counts["identical"] - len(rewritten),
        equivalent=counts["equivalent"],
        bytes=size,
        rewritten=rewritten,
        left_out=0 if excerpt is None else len(excerpt.stays) - kept,
        request=_request(snapshot, positions, place) if for_import else None,
    )


def _iter_written(batches: Iterable[tuple[list[Rebuilt], bool]], writer: ReleaseWriter) -> Iterator[Outcome]:
    """Write what threads have rebuilt; yield the outcome of every member."""
    for members, ends in batches:
        for member in members:
            if member.problem is not None:
                raise member.problem
            writer.add(member.member, member.data, is_dir=member.kind == "directory")
            yield member.outcome
        if ends:
            writer.cut()


def _check_target(snapshot: Snapshot, place: Place, level: int | None) -> bool:
    """Refuse a target that makes no sense; tell whether it is to be compressed."""
    store, dest = snapshot.objects.url, str(place)
    compress = _is_compressed(dest)
    if level is not None and not (compress and level in LEVELS):
        what = f"no level of compression is {level}" if compress else "a .tar is not compressed, at no level"
        raise UsageError(what, where=dest, hint=f"levels of a .tar.gz go from {LEVELS[0]} to {LEVELS[-1]}")
    inside = Path(store).resolve() in Path(dest).resolve().parents
    if dest.startswith(f"{store}/") if place.bucket else inside:
        raise UsageError("the target lies in the store", where=dest, hint="choose a place outside of it")
    return compress


def _parse_positions(snapshot: Snapshot, positions: Positions) -> Positions | None:
    """Return positions in the order of the store; None for all of them."""
    require_samples(snapshot, positions)
    return np.sort(positions) if len(positions) < snapshot.version.samples else None


def _is_compressed(dest: str) -> bool:
    for suffix, compress in _SUFFIXES.items():
        if dest.lower().endswith(suffix):
            return compress
    raise UsageError("the target is no archive", where=dest, hint=f"let its name end in {', '.join(_SUFFIXES)}")


def _request(snapshot: Snapshot, positions: Positions | None, target: Place) -> dict[str, Any]:
    version = snapshot.version
    counts = {name: bucket.rows for name, bucket in version.buckets.items()}
    if positions is not None:
        counts = Counter(snapshot.table("samples").read_rows(positions, ["bucket"]).column(0).to_pylist())
    largest = version.buckets[max(version.buckets, key=lambda name: counts[name])]
    meta = snapshot.read_member("meta")
    place = "" if meta is None else f"{snapshot.objects.url}: {meta.member}"
    options = version.source.get("options", {}).get("labels", {})
    return import_request(
        name=version.name,
        task=version.task,
        dtype=largest.spec.dtype,
        shape=largest.spec.shape,
        meta=None if meta is None else read_json(meta.data, place, version.limits),
        options=options,
        archive=target.name if target.bucket is None else str(target),
    )
