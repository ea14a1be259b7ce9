import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import StoreError, UsageError
from vedastore.model import TASKS
from vedastore.spec import keys
from vedastore.spec.arrays import DTYPES, ChipSpec
from vedastore.spec.root import (
    ATTRIBUTE,
    Bucket,
    IndexFile,
    Root,
    Version,
    _checksum,
    dump_json,
    dump_root,
    parse_root,
)

WHERE = "s.zarr/zarr.json"
ANY_TEXT = st.text(st.characters())  # lone surrogates too: file names and meta.json have them
COUNTS = st.integers(0, 2**53)
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
READ = ("url", "options")
"""Entries of a source that are read: they cannot be anything."""
SPECS = st.builds(ChipSpec, st.sampled_from(DTYPES), *[st.integers(1, 9000)] * 3)


@st.composite
def versions(draw):
    write_id = draw(HEX)
    buckets = {
        keys.bucket(s.dtype, *s.shape, draw(st.sampled_from(["", "0123456789abcdef" * 2]))): Bucket(
            s, draw(COUNTS), draw(COUNTS)
        )
        for s in draw(st.lists(SPECS, max_size=3))
    }
    rows = {t: draw(COUNTS) for t in keys.TABLES}
    return Version(
        version=draw(ANY_TEXT),
        parent=draw(st.none() | ANY_TEXT),
        created="2026-01-01T00:00:00+00:00",
        name=draw(ANY_TEXT),
        task=draw(st.sampled_from(TASKS)),
        classes=tuple(draw(st.lists(ANY_TEXT, max_size=3))),
        label_coords=draw(st.sampled_from((None, "pixel", "geographic"))),
        samples=rows["samples"],
        features=rows["features"],
        bounds=draw(st.none() | st.tuples(*[NUMBERS] * 4)),
        fidelity=draw(st.dictionaries(ANY_TEXT, COUNTS, max_size=3)),
        index={t: IndexFile(keys.table(write_id, t), draw(COUNTS), "ab" * 32, rows[t]) for t in keys.TABLES},
        buckets=buckets,
        content=draw(st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3)),
        source=draw(st.dictionaries(ANY_TEXT.filter(lambda name: name not in READ), JSON, max_size=3)),
        skipped=tuple(draw(st.lists(st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2), max_size=2))),
        findings=tuple(draw(st.lists(st.fixed_dictionaries({"rule": ANY_TEXT, "message": ANY_TEXT}), max_size=2))),
    )


ROOTS = st.builds(Root, HEX, st.lists(versions(), min_size=1, max_size=2).map(tuple))


def version(name="1", **changes):
    """Return a small version of a store."""
    bucket = Bucket(ChipSpec("uint8", 3, 256, 256), 7, 1000)
    values = {
        "version": name,
        "parent": None,
        "created": "2026-01-01T00:00:00+00:00",
        "name": "Zürich",
        "task": "segmentation",
        "classes": ("car", "tree"),
        "label_coords": "pixel",
        "samples": 7,
        "features": 7,
        "bounds": (8.5, 47.25, 8.75, 47.5),
        "fidelity": {"exact": 7},
        "index": {t: IndexFile(keys.table("0" * 32, t), 50, "ab" * 32, 7) for t in keys.TABLES},
        "buckets": {"uint8-3x256x256": bucket},
        "content": {"samples": "00"},
        "source": {},
        "skipped": ({"id": "3", "reason": "torn"},),
        "findings": ({"rule": "r", "message": "m", "where": None},),
    }
    return Version(**(values | changes))


ROOT = Root("f" * 32, (version("1"), version("2", parent="1")))
DATA = dump_root(ROOT)


@given(ROOTS)
def test_a_root_comes_back_and_is_the_same_bytes(root):
    data = dump_root(root)
    assert parse_root(data, WHERE) == root
    assert dump_root(parse_root(data, WHERE)) == data
    assert json.loads(data)["node_type"] == "group"


def test_plain_zarr_reads_the_root(tmp_path):
    import zarr

    (tmp_path / "zarr.json").write_bytes(DATA)
    group = zarr.open_group(tmp_path, mode="r")
    assert group.attrs[ATTRIBUTE]["versions"][1]["name"] == "Zürich"
    assert group["chips/uint8-3x256x256/image"].shape == (7, 3, 256, 256)


