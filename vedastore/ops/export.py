"""A version becomes a release again: members in their order, image files rebuilt, one deterministic archive."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import UsageError
from vedastore.exchange.release import ReleaseWriter
from vedastore.io.deflate import DEFAULT_LEVEL, LEVELS
from vedastore.io.files import new_file
from vedastore.ops.rebuild import iter_rebuilt
from vedastore.ops.workers import count_workers, open_executor
from vedastore.spec.places import local_path
from vedastore.spec.release import import_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from vedastore.store.snapshot import Snapshot

_SUFFIXES: Final = {".tar.gz": True, ".tgz": True, ".tar": False}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    ``identical`` members have the bytes that were converted; ``equivalent`` ones are images with the same pixels, tags
    and layout. ``request`` is the body of a bulk-import request, for an export that is for import.
    """

    dest: str
    version: str
    samples: int
    members: int
    identical: int
    equivalent: int
    bytes: int
    request: dict[str, Any] | None = None


def export(
    snapshot: Snapshot,
    dest: str | os.PathLike[str],
    *,
    for_import: bool = False,
    overwrite: bool = False,
    level: int | None = None,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ExportReport:
    """Write a version as ``.tar.gz``, ``.tgz`` or ``.tar``; ``progress`` is called with members done and in all.

    Parameters
    ----------
    level : int, optional
        How hard to compress. 1 and 2 (the default) are fast; 3 to 9 are the levels of gzip, ten times as slow, for an
        archive that is a few percent smaller.

    Raises
    ------
    UsageError
        For a target in the store or of another kind, and for a level that is none, or of a ``.tar``.
    ConflictError
        When the target exists.
    StoreError
        When the store is damaged, or the target cannot be written.
    """
    compress = _is_compressed(os.fspath(dest))
    if level is not None and not (compress and level in LEVELS):
        what = f"no level of compression is {level}" if compress else "a .tar is not compressed, at no level"
        raise UsageError(what, where=os.fspath(dest), hint=f"levels of a .tar.gz go from {LEVELS[0]} to {LEVELS[-1]}")
    if Path(snapshot.objects.url).resolve() in Path(local_path(dest)).resolve().parents:
        raise UsageError("the target lies in the store", where=os.fspath(dest), hint="choose a place outside of it")
    total = 2 * snapshot.version.samples + (0 if for_import else snapshot.version.index["members"].rows)
    counts = {"identical": 0, "equivalent": 0}
    done = 0
    with ExitStack() as stack:
        file = stack.enter_context(new_file(dest, overwrite=overwrite))
        executor = stack.enter_context(open_executor(workers, client))
        deflaters = stack.enter_context(ThreadPoolExecutor(count_workers(workers), thread_name_prefix="vedastore-gzip"))
        writer = ReleaseWriter(file, compress=compress, executor=deflaters, level=level or DEFAULT_LEVEL)
        for member in iter_rebuilt(snapshot, executor, only_pairs=for_import):
            if member.outcome == "damaged" and member.problem is not None:
                raise member.problem
            writer.add(member.member, member.data, is_dir=member.kind == "directory")
            counts[member.outcome] += 1
            done += 1
            if progress:
                progress(done, total)
        writer.close()
        size = file.tell()
    return ExportReport(
        dest=os.fspath(dest),
        version=snapshot.version.version,
        samples=snapshot.version.samples,
        members=done,
        bytes=size,
        request=_request(snapshot, os.fspath(dest)) if for_import else None,
        **counts,
    )


def _is_compressed(dest: str) -> bool:
    for suffix, compress in _SUFFIXES.items():
        if dest.lower().endswith(suffix):
            return compress
    raise UsageError("the target is no archive", where=dest, hint=f"let its name end in {', '.join(_SUFFIXES)}")


def _request(snapshot: Snapshot, dest: str) -> dict[str, Any]:
    version = snapshot.version
    largest = max(version.buckets.values(), key=lambda b: b.rows)
    meta = snapshot.read_member("meta")
    options = version.source.get("options", {}).get("labels", {})
    return import_request(
        name=version.name,
        task=version.task,
        dtype=largest.spec.dtype,
        shape=largest.spec.shape,
        meta=None if meta is None else meta.data,
        options=options,
        archive=Path(dest).name,
    )
