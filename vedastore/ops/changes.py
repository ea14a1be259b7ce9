"""What edits change, read as a conversion reads a release: labels that are others, samples that are new."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import StoreError, UsageError
from vedastore.io.archive import name_fault
from vedastore.io.member import Member
from vedastore.ops.crew import Crew
from vedastore.ops.decisions import Refusals
from vedastore.ops.intake import Intake
from vedastore.ops.options import ConvertOptions
from vedastore.ops.rebuild import rebuild
from vedastore.ops.roll import Encoded, Roll, read_batch
from vedastore.ops.workers import batched_bytes, map_ordered, open_threads
from vedastore.spec.release import classify
from vedastore.store.known import KnownChips
from vedastore.store.ledger import LabelRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vedastore.model import ImageHalf
    from vedastore.spec.root import Bucket, Version
    from vedastore.store.commit import Write
    from vedastore.store.ledger import Ledger
    from vedastore.store.snapshot import Snapshot

_BATCH_BYTES: Final = 4 * 2**20
_BATCH_SAMPLES: Final = 64


@dataclass(frozen=True, slots=True)
class Edits:
    """What is to be changed.

    Attributes
    ----------
    labels : dict of bytes
        Label files by id of samples that have others.
    removed : tuple of str
        Ids of samples that go.
    added : dict of (bytes, bytes)
        Image file and label file by id of samples that come.
    splits : dict of str or None
        Splits by id of samples that get others.
    meta : bytes, optional
        Another ``meta.json``.
    name, version : str, optional
        What the collection is called from now on, and the version; else both follow from what they were.
    author, message : str, optional
        Who makes the change, and why.
    """

    labels: Mapping[str, bytes] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    added: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    splits: Mapping[str, str | None] = field(default_factory=dict)
    meta: bytes | None = None
    name: str | None = None
    version: str | None = None
    author: str | None = None
    message: str | None = None

    @property
    def touched(self) -> list[str]:
        """Ids of samples that are there and change."""
        return [*dict.fromkeys([*self.labels, *self.removed, *self.splits])]


def find(snapshot: Snapshot, ids: Sequence[str]) -> Any:
    """Return the positions of samples by id; -1 where there is none."""
    return snapshot.lookup.find_many(ids) if ids else np.empty(0, "i8")


def read_changes(
    write: Write, base: Snapshot, ledger: Ledger, edits: Edits, workers: int | None
) -> tuple[dict[str, Bucket], set[str]]:
    """Read what changes into the ledger, and write the chips that are new.

    Returns
    -------
    (dict, set)
        The buckets that were written, and names of others that have chips of added samples already.
    """
    options, where = label_options(base.version), base.objects.url
    roll = Roll(ledger, options, where, Refusals())
    known = KnownChips(base.objects, base.root, few=True) if edits.added else None
    changed = np.setdiff1d(find(base, edits.touched), find(base, edits.removed))
    with open_threads(workers) as executor, Crew(executor) as crew, Intake(write, roll, crew, known) as intake:
        read = partial(_read_changed, base, edits.labels, options)
        for items in map_ordered(
            executor,
            read,
            batched_bytes(((position, 1) for position in changed.tolist()), _BATCH_SAMPLES, _BATCH_SAMPLES),
        ):
            for image, place, label in items:
                roll.add_image(image, *place)
                roll.add(label)
        members = ((member, len(member.data)) for member in _added_members(base, edits))
        work = partial(read_batch, options=options, where=where, known=known)
        intake.take_all(map_ordered(executor, work, batched_bytes(members, _BATCH_BYTES, _BATCH_SAMPLES)))
        return intake.finish(), intake.reused


def label_options(version: Version) -> ConvertOptions:
    """Return how labels of a version are read."""
    return ConvertOptions(
        label_coords=version.label_coords or "auto",
        labels=version.label_options,
        task=version.task,
        limits=version.limits,
    )


def _read_changed(
    base: Snapshot, labels: Mapping[str, bytes], options: ConvertOptions, positions: Sequence[int]
) -> list[tuple[ImageHalf, tuple[str, int], LabelRow]]:
    """Read samples as a conversion does: their images as they were, their labels as they are to be."""
    where = base.objects.url
    images = base.read_images(positions)
    files = base.table("samples").take(positions, ("label", "label_member", "label_ordinal"))
    found = []
    for image, file, data in zip(images, files, rebuild(base, images), strict=True):
        if data.problem is not None:
            raise data.problem
        stored = Member(image.member, data.data, image.ordinal, is_dir=False)
        (read,) = read_batch([stored], options, where, encode=False)
        if not isinstance(read, Encoded):
            raise StoreError("the index is damaged: an image has the name of another member", where=where)
        half = read.half._replace(
            digest=image.digest, fidelity=image.fidelity, envelope=image.envelope,
            pixel_digest=image.pixel_digest or read.half.pixel_digest,
        )  # fmt: skip
        text = labels.get(image.id, file["label"])
        (label,) = read_batch([Member(file["label_member"], text, file["label_ordinal"], is_dir=False)], options, where)
        if not isinstance(label, LabelRow):
            raise StoreError("the index is damaged: a label has the name of another member", where=where)
        found.append((half, (image.bucket, image.row), label))
    return found


def _added_members(base: Snapshot, edits: Edits) -> Iterator[Member]:
    """Yield the files of samples that are added, behind all members that there are."""
    top = f"{base.top}/" if base.top else ""
    ordinal = count(next_ordinal(base)) if edits.added else count()
    for sample_id, (image, label) in edits.added.items():
        for name, data in ((f"{top}images/{sample_id}.tif", image), (f"{top}labels/{sample_id}.json", label)):
            role = classify(name)
            if name_fault(name) or role.kind not in {"image", "label"} or role.id != sample_id:
                raise UsageError(f"{sample_id!r} cannot be the name of a file", hint="give the sample another id")
            yield Member(name, data, next(ordinal), is_dir=False)


def next_ordinal(base: Snapshot) -> int:
    """Return the first place in the release that no member has."""
    samples = base.table("samples").read(["image_ordinal", "label_ordinal"])
    columns = [*samples.columns, base.table("members").read(["ordinal"]).column(0)]
    return 1 + max((int(column.to_numpy().max()) for column in columns if len(column)), default=-1)