def test_metadata_is_ascii_and_refuses_what_json_has_not():
    assert dump_json({"Zürich": "\udcff"}) == b'{\n "Z\\u00fcrich": "\\udcff"\n}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


# ------------------------------------------------------------------------------------------------------------- damage


def attribute_span():
    """Return where the store's own attribute begins and ends, key included, in the root's bytes."""
    text = DATA.decode()
    start = text.index(f'"{ATTRIBUTE}"')
    _, end = json.JSONDecoder().raw_decode(text, text.index("{", start))
    return start, end


START, END = attribute_span()


@given(st.integers(START, END - 1), st.integers(0, 255))
def test_a_changed_byte_of_the_attribute_is_found(place, byte):
    changed = bytearray(DATA)
    changed[place] = byte
    try:
        same = json.loads(changed)["attributes"] == json.loads(DATA)["attributes"]  # white space for white space
    except (ValueError, KeyError):
        same = False
    if same:
        assert parse_root(bytes(changed), WHERE) == ROOT
    else:
        with pytest.raises(StoreError) as caught:
            parse_root(bytes(changed), WHERE)
        assert caught.value.where == WHERE


def test_every_character_of_the_attribute_counts():
    """Each one in turn, but for white space, becomes another of its own kind."""
    swap = {**{d: str((int(d) + 1) % 10) for d in "0123456789"}, "a": "b", "b": "a", '"': "'", ":": ";", ",": ";"}
    for place in range(START, END):
        character = chr(DATA[place])
        if character.isspace():
            continue
        other = swap.get(character, "x" if character != "x" else "y")
        with pytest.raises(StoreError):
            parse_root(DATA[:place] + other.encode() + DATA[place + 1 :], WHERE)


@given(st.integers(0))
def test_a_root_cut_short_is_refused(length):
    with pytest.raises(StoreError):
        parse_root(DATA[: length % len(DATA)], WHERE)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"null", b"[]", b"{}", b'{"attributes": null}', b'{"attributes": {"vedastore": null}}', b"\xff\xfe"),
        *(b'{"attributes": {"vedastore": []}}', b'{"attributes": {"vedastore": {"format": 1}}}', b"[" * 100_000),
        b'{"zarr_format": 3, "node_type": "group", "attributes": {}}',
    ],
)
def test_what_is_no_store_of_ours(data):
    with pytest.raises(StoreError, match="this is not a vedastore store") as caught:
        parse_root(data, WHERE)
    assert caught.value.where == WHERE


def resealed(change):
    """Return the root after a change, with a checksum that fits."""
    document = json.loads(DATA)
    body = document["attributes"][ATTRIBUTE]
    del body["checksum"]
    change(body)
    body["checksum"] = _checksum(body)
    return json.dumps(document).encode()


def test_resealed_unchanged_is_read():
    assert parse_root(resealed(lambda body: None), WHERE) == ROOT


@pytest.mark.parametrize("number", [3, 0, "1", None, 1.5, [1]])
def test_another_format_is_told(number):
    with pytest.raises(StoreError, match=re.escape(f"the store is of format {number!r}")) as caught:
        parse_root(resealed(lambda body: body.update(format=number)), WHERE)
    assert caught.value.hint == "update vedastore"


def in_version(**changes):
    return lambda body: body["versions"][0].update(changes)


def in_bucket(**changes):
    return lambda body: body["versions"][0]["buckets"]["uint8-3x256x256"].update(changes)


def as_bucket(name):
    def change(body):
        buckets = body["versions"][0]["buckets"]
        buckets[name] = buckets.pop("uint8-3x256x256")

    return change


def as_index(key):
    return lambda body: body["versions"][0]["index"]["samples"].update(key=key)


