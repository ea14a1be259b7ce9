"""What becomes of a release's other members where some of its samples are left out: a plan, and the members by it.

``meta.json`` and ``bounds.geojson`` are made true for the samples that stay. A member that belongs to a sample shares
its fate; all others go along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vedastore.errors import ReleaseError, StoreError
from vedastore.io import geometry
from vedastore.io.geojson import iter_feature_spans
from vedastore.ops.select import find_bounds
from vedastore.spec import excerpt as rules
from vedastore.spec.release import parse_bounds
from vedastore.spec.repairs import footprint_feature
from vedastore.store.columns import arrow_array
from vedastore.store.snapshot import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vedastore.spec.lonlat import Bbox
    from vedastore.store.lookup import Positions
    from vedastore.store.snapshot import Snapshot, StoredFile

_TOGETHER: Final = 4096
_SAME_DEGREES: Final = 1e-6
"""How far a feature may lie off a footprint that it is the one of: a tenth of a metre."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A member that is not as it was converted, and why."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The other members of a smaller release.

    Attributes
    ----------
    stays : array of bool
        Which members of the version go along.
    data : dict
        By the place of a member among all of them, the bytes that it gets.
    rewritten : tuple of Rewritten
        What these are.
    """

    snapshot: Snapshot
    stays: Any
    data: dict[int, bytes]
    rewritten: tuple[Rewritten, ...]

    def iter_members(self) -> Iterator[StoredFile]:
        """Yield the members that go along, in the order that they had in the release."""
        for place, (member, stays) in enumerate(zip(self.snapshot.iter_members(), self.stays, strict=True)):
            if stays:
                yield replace(member, data=self.data.get(place, member.data))


@dataclass(frozen=True, slots=True)
class _Features:
    """The features of ``bounds.geojson``: where each begins and ends (n, 2), its id, and the box around it (n, 4)."""

    spans: Any
    ids: list[Any]
    boxes: Any


def is_edited(snapshot: Snapshot) -> bool:
    """Tell whether the samples of a version are others than those of the release that it came from."""
    return bool(snapshot.version.source.get("edits"))


def export_members(snapshot: Snapshot) -> Iterator[StoredFile]:
    """Yield the members besides images and labels that an export of a version has."""
    excerpt = plan_excerpt(snapshot, None)
    return snapshot.iter_members() if excerpt is None else excerpt.iter_members()


def plan_excerpt(snapshot: Snapshot, positions: Positions | None) -> Excerpt | None:
    """Decide what the members besides images and labels become where only the samples at some positions stay.

    Without positions all samples do, and None is returned unless they were edited: members are as they were then.

    Raises
    ------
    StoreError
        When ``meta.json`` or the index is damaged.
    """
    if positions is None:
        if not is_edited(snapshot):
            return None
        positions = np.arange(snapshot.version.samples)
    box = find_bounds(snapshot, positions)
    if box is not None and not np.isfinite(box).all():
        raise StoreError("the index has footprints without a place", where=snapshot.objects.url)
    data: dict[int, bytes] = {}
    rewritten = []
    for place, member in enumerate(snapshot.iter_members()):
        if member.kind not in {"meta", "bounds"}:
            continue
        cut = _cut_meta if member.kind == "meta" else _cut_bounds
        changed, reason = cut(snapshot, positions, member, box)
        if changed != member.data:
            data[place] = changed
            rewritten.append(Rewritten(member.member, reason))
    return Excerpt(snapshot, ~left_out(snapshot, positions), data, tuple(rewritten))


def _cut_meta(snapshot: Snapshot, _: Positions, member: StoredFile, box: Bbox | None) -> tuple[bytes, str]:
    document = read_json(member.data, f"{snapshot.objects.url}: {member.member}", snapshot.version.limits)
    data, version, told = member.data, snapshot.version, []
    if is_edited(snapshot):
        data = rules.retell_meta(data, document, version.version, version.classes)
        told.append("version and classes are those of what is there now")
    if version.bounds is not None:  # or else no footprint has told it
        data = rules.cut_meta(data, document, box)
        told.append("bbox is the box around the samples that stay")
    return data, ", ".join(told)


def _cut_bounds(snapshot: Snapshot, positions: Positions, member: StoredFile, box: Bbox | None) -> tuple[bytes, str]:
    """Keep the features of the samples that stay; where features are not those of samples, make one around all."""
    limits = snapshot.version.limits
    try:
        found = _read_features(iter_feature_spans(member.data, member.member, limits), member.member)
        if is_edited(snapshot) and len(found.spans) > 1:
            told = "a feature for each sample, as its label file has it"
            return _renew_bounds(snapshot, positions, found, member.data, box), told
        kept = _features_of(snapshot, positions, found)
        if kept is not None:
            spans = found.spans[kept].tolist()
            ends = int(found.spans[0, 0]), int(found.spans[-1, 1])
            return rules.cut_features(member.data, spans, ends, box), "the features of the samples that stay"
        first = [*islice(iter_feature_spans(member.data, member.member, limits), 2)]
    except ReleaseError:  # no conversion needs it to be sound
        first = []
    if snapshot.version.bounds is None:  # no footprint has told it
        return member.data, ""
    return rules.bound_all(member.data, first, box), "one feature around the samples that stay"


def _renew_bounds(snapshot: Snapshot, positions: Positions, found: _Features, data: bytes, box: Bbox | None) -> bytes:
    """Return ``bounds.geojson`` with one feature a sample: those that are there, where footprints are, or new ones."""
    own, spans = _read_boxes(snapshot, positions), found.spans.tolist()
    at = _match(snapshot, positions, found, own)
    same = _same_boxes(found.boxes[at], own) & (at >= 0)
    if same.all() and np.array_equal(at, np.arange(len(spans))):
        return rules.bound_features(data, box)

    def iter_features() -> Iterator[bytes]:
        names = snapshot.lookup.names(positions)
        for position, name, place, is_same in zip(positions.tolist(), names, at.tolist(), same.tolist(), strict=True):
            if is_same:
                yield data[slice(*spans[place])]
                continue
            renewed = footprint_feature(name, snapshot.read_label(position))
            yield renewed if place < 0 else rules.move_feature(data[slice(*spans[place])], renewed)

    return rules.renew_features(data, iter_features(), box)


def _match(snapshot: Snapshot, positions: Positions, found: _Features, own: Any) -> Any:
    """Return the feature of each sample, -1 where it has none: the one of its id, or the one of its box.

    Ids may be numbers that mean something else: boxes count more where those of most ids do not fit.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names, ids = pa.chunked_array(snapshot.lookup.id_parts(positions), _text()), pa.chunked_array(found.ids)
    by_id = pc.index_in(names, value_set=ids).fill_null(-1).to_numpy()
    fitting = (_same_boxes(found.boxes[by_id], own) & (by_id >= 0)).sum()
    if 0 < (by_id >= 0).sum() <= 2 * fitting:
        return by_id
    places: dict[Any, list[int]] = {}
    for place, box in enumerate(_keys(found.boxes)):
        places.setdefault(box, []).append(place)
    waiting = {box: iter(some) for box, some in places.items()}
    by_box = np.array([next(waiting[box], -1) if box in waiting else -1 for box in _keys(own)], "i8")
    return by_box if (by_box >= 0).sum() > fitting else by_id


