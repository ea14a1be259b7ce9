"""A release becomes a store: one pass over its bytes, shards as they fill, rows at the end, one commit."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import UsageError, VedastoreError
from vedastore.exchange.release import ReleaseReader
from vedastore.io.files import scratch_errors
from vedastore.io.objects import open_objects
from vedastore.ops.crews import open_crew
from vedastore.ops.decisions import Refusals, decide
from vedastore.ops.index import write_index
from vedastore.ops.intake import Intake
from vedastore.ops.resume import fingerprint, with_known
from vedastore.ops.roll import Roll, read_batch
from vedastore.ops.workers import batched_bytes, in_task, map_ordered
from vedastore.spec import arrays, keys
from vedastore.spec.places import parse_place
from vedastore.spec.root import Bucket, Root, Version, dump_json
from vedastore.store.commit import Write
from vedastore.store.known import KnownChips
from vedastore.store.ledger import Ledger
from vedastore.store.revision import check_name
from vedastore.store.snapshot import open_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vedastore.ops.decisions import Decisions
    from vedastore.ops.options import ConvertOptions
    from vedastore.spec.places import Place
    from vedastore.store.snapshot import Snapshot

BATCH_BYTES: Final = 2 * 2**20
BATCH_MEMBERS: Final = 64
MEMBER_BYTES: Final = 1024
"""What a member costs besides its data: even empty ones are not read without bound."""


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did.

    The store's place, the version that it committed and the root document that names it, the members that are no
    pair's; how many ids the release has, and how many of them were left out (the version names the first thousand
    itself); how many images were taken over from a conversion that was interrupted.
    """

    store: str
    version: Version
    root: Root
    kept_members: tuple[str, ...]
    read: int
    skipped: int
    resumed: int


def convert_all(
    sources: Sequence[str | os.PathLike[str]], store: str | os.PathLike[str], options: ConvertOptions, **how: Any
) -> Iterator[ConvertReport]:
    """Convert several releases of one collection, each to a version of one store, in their order.

    Each is a commit of its own: where one is refused, those before it stay, and the error says how many.
    """
    if not sources:
        raise UsageError("there is no source", hint="name a release")
    if len(sources) > 1 and options.version is not None:
        raise UsageError("one name of a version is given to several releases", hint="leave version= or --version out")
    if len({os.fspath(source) for source in sources}) < len(sources):
        raise UsageError("a release is named twice", hint="name each once, in the order of their versions")
    for number, source in enumerate(sources):
        try:
            yield convert(source, store, replace(options, mode="append") if number else options, **how)
        except VedastoreError as error:
            if not number:
                raise
            told = f"{error.message}; {number} of {len(sources)} releases are versions by now"
            raise type(error)(told, where=error.where, hint=error.hint, rule=error.rule) from error


def convert(
    source: str | os.PathLike[str],
    store: str | os.PathLike[str],
    options: ConvertOptions,
    *,
    workers: int | None = None,
    client: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ConvertReport:
    """Convert one release; nothing is visible in the store before all of it has been read and checked.

    ``progress`` is called with the bytes of the archive that were read, and its size.
    """
    alone = workers is None and client is None and in_task()
    reader = ReleaseReader(source, progress, options.limits, storage_options, alone=alone, hashed=True)
    _refuse_nesting(reader.place, parse_place(store))
    objects = open_objects(store, storage_options)
    parent = open_version(objects) if options.mode == "append" else None
    check_name(options.version, parent)
    known = None if parent is None else KnownChips(objects, parent.root)
    write = Write(
        objects,
        overwrite=options.mode == "overwrite",
        onto=None if parent is None else parent.root,
        fingerprint=fingerprint(reader, options),
    )
    with reader, write, scratch_errors(), Ledger() as ledger, write.open_journal() as journal:
        refusals = Refusals()
        roll = Roll(ledger, options, reader.where, refusals)
        with (
            open_crew(workers, client, at_home=known is not None) as crew,
            closing(reader.iter_files() if crew.local else reader.iter_members()) as found,
            Intake(write, roll, crew, known) as intake,
        ):
            members = ((member, member.size_bytes + MEMBER_BYTES) for member in with_known(found, journal))
            batches = batched_bytes(members, BATCH_BYTES, BATCH_MEMBERS)
            read = partial(read_batch, options=options, where=reader.where, known=known if crew.local else None)
            intake.take_all(map_ordered(crew, read, batches, crew.in_flight_bytes))
            intake.seal()
            decisions = decide(ledger, options, reader.where, refusals)
            if parent is not None:
                _require_same(parent, decisions, options, reader.where)
            version = write_index(write, ledger, decisions, intake, options=options, reader=reader, parent=parent)
            buckets = intake.finish()
        write_metadata(write, buckets)
        root = write.commit(version)
        kept = tuple(name for _, name, kind, _ in ledger.iter_members() if kind == "unknown")
        skipped = ledger.count_rejected()
    return ConvertReport(write.objects.url, version, root, kept, decisions.read, skipped, intake.resumed)


def _refuse_nesting(source: Place, store: Place) -> None:
    """Refuse a store inside the release that is read: the source is never touched."""
    if source.bucket is None and store.bucket is None:
        release, target = Path(source.path).resolve(), Path(store.path).resolve()
        inside = release.is_dir() and release in (target, *target.parents)
    else:
        inside = source.bucket == store.bucket and f"{store.path}/".startswith(f"{source.path}/")
    if inside:
        raise UsageError("the store lies in the release", where=str(store), hint="choose a place outside of it")


def _require_same(parent: Snapshot, decisions: Decisions, options: ConvertOptions, where: str) -> None:
    """Refuse a release of another collection: a store holds the versions of one."""
    version, name = parent.version, decisions.meta.name
    if decisions.task != version.task:
        raise UsageError(f"the release is for {decisions.task}, the store for {version.task}", where=where)
    if options.name is None and name is not None and name != version.name:
        hint = "convert it to a store of its own; or say with name= or --name what both are"
        raise UsageError(f"the release is of {name!r}, the store of {version.name!r}", where=where, hint=hint)


def write_metadata(write: Write, buckets: dict[str, Bucket]) -> None:
    """Write the Zarr metadata of every group and array below the root."""
    write.put(keys.chips_metadata(), [dump_json(arrays.group_metadata())])
    for name, bucket in buckets.items():
        for key, document in arrays.bucket_documents(name, bucket.spec, bucket.rows).items():
            write.put(key, [dump_json(document)])
