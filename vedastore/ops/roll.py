"""The halves of a release as they come from the workers, and the roll that admits each id once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from vedastore.errors import PairError, ReleaseError, escape
from vedastore.exchange.release import read_image, read_label
from vedastore.io.member import Member, Unread
from vedastore.ops.resume import Known, prove
from vedastore.spec import release as rules
from vedastore.spec.arrays import ChipSpec
from vedastore.store.ledger import Half, LabelRow
from vedastore.store.shards import Here, encode_chip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vedastore.model import ImageHalf
    from vedastore.ops.decisions import Refusals
    from vedastore.ops.options import ConvertOptions
    from vedastore.spec.release import MemberRole
    from vedastore.store.known import KnownChips
    from vedastore.store.ledger import Ledger
    from vedastore.store.shards import Chunks


class Encoded(NamedTuple):
    """An image whose pixels are inner chunks by now; without chunks where nobody will store them, or somebody has.

    ``origin`` is the shard of an interrupted conversion that has these chunks already, and where they begin in it.
    """

    half: ImageHalf
    spec: ChipSpec
    chunks: Chunks
    origin: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A member that is no half of a pair."""

    member: Member
    role: MemberRole


@dataclass(frozen=True, slots=True)
class Rejected:
    """A half that was left out, and why."""

    half: Half
    error: ReleaseError


_FOLDERS: Final = 8
"""A release has two; there are as many ways to write their names as a stranger likes."""
Outcome = Encoded | LabelRow | Other | Rejected


def read_batch(
    members: Sequence[Member | Unread | Known],
    options: ConvertOptions,
    where: str,
    *,
    encode: bool = True,
    known: KnownChips | None = None,
) -> list[Outcome]:
    """Do what a worker does with some members: read, decode, hash, and encode what is to be stored.

    The chips of files that are ``known`` are stored already.
    """
    outcomes: list[Outcome] = []
    for offered in members:
        listed, kept = (offered.member, offered.kept) if isinstance(offered, Known) else (offered, None)
        member = listed.read(where) if isinstance(listed, Unread) else listed
        role = rules.classify(member.name, is_dir=member.is_dir)
        place = f"{where}: {member.name}"
        try:
            if kept is not None and (proved := prove(kept, member, options)):
                outcomes.append(Encoded(*proved, origin=(kept.key, kept.start)))
            elif role.kind == "image":
                half, pixels = read_image(member, role, place, options.limits)
                spec = ChipSpec.of(pixels, options.codec)
                is_new = encode and not (known and known.has_file(half.digest))
                outcomes.append(Encoded(half, spec, encode_chip(pixels, spec) if is_new else Here()))
            elif role.kind == "label":
                outcomes.append(LabelRow.of(read_label(member, role, options.labels, place, options.limits)))
            else:
                outcomes.append(Other(member, role))
        except ReleaseError as error:
            if options.on_error == "raise":
                raise
            kind: Literal["image", "label"] = "image" if role.kind == "image" else "label"
            outcomes.append(Rejected(Half(role.id, kind, member.name, member.ordinal), error.alone()))
    return outcomes


class Roll:
    """Enters halves and other members in the ledger; refuses or rejects an id that is taken."""

    def __init__(self, ledger: Ledger, options: ConvertOptions, where: str, refusals: Refusals) -> None:
        self._ledger, self._options, self._where, self._refusals = ledger, options, where, refusals
        self._top: tuple[str, str] | None = None
        self._folders: set[str] = set()
        self._refused_top = False

    def add_image(self, half: ImageHalf, bucket: str, row: int) -> bool:
        """Enter an image whose pixels go to a row of a bucket; False where its id is taken."""
        self._check_top(half.member)
        taken = self._ledger.add_image(half, bucket, row)
        if taken is not None:
            self._refuse(Half(half.id, "image", half.member, half.ordinal), taken)
        return taken is None

    def dump_images(self, ids: Sequence[str], most: int) -> str | None:
        """Return images that were entered, as JSON; None where that is longer than ``most``."""
        return self._ledger.dump_images(ids, most)

    def add(self, outcome: LabelRow | Other | Rejected) -> None:
        """Enter anything else."""
        match outcome:
            case LabelRow():
                self._check_top(outcome.label_member)
                taken = self._ledger.add_label(outcome)
                if taken is not None:
                    self._refuse(Half(outcome.id, "label", outcome.label_member, outcome.label_ordinal), taken)
            case Other(member, role):
                self._ledger.add_member(member.ordinal, member.name, role.kind, member.data)
            case Rejected(rejected, error):
                place = (error.where or "").removeprefix(f"{self._where}: {escape(rejected.member)}").removeprefix(": ")
                reason = f"{place}: {error.message}" if place else error.message
                self._ledger.reject(rejected, reason, error.rule or "release-refused")

    def _refuse(self, half: Half, taken: str) -> None:
        """Refuse or reject a half whose id another member has taken."""
        message = f"the id {half.id!r} has two files: {taken} and {half.member}"
        error = PairError(message, where=self._where, rule="pair-twice")
        if self._options.on_error == "raise":
            raise error
        self._ledger.reject(half, error.message, "pair-twice")

    def _check_top(self, member: str) -> None:
        folder = member.rpartition("/")[0]
        if self._refused_top or folder in self._folders:  # all halves in one folder are of one release
            return
        if len(self._folders) < _FOLDERS:
            self._folders.add(folder)
        top = rules.classify(member).top
        if self._top is None:
            self._top = top, member
        elif self._top[0] != top:
            self._refused_top = True
            message = f"there are two releases in one archive: {self._top[1]} and {member}"
            self._refusals.add(PairError(message, where=self._where, hint="convert each by itself", rule="release-two"))