HOSTILE_BUCKETS = [
    *("../x", "..", "", ".", "/etc", "uint8-3x256x256/../..", "uint8-3x256x256/", "a\\b", "UINT8-3x2x2"),
    *("uint8-3x256x256\n", "uint8-3x256", "uint8-3x256x256~", "uint8-٣x256x256", "zarr.json", "uint8-3x256x256\0"),
]
HOSTILE_KEYS = [
    *("../x", "/etc/passwd", "index/../../x/samples.parquet", "zarr.json", "", f"index/{'0' * 31}/samples.parquet"),
    *(f"index/{'0' * 32}/samples.parquet\n", f"index/{'0' * 32}/other.parquet", f"/index/{'0' * 32}/samples.parquet"),
    *(f"index/{'0' * 32}/samples.parquet/../x", f"index/{'G' * 32}/samples.parquet", f"index\\{'0' * 32}\\samples"),
]


@pytest.mark.parametrize("name", HOSTILE_BUCKETS)
def test_hostile_bucket_names_are_refused(name):
    assert not keys.is_bucket(name)
    with pytest.raises(StoreError, match=r"damaged: .* is no name of a bucket"):
        parse_root(resealed(as_bucket(name)), WHERE)


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_hostile_index_keys_are_refused(key):
    assert not keys.is_index(key)
    with pytest.raises(StoreError, match=r"damaged: .* is no key of an index file"):
        parse_root(resealed(as_index(key)), WHERE)


@given(ANY_TEXT)
def test_no_accepted_name_leads_out_of_the_store(name):
    for accepted in (keys.is_bucket(name), keys.is_index(name)):
        assert not accepted or (".." not in name and not name.startswith("/"))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(versions=[]),
        lambda body: body.update(versions=None),
        lambda body: body.update(versions={"a": 1}),
        lambda body: body.update(versions=["x"]),
        lambda body: body.pop("versions"),
        lambda body: body.pop("write_id"),
        lambda body: body["versions"][0].pop("samples"),
        lambda body: body["versions"][0]["index"].pop("members"),
        lambda body: body["versions"][0]["index"]["samples"].pop("rows"),
        lambda body: body["versions"][0]["index"]["samples"].update(more=1),
        as_index(None),
        as_index(5),
        in_version(buckets=None),
        in_version(buckets=[]),
        in_version(index=[]),
        in_bucket(dtype="object"),
        in_bucket(dtype=["uint8"]),
        in_bucket(bands=0),
        in_bucket(height=-1),
        in_bucket(width=None),
        in_bucket(rows="many"),
        in_bucket(rows=float("inf")),
        in_bucket(rows=float("nan")),
    ],
)
def test_a_fitting_checksum_does_not_make_nonsense_a_store(change):
    with pytest.raises(StoreError, match="the root document is damaged"):
        parse_root(resealed(change), WHERE)


def test_words_of_later_versions_are_read_over():
    assert parse_root(resealed(in_version(later=[1])), WHERE) == ROOT


# ------------------------------------------------------------------------------------------------------------ versions


def test_find():
    assert ROOT.find(None, WHERE) is ROOT.versions[1]
    assert ROOT.find("1", WHERE) is ROOT.versions[0]
    with pytest.raises(UsageError, match="there is no version '3'") as caught:
        ROOT.find("3", WHERE)
    assert caught.value.hint == "the store has 1, 2"


def test_of_two_versions_of_one_name_the_later_is_found():
    root = Root("a" * 32, (version("1", created="old"), version("1", created="new")))
    assert root.find("1", WHERE).created == "new"


def test_a_root_names_a_version():
    with pytest.raises(ValueError, match="names no version"):
        Root("a" * 32, ())


def test_buckets_at_their_greatest_length():
    spec = ChipSpec("uint8", 3, 256, 256)
    short, long, other = (Bucket(spec, n, n) for n in (3, 9, 1))
    root = Root("a" * 32, (version(buckets={"uint8-3x256x256": long}), version(buckets={"uint8-3x256x256": short}),
                      version(buckets={"uint8-3x256x256~1": other})))  # fmt: skip
    assert root.buckets() == {"uint8-3x256x256": long, "uint8-3x256x256~1": other}


@given(SPECS, st.integers(0, 10**6))
def test_shards_hold_all_rows(spec, rows):
    shards = Bucket(spec, rows, 0).shards
    assert (shards - 1) * spec.samples_per_shard < rows <= shards * spec.samples_per_shard or rows == shards == 0


def test_bytes_of_a_version():
    assert version().bytes == 1000 + 3 * 50