def _keys(boxes: Any) -> list[tuple[float, ...]]:
    """Return boxes as keys, the same for those that are nearly the same; without a place they are all the same."""
    rounded = np.nan_to_num(np.round(boxes / _SAME_DEGREES), nan=np.inf, posinf=np.inf)
    return [tuple(box) for box in rounded.tolist()]


def _read_features(spans: Iterable[tuple[int, int, Any]], where: str) -> _Features:
    """Read all features, and keep of each what fits into some numbers and its id."""
    places, ids, boxes = [np.empty((0, 2), "i8")], [arrow_array([], _text())], [np.empty((0, 4))]
    remaining = iter(spans)
    while some := [*islice(remaining, _TOGETHER)]:
        places.append(np.array([(begin, end) for begin, end, _ in some]))
        ids.append(arrow_array([rules.feature_id(feature) for *_, feature in some], _text()))
        boxes.append(np.array([parse_bounds(feature, where) or [np.nan] * 4 for *_, feature in some], "f8"))
    return _Features(np.concatenate(places), ids, np.concatenate(boxes))


def _text() -> Any:
    import pyarrow as pa

    return pa.string()


def _features_of(snapshot: Snapshot, positions: Positions, found: _Features) -> Any:
    """Return which features are those of some samples: by their ids, or by their order; None where neither is so.

    Ids may be numbers that mean something else. Order counts more where it fits the footprints, and ids do not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(found.spans) < 2:  # noqa: PLR2004 - one is around all samples
        return None
    names, ids = pa.chunked_array(snapshot.lookup.id_parts(positions), _text()), pa.chunked_array(found.ids)
    first = pc.index_in(names, value_set=ids).fill_null(-1).to_numpy()
    own = _read_boxes(snapshot, positions)
    placed = ~np.isnan(own[:, 0])  # no other sample needs a feature
    by_id = (first >= 0).any() and (first[placed] >= 0).all()
    by_order = len(found.spans) == snapshot.version.samples and _are_same(found.boxes[positions], own)
    if by_id and (not by_order or _are_same(found.boxes[first[placed]], own[placed])):
        return pc.is_in(ids, value_set=names).to_numpy()
    return positions if by_order else None


def _read_boxes(snapshot: Snapshot, positions: Positions) -> Any:
    """Return the boxes around the footprints of samples (n, 4), with the numbers that they have."""
    table, boxes = snapshot.table("samples"), [np.empty((0, 4))]
    for part in table.split(positions):
        footprints = geometry.parse_wkb(table.read_rows(part, ["geometry"]).column(0).to_pylist())
        boxes.append(geometry.bounds(footprints))
    return np.concatenate(boxes)


def _are_same(boxes: Any, others: Any) -> bool:
    return bool(_same_boxes(boxes, others).all())


def _same_boxes(boxes: Any, others: Any) -> Any:
    return np.isclose(boxes, others, rtol=0, atol=_SAME_DEGREES, equal_nan=True).all(axis=1)


def left_out(snapshot: Snapshot, positions: Positions) -> Any:
    """Tell which members belong to samples that do not stay."""
    top = snapshot.top
    parts = [np.empty(0, bool)]
    for table in snapshot.table("members").iter_batches(["name", "kind"]):
        names, kinds = (table.column(name).to_pylist() for name in ("name", "kind"))
        stems = [rules.owners(n, top) if k == "unknown" else [] for n, k in zip(names, kinds, strict=True)]
        out = np.zeros(len(names), bool)
        if any(stems):
            member = np.repeat(np.arange(len(stems)), [len(s) for s in stems])
            owner = snapshot.lookup.find_many([stem for some in stems for stem in some])
            member, first = np.unique(member[owner >= 0], return_index=True)
            out[member] = ~np.isin(owner[owner >= 0][first], positions)
        parts.append(out)
    return np.concatenate(parts)
