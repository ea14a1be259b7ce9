"""A store from a stranger: whatever it says, a named error or a true answer, in bounded memory.

Its checksums fit: whoever writes a store can compute them. Each group of stores is opened in a process of its own, that
does with every one of them all that a user can do, and tells what happened and how much memory it took.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import vedastore as vs
from tests.builders import make_release
from tests.figures import count
from vedastore.spec.root import ATTRIBUTE, FORMAT_PARTS, _checksum, dump_json, seal

MIB = 2**20
LIMIT_BYTES = 512 * MIB
PARTS = [slice(0, None, 12), *(pytest.param(slice(n, None, 12), marks=pytest.mark.slow) for n in range(1, 12))]
"""Of the stores of a kind: some in every run, the others in long ones."""
BUCKET = "uint8-3x32x40"
SHARD = f"chips/{BUCKET}/image/c/0/0/0/0"

CHILD = """
import contextlib, io, json, sys, tempfile, traceback
from pathlib import Path
import vedastore as vs
from vedastore.cli import main
from vedastore.errors import VedastoreError

def told(work):
    try:
        return {"ok": work()}
    except VedastoreError as error:
        return {"exit": error.exit_code, "error": str(error)}
    except IndexError as error:
        return {"ok": str(error)}
    except BaseException:
        return {"traceback": traceback.format_exc()}

def command(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    lines = err.getvalue().splitlines()
    if "--json" in arguments:
        json.loads(out.getvalue())
    assert code in (0, 1, 2, 5) and len(lines) == (code > 1), (code, lines)
    return code

def go_on(collection):
    options = {"fit": "pad", "size_px": (64, 64), "scale": "max", "epoch": 1, "shuffle": "shards", "labels": "masks"}
    return len(list(vs.Batches.from_state(collection, collection.batches(3, **options).state(), workers=1)))

def edited(collection):
    with collection.edit() as edits:
        edits.update_labels({"2": {"car": []}})
        edits.remove("1")
    return edits.collection.version

sound, *stores = sys.argv[1:]
for store in stores:
    print(json.dumps({"store": store}), flush=True)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    back = Path(tempfile.mkdtemp(dir=Path(store).parent))
    work = {
        "repr": lambda: repr(vs.open(store)),
        "len": lambda: len(vs.open(store)),
        "versions": lambda: len(vs.open(store).versions) > 0,
        "ids": lambda: [s.id for s in vs.open(store)],
        "sample": lambda: repr(vs.open(store)[0]),
        "by id": lambda: repr(vs.open(store)["1"]),
        "image": lambda: vs.open(store)[0].image.shape,
        "label": lambda: [bool(s.label) for s in vs.open(store)][:9],
        "geometry": lambda: [s.geometry is None for s in vs.open(store)][:9],
        "samples": lambda: len(vs.open(store).samples),
        "features": lambda: len(vs.open(store).features),
        "meta": lambda: vs.open(store).meta and None,
        "bounds": lambda: vs.open(store)[1:].bounds and None,
        "to_xarray": lambda: vs.open(store).to_xarray().image[:1].values.shape,
        "multi_hot": lambda: vs.open(store).multi_hot().shape,
        "boxes": lambda: len(list(vs.open(store).boxes())),
        "masks": lambda: vs.open(store).masks().values.shape,
        "to_xarray labels": lambda: vs.open(store).to_xarray().compute().sizes["sample"],
        "sample mask": lambda: vs.open(store)[0].mask.shape,
        "stats kept": lambda: vs.open(store).stats().samples,
        "stats": lambda: vs.open(store).stats(cached=False).samples,
        "to_datatree": lambda: len(vs.open(store).to_datatree().children),
        "batches": lambda: len(next(vs.open(store).batches(3, labels="masks"))[0]),
        "batches from a state": lambda: go_on(vs.open(store)),
        "select ids": lambda: len(vs.open(store).select(ids=["1", "2"])),
        "select classes": lambda: len(vs.open(store).select(classes="car")),
        "select counts": lambda: len(
            vs.open(store).select(classes="car", match="none", split="").select(objects=1).select(objects={"boat": 0})
        ),
        "select bbox": lambda: len(vs.open(store).select(bbox=(-180, -90, 180, 90))),
        "select intersects": lambda: len(vs.open(store).select(intersects={"type": "Point", "coordinates": [-84, 33]})),
        "select where": lambda: len(vs.open(store).select(where="contains(label::VARCHAR, 'car') AND split IS NULL")),
        "select everything": lambda: vs.open(store).select(where="objects >= 0", limit=3).bounds and None,
        "features of some": lambda: len(vs.open(store)[1:3].features),
        "export": lambda: vs.open(store).export(back / "a.tar.gz").members,
        "export some": lambda: vs.open(store)[1:4].export(back / "c.tar.gz").members,
        "export for import": lambda: vs.open(store)[1:3].export(back / "d.tar.gz", for_import=True).members,
        "verify": lambda: vs.open(store).verify().ok,
        "diff": lambda: vs.open(store).diff(vs.open(sound)).differs,
        "diff back": lambda: vs.open(sound).diff(vs.open(store)).differs,
        "cli info": lambda: command("info", store),
        "cli info --json": lambda: command("info", store, "--json"),
        "cli query": lambda: command("query", store, "--class", "car", "--json"),
        "cli stats": lambda: command("stats", store, "--json"),
        "cli versions": lambda: command("versions", store, "--json"),
        "cli export": lambda: command("export", store, str(back / "b.tar.gz"), "--json"),
        "cli diff": lambda: command("diff", sound, "1.0.1", "--to", store, "--json"),
        "cli verify": lambda: command("verify", store, "--json"),
        # These write to the store, and come last.
        "split": lambda: vs.open(store).split(by="place", stratify=True, duplicates=True).version,
        "cli split": lambda: command("split", store, "--stratify", "--duplicates", "--json"),
        "assign": lambda: vs.open(store).assign(seen=1.5).samples.seen.sum(),
        "edit": lambda: edited(vs.open(store)),
        "clean": lambda: vs.clean(store, grace_days=0).removed,
    }
    done = {name: told(job) for name, job in work.items()}
    left = sorted(path.name for path in back.iterdir() if path.suffix != ".gz")
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
    print(json.dumps({"store": store, "done": done, "left": left, "peak": peak}), flush=True)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound store of five samples."""
    folder = tmp_path_factory.mktemp("sound")
    vs.convert(make_release(5).tar_gz(folder / "r.tar.gz"), folder / "r.zarr")
    return folder / "r.zarr"


def all_uses(sound, stores):
    """What each use of each store came to, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, sound, *stores], capture_output=True, text=True, timeout=300, check=False
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"the process died over {told[-1]['store']}: {done.stderr[-2000:]}"
    return {Path(t["store"]).name: t for t in told if "done" in t}


def judge(told, expected):
    """Tell what is wrong with the uses of one store: nothing, if all went as a store from a stranger must."""
    done = told["done"]
    wrong = [f"{use}: ... {t['traceback'][-500:]}" for use, t in done.items() if "traceback" in t]
    wrong += [f"{use}: exit {t['exit']}" for use, t in done.items() if t.get("exit") not in (None, 2, 5)]
    wrong += [f"{use}: not one line: {t['error']!r}" for use, t in done.items() if "\n" in t.get("error", "")]
    wrong += [f"{told['left']} are left"] if told["left"] else []
    wrong += [f"{told['peak'] / MIB:.0f} MiB"] if told["peak"] > LIMIT_BYTES else []
    refused = [use for use, t in done.items() if t.get("exit", t.get("ok") if use.startswith("cli") else 0) == 5]
    if expected == "refused" and len(refused) != len(done):
        wrong.append(f"taken: { {use: t['ok'] for use, t in done.items() if use not in refused and 'ok' in t} }")
    if expected == "damaged" and (done["verify"].get("ok") is not False or done["cli verify"].get("ok") != 1):
        wrong.append(f"verify says {done['verify']}, on the command line {done['cli verify']}")
    if expected == "fine" and (refused or done["verify"].get("ok") is not True):
        wrong.append(f"refused: { {use: done[use].get('error') for use in refused} }, {done['verify']}")
    return wrong


def check(sound, tmp_path, cases):
    """Make a store of each case, use all of them, and tell what went wrong."""
    stores = []
    for name, (change, _) in cases.items():
        stores.append(tmp_path / name)
        shutil.copytree(sound, stores[-1])
        change(stores[-1])
    told = all_uses(sound, stores)
    wrong = {name: found for name, (_, expected) in cases.items() if (found := judge(told[name], expected))}
    assert not wrong, "\n\n".join(f"{name}: " + "\n".join(found) for name, found in wrong.items())
    return told


# ------------------------------------------------------------------------------------------------- the root document


def edit_root(store, change, dump=None):
    """Change the body of the root document and of its copy, and make its checksum fit."""
    document = json.loads((store / "zarr.json").read_bytes())
    body = document["attributes"][ATTRIBUTE]
    copy = store / f"index/{body['write_id']}/root.json"
    body.pop("checksum")
    change(body)
    body["checksum"] = _checksum(body)
    data = dump(document) if dump else dump_json(document, indent=None if body.get("format") == FORMAT_PARTS else 1)
    (store / "zarr.json").write_bytes(data)
    if copy.exists():
        copy.write_bytes(data)


def version(**changes):
    return lambda store: edit_root(store, lambda body: body["versions"][0].update(changes))


def bucket(**changes):
    return lambda store: edit_root(store, lambda body: body["versions"][0]["buckets"][BUCKET].update(changes))


def renamed(name, **changes):
    """The only bucket gets another name, and other fields."""

    def change(body):
        buckets = body["versions"][0]["buckets"]
        buckets[name] = buckets.pop(BUCKET) | changes

    return lambda store: edit_root(store, change)


def index(table, **changes):
    return lambda store: edit_root(store, lambda body: body["versions"][0]["index"][table].update(changes))


def key_of(store, table):
    body = json.loads((store / "zarr.json").read_bytes())["attributes"][ATTRIBUTE]
    return body["versions"][0]["index"][table]["key"]


def without(field):
    return lambda store: edit_root(store, lambda body: body["versions"][0].pop(field))


def same_file(*tables):
    """The tables name the file of the features."""

    def change(body):
        files = body["versions"][0]["index"]
        files |= dict.fromkeys(tables, files["features"])

    return lambda store: edit_root(store, change)


def raw_root(data):
    return lambda store: (store / "zarr.json").write_bytes(data)


def with_text(old, new):
    """Change the root's text; the checksum is made to fit where the text is JSON that Python reads."""

    def change(store):
        text = (store / "zarr.json").read_text()
        assert old in text
        (store / "zarr.json").write_text(text.replace(old, new))
        edit_root(store, lambda body: None, lambda document: json.dumps(document).encode())

    return change


def many_versions(count, **changes):
    def change(body):
        body["versions"] = [body["versions"][0] | {"version": str(n)} | changes for n in range(count)]

    return lambda store: edit_root(store, change)


VERSION = b'{"version": "1", "index": {}}, '
WRONG = (None, True, -1, 1.5, 2**60, 10**400, "1", [], {}, [[]], {"a": [1]}, "x" * 100_000)
FIELDS = ("version", "parent", "created", "name", "task", "classes", "label_coords", "samples", "features", "bounds",
          "fidelity", "index", "buckets", "content", "source", "skipped", "findings")  # fmt: skip
RIGHT = {
    "version": ("1", "x" * 100_000),
    "parent": (None, "1", "x" * 100_000),
    "created": ("1", "x" * 100_000),
    "name": ("1", "x" * 100_000),
    "label_coords": (None,),
    "bounds": (None,),
    "fidelity": ({},),
    "content": ({},),
    "source": ({}, {"a": [1]}),
    "skipped": ([],),
    "findings": ([],),
    "classes": ([],),
    "buckets": ({},),
}


def wrong_fields():
    """Each field with values of every kind; those that it may have are left out."""
    return [
        (f"{field}-{number}", version(**{field: value}))
        for field in FIELDS
        for number, value in enumerate(WRONG)
        if not any(value is right or (value == right and type(value) is type(right)) for right in RIGHT.get(field, ()))
    ]


def test_every_field_of_a_version_has_its_type(sound, tmp_path):
    """Only opening is tried here: nothing else can happen once it is refused."""
    shutil.copytree(sound, tmp_path / "s")
    whole = (tmp_path / "s" / "zarr.json").read_bytes()
    for name, change in [*wrong_fields(), *((f"no {field}", without(field)) for field in FIELDS)]:
        (tmp_path / "s" / "zarr.json").write_bytes(whole)
        change(tmp_path / "s")
        with pytest.raises(vs.errors.StoreError, match=r"zarr.json: the root document is damaged: ") as caught:
            vs.open(tmp_path / "s")
        field = name.removeprefix("no ").partition("-")[0]
        assert field[:6] in caught.value.message, f"{name}: {caught.value}"
        assert len(str(caught.value)) < 500


def test_every_field_may_be_what_it_may_be(sound, tmp_path):
    """Nothing but an index and chips that are not there is missed."""
    shutil.copytree(sound, tmp_path / "s")
    whole = (tmp_path / "s" / "zarr.json").read_bytes()
    for field, values in RIGHT.items():
        for value in values:
            (tmp_path / "s" / "zarr.json").write_bytes(whole)
            version(**{field: value})(tmp_path / "s")
            assert len(vs.open(tmp_path / "s")) == 5


ROOTS = {
    "bounds-nan": (with_text('"bounds": [', '"bounds": [NaN, '), "refused"),
    "bounds-1e999": (with_text('"bounds": [', '"bounds": [1e999, '), "refused"),
    "source-infinity": (with_text('"source": {', '"source": {"a": -Infinity, '), "refused"),
    "deep": (with_text('"source": {', '"source": {"a": ' + "[" * 900 + "]" * 900 + ", "), "fine-or-refused"),
    "too-deep": (raw_root(b'{"attributes": {"vedastore": ' + b"[" * 10**6 + b"]" * 10**6 + b"}}"), "refused"),
    "no-versions": (lambda s: edit_root(s, lambda b: b.update(versions=[])), "refused"),
    "twins": (many_versions(2, version="1.0.1"), "any"),
    "many-versions": (many_versions(40), "any"),
    "a-million-versions": (raw_root(b'{"attributes": {"vedastore": [' + VERSION * 10**6 + b"0]}}"), "refused"),
    "hundreds-of-MB": (raw_root(b'{"attributes": {"vedastore": "' + b"x" * 65 * MIB + b'"}}'), "refused"),
    "lists": (raw_root(b'{"attributes": {"vedastore": [' + b"[]," * 3 * MIB + b"0]}}"), "refused"),
    "no-json": (raw_root(b"\x80PNG" * 1000), "refused"),
    "samples-lie": (version(samples=2**40), "refused"),
    "features-lie": (version(features=2**40), "refused"),
    "no-classes": (version(classes=[]), "damaged"),
    "no-buckets": (version(buckets={}), "damaged"),
    "no-source": (version(source={}), "any"),
    "source-of-lists": (version(source={"options": {"labels": {"label_field": ["a"]}}}), "refused"),
    "escapes": (version(name="\x1b[31m\nred", version="\r\x07", created="\x00"), "any"),
    "bucket-outside": (renamed("../../../etc"), "refused"),
    "bucket-absolute": (renamed("/etc"), "refused"),
    "bucket-below": (renamed(f"{BUCKET}/.."), "refused"),
    "bucket-of-others": (renamed("uint8-3x32x41"), "refused"),
    "bucket-objects": (bucket(dtype="object"), "refused"),
    "bucket-2**60-rows": (bucket(rows=2**60), "refused"),
    "bucket-2**50-rows": (bucket(rows=2**50, bytes=2**50), "damaged"),
    "bucket-no-rows": (bucket(rows=0), "damaged"),
    "bucket-bytes-lie": (bucket(bytes=2**40), "damaged"),
    "bucket-huge": (renamed("uint8-3x4000000x4000000", height=4_000_000, width=4_000_000), "refused"),
    "bucket-many-bands": (renamed("uint8-1099511627776x32x40", bands=2**40), "refused"),
    "bucket-large": (renamed("uint8-3x400000x400000", height=400_000, width=400_000), "damaged"),
    "bucket-tiny": (renamed("uint8-1x1x1", bands=1, height=1, width=1), "damaged"),
    "key-outside": (index("samples", key="../../etc/passwd"), "refused"),
    "key-absolute": (index("samples", key="/etc/passwd"), "refused"),
    "key-of-another-table": (same_file("samples"), "refused"),
    "one-file-thrice": (same_file("samples", "members"), "refused"),
    "key-of-nothing": (index("samples", key=f"index/{'0' * 32}/samples.parquet"), "damaged"),
    "size-lies": (index("samples", bytes=2**50), "damaged"),
    "size-is-short": (index("samples", bytes=100), "damaged"),
    "sha-lies": (index("features", sha256="0" * 64), "damaged"),
    "sha-is-none": (index("features", sha256="x"), "refused"),
    "rows-lie": (lambda s: (index("samples", rows=10**6)(s), version(samples=10**6)(s)), "damaged"),
    "rows-absurd": (lambda s: (index("samples", rows=2**50)(s), version(samples=2**50)(s)), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_roots(sound, tmp_path, part):
    told = check(sound, tmp_path, dict(list(ROOTS.items())[part]))
    count("P8", hostile_stores=len(told), unbounded=0)


def test_roots_that_are_odd_and_sound(sound, tmp_path):
    told = check(sound, tmp_path, {name: ROOTS[name] for name in ("twins", "escapes")})
    assert told["twins"]["done"]["len"]["ok"] == 5
    assert "Name" not in told["escapes"]["done"]["repr"]["ok"]
    assert told["escapes"]["done"]["repr"]["ok"].isprintable()


# ---------------------------------------------------------------------------------------------------- its statistics


def kept(make):
    """Put something where a store keeps its statistics."""
    return lambda store: make((store / key_of(store, "samples")).with_name("stats.json"))


def lies(store):
    """Statistics with a checksum that fits, of the right version, and of figures of any size."""
    vs.open(store).stats()
    path = (store / key_of(store, "samples")).with_name("stats.json")
    body = json.loads(path.read_bytes())
    body.pop("checksum")
    body["stats"]["objects_per_sample"] = {"9" * 4000: 5}
    path.write_bytes(dump_json(seal(body)))


STATISTICS = {
    "kept-lists": (kept(lambda path: path.write_bytes(b"[" + b"[]," * 2 * MIB + b"0]")), "fine"),
    "kept-deep": (kept(lambda path: path.write_bytes(b"[" * 10**6)), "fine"),
    "kept-endless": (kept(lambda path: path.symlink_to("/dev/zero")), "fine"),
    "kept-hundreds-of-MB": (kept(lambda path: path.touch() or os.truncate(path, 2**40)), "fine"),
    "kept-pipe": (kept(os.mkfifo), "fine"),
    "kept-lies": (lies, "fine"),
}


@pytest.mark.slow
def test_statistics_that_are_kept(sound, tmp_path):
    check(sound, tmp_path, STATISTICS)


# --------------------------------------------------------------------------------------------------------- the index


def put_table(store, table, data, rows):
    """Give a table another file, and make the root document fit."""
    (store / key_of(store, table)).write_bytes(data)
    index(table, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=rows)(store)
    if table != "members":
        version(**{table: rows})(store)


def write_table(table, found, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(found, sink, compression="zstd", **options)
    return sink.getvalue().to_pybytes()


def table(name, change, rows=None, **options):
    """Change a table as Arrow holds it, and write it anew."""

    def edit(store):
        found = change(pq.read_table(store / key_of(store, name)))
        put_table(store, name, write_table(name, found, **options), found.num_rows if rows is None else rows)

    return edit


def table_bytes(name, change, rows=None):
    """Change the bytes of a table's file."""

    def edit(store):
        data = change((store / key_of(store, name)).read_bytes())
        put_table(store, name, data, {"samples": 5, "features": 17, "members": 2}[name] if rows is None else rows)

    return edit


def column(name, values, kind=None, of="samples"):
    """Give a table's column other values, and another type where one is named."""

    def change(found):
        at = found.column_names.index(name)
        array = pa.array(values * found.num_rows if len(values) == 1 else values, kind or found.field(name).type)
        return found.set_column(at, pa.field(name, array.type), array)

    return table(of, change)


def no_unicode(found):
    """Ids that are no Unicode; the file says that they are."""
    ids = pa.array([bytes([0xFF, n]) for n in range(found.num_rows)])
    return found.set_column(0, "id", pa.Array.from_buffers(pa.string(), len(ids), ids.buffers()))


def one_label_for_all(found):
    """A dictionary of one text of 2 MiB, for 2 GiB of rows: a file of some kilobytes."""
    labels = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, "i4")), pa.array([b" " * 2 * MIB]))
    found = times(200)(found)
    return found.set_column(found.column_names.index("label"), pa.field("label", labels.type), labels)


def added(**columns):
    """Put columns behind those of a table."""

    def change(found):
        for name, values in columns.items():
            found = found.append_column(name, values if isinstance(values, pa.ChunkedArray) else pa.array(values))
        return found

    return change


def one_text(count):
    """A text of 2 MiB for many rows."""
    return pa.chunked_array(
        [pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, "i4")), pa.array([BIG[: 2 * MIB]]))]
    )


def times(count):
    return lambda found: pa.concat_tables([found] * count).combine_chunks()


def footer_of(data):
    length = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - length], data[-8 - length : -8]


def with_footer_length(length):
    return lambda data: data[:-8] + struct.pack("<I", length) + b"PAR1"


def with_footer(change):
    def edit(data):
        body, footer = footer_of(data)
        footer = change(footer)
        return body + footer + struct.pack("<I", len(footer)) + b"PAR1"

    return edit


def flipped(place):
    return with_footer(lambda footer: footer[:place] + bytes([footer[place] ^ 0xFF]) + footer[place + 1 :])


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def zigzag(number):
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def thrift_list(kind, count):
    return bytes([0xF0 | kind]) + varint(count)


#: version 2; a schema of one group without columns; 2^60 rows; a list of so many row groups, all of them empty.
def hollow_footer(groups, given):
    schema = b"\x29" + thrift_list(12, 1)[:0] + bytes([0x1C]) + b"\x48\x06schema\x15\x00\x00"
    return b"\x15\x04" + b"\x19" + schema[1:] + b"\x16" + zigzag(2**60) + b"\x19" + thrift_list(12, groups) + given


WKB_DEEP = struct.pack("<BII", 1, 7, 1) * 10**6
WKB_DEEP_PARTS = struct.pack("<BII", 1, 6, 1) + struct.pack("<BII", 1, 7, 1) * 10**6
WKB_NESTED = struct.pack("<BII", 1, 6, 1) * 10**6
WKB_LIES = struct.pack("<BIII", 1, 3, 1, 2**32 - 1)
WKB_EWKB = struct.pack("<BIII", 1, 0x20000003, 4326, 0)
BIG = "x" * 3 * MIB
LONE_ID = b'{"type": "FeatureCollection", "features": [{"type": "Feature", "id": "\\ud800"}]}'

TABLES = {
    "footer-of-2-GiB": (table_bytes("samples", with_footer_length(2**31)), "damaged"),
    "footer-of-4-GiB": (table_bytes("samples", with_footer_length(2**32 - 1)), "damaged"),
    "footer-of-nothing": (table_bytes("samples", with_footer_length(0)), "damaged"),
    "footer-of-zeros": (table_bytes("samples", with_footer(lambda f: bytes(len(f)))), "damaged"),
    "footer-hollow": (table_bytes("samples", with_footer(lambda _: hollow_footer(2**31 - 1, b""))), "damaged"),
    "footer-of-empty-groups": (table_bytes("features", with_footer(lambda _: hollow_footer(900_000, bytes(900_000)))),
                               "damaged"),
    "footer-huge": (table_bytes("members", with_footer(lambda f: f + bytes(40 * MIB))), "damaged"),
    "no-parquet": (table_bytes("samples", lambda data: b"PK" + data[2:-2] + b"PK"), "damaged"),
    "only-magic": (table_bytes("samples", lambda _: b"PAR1"), "damaged"),
    "nothing": (table_bytes("members", lambda _: b""), "damaged"),
    "other-table": (table_bytes("samples", lambda _: write_table("x", pa.table({"a": [1] * 5}))), "damaged"),
    "many-groups": (table("features", lambda found: found, row_group_size=1), "fine"),
    "more-rows-than-told": (table("samples", times(2), rows=5), "damaged"),
    "samples-twice": (table("samples", times(2)), "damaged"),
    "no-samples": (table("samples", lambda found: found[:0]), "any"),
    "no-features": (table("features", lambda found: found[:0]), "any"),
    "many-rows": (table("members", times(2**12), use_dictionary=True), "any"),
    "columns-reversed": (table("samples", lambda found: found.select(found.column_names[::-1])), "fine"),
    "foreign-column": (table("samples", lambda f: f.append_column("foreign", pa.array([[1, None]] * 5))), "fine"),
    "added-columns": (table("samples", added(a=[1.5, None] * 2 + [0], b=[b""] * 5, mask=[1] * 5, Id=[1] * 5)), "fine"),
    "added-twice": (table("samples", added(ndvi=[1] * 5, NDVI=[1] * 5)), "damaged"),
    "added-10000": (table("samples", added(**{f"c{n}": [0] * 5 for n in range(10_000)})), "damaged"),
    "added-longer": (table("samples", added(a=["x" * 4097, *"1234"])), "damaged"),
    "added-no-unicode": (table("samples", lambda f: added(a=no_unicode(f).column("id"))(f)), "damaged"),
    "added-one-for-all": (table("samples", added(a=one_text(5)), use_dictionary=["a"], store_schema=False), "damaged"),
    "added-one-for-more": (table("samples", lambda f: added(a=one_text(1000))(times(200)(f)), use_dictionary=["a"],
                                 store_schema=False), "damaged"),
    "column-missing": (table("samples", lambda found: found.drop_columns(["label"])), "damaged"),
    "column-twice": (table("samples", lambda found: found.append_column("id", found.column("id"))), "damaged"),
    "id-number": (column("id", [1, 2, 3, 4, 5], "int64"), "damaged"),
    "id-null": (column("id", [None]), "damaged"),
    "id-same": (column("id", ["1"]), "damaged"),
    "id-dictionary": (column("id", list("01234"), pa.dictionary("int32", "string")), "any"),
    "id-odd": (column("id", ["\x1b[31m", "1", "\n", "../x", ""]), "any"),
    "id-no-unicode": (table("samples", no_unicode), "damaged"),
    "id-long": (column("id", [BIG, *"1234"]), "any"),
    "row-null": (column("row", [None]), "damaged"),
    "row-negative": (column("row", [-1]), "damaged"),
    "row-2**62": (column("row", [2**62]), "damaged"),
    "row-beyond": (column("row", [0, 1, 2, 3, 5]), "damaged"),
    "row-narrow": (column("row", [0, 1, 2, 3, 4], "int8"), "damaged"),
    "row-other": (column("row", [4, 3, 2, 1, 0]), "damaged"),
    "bucket-unknown": (column("bucket", ["uint8-1x1x1"]), "damaged"),
    "bucket-path": (column("bucket", ["../../../etc"]), "damaged"),
    "position-same": (column("position", [0]), "damaged"),
    "position-null": (column("position", [None]), "damaged"),
    "position-beyond": (column("position", [2**60], of="features"), "damaged"),
    "transform-short": (column("transform", [[1.0]]), "damaged"),
    "transform-nulls": (column("transform", [[None] * 6]), "damaged"),
    "transform-nan": (column("transform", [[float("nan")] * 6]), "any"),
    "transform-huge": (column("transform", [[1e308] * 6]), "any"),
    "box-short": (column("box_px", [[1.0]], of="features"), "damaged"),
    "crs-nonsense": (column("crs", ["nonsense"]), "any"),
    "crs-file": (column("crs", ["/etc/passwd"]), "any"),
    "crs-url": (column("crs", ["http://127.0.0.1:9/epsg"]), "any"),
    "crs-long": (column("crs", ["EPSG:" + "9" * 5000]), "any"),
    "crs-deep": (column("crs", ["GEOGCS[" * 100_000]), "any"),
    "nodata-nonsense": (column("nodata", ["nonsense"]), "any"),
    "nodata-long": (column("nodata", ["9" * 10_000]), "any"),
    "classes-unknown": (column("classes", [["nobody"]]), "any"),
    "classes-null": (column("classes", [[None]]), "damaged"),
    "classes-null-list": (column("classes", [None]), "damaged"),
    "classes-many": (column("classes", [["car"] * 10**5]), "damaged"),
    "label-null": (column("label", [None]), "damaged"),
    "label-no-json": (column("label", [b"\x00"]), "any"),
    "label-deep": (column("label", [b"[" * 10**6]), "any"),
    "label-list": (column("label", [b"[]"]), "any"),
    "label-properties": (column("label", [b'{"properties": [1]}']), "any"),
    "label-nan": (column("label", [b'{"properties": {"label": NaN}}']), "any"),
    "label-ordinals": (column("label_ordinal", [1]), "damaged"),
    "image-ordinals": (column("image_ordinal", [-(2**63)]), "damaged"),
    "digest-short": (column("image_digest", [b""]), "damaged"),
    "pixel-digest": (column("pixel_digest", [b"x"]), "any"),
    "fidelity-other": (column("fidelity", ["\x00"]), "any"),
    "envelope-empty": (column("envelope", [b""]), "damaged"),
    "geometry-garbage": (column("geometry", [b"garbage"]), "damaged"),
    "geometry-empty": (column("geometry", [b""]), "damaged"),
    "geometry-point": (column("geometry", [struct.pack("<BIdd", 1, 1, 0, 0)]), "damaged"),
    "geometry-lies": (column("geometry", [WKB_LIES]), "damaged"),
    "geometry-deep": (column("geometry", [WKB_DEEP, None, None, None, None]), "damaged"),
    "geometry-deep-parts": (column("geometry", [WKB_DEEP_PARTS, None, None, None, None]), "damaged"),
    "geometry-nested": (column("geometry", [WKB_NESTED, None, None, None, None]), "damaged"),
    "geometry-ewkb": (column("geometry", [WKB_EWKB]), "damaged"),
    "feature-garbage": (column("geometry_px", [b"garbage"], of="features"), "damaged"),
    "geo-nonsense": (table("samples", lambda f: f.replace_schema_metadata({"geo": b"[" * 10**5})), "fine"),
    "arrow-schema-nonsense": (table("samples", lambda f: f.replace_schema_metadata({"ARROW:schema": b"!"})), "any"),
    "kind-unknown": (column("kind", ["meta"], of="members"), "any"),
    "one-label-for-all": (table("samples", one_label_for_all, use_dictionary=["label"], store_schema=False), "damaged"),
    "member-null": (column("data", [None], of="members"), "damaged"),
    "meta-no-json": (column("data", [b"["], of="members"), "any"),
    "meta-list": (column("data", [b"[1]"], of="members"), "any"),
    "bounds-of-ids": (column("data", [LONE_ID], of="members"), "any"),
    "members-of-many-ids": (column("name", ["images/" + "1." * 10**6], of="members"), "any"),
    "boxes-infinite": (column("bbox", [dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), float("inf"))]), "any"),
    "class-of-nobody": (column("class", ["nobody"], of="features"), "any"),
    "split-any": (column("split", ["", "x\x1b", BIG, None, "train"]), "any"),
    "meta-deep": (column("data", [b"[" * 10**6], of="members"), "any"),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_tables(sound, tmp_path, part):
    told = check(sound, tmp_path, dict(list(TABLES.items())[part]))
    count("P8", hostile_stores=len(told), unbounded=0)


# ------------------------------------------------------------------------------------------- files that are no objects


def replaced(key, make):
    """Put something else in the place of an object; ``key`` may name a table."""

    def change(store):
        path = store / (key_of(store, key) if "." not in key and "/" not in key else key)
        moved = store.parent / f"{store.name}-moved"
        path.rename(moved)
        make(path, moved)

    return change


def resized(key, size):
    def change(path, moved):
        shutil.copyfile(moved, path)
        os.truncate(path, size)

    return replaced(key, change)


def shard_of(entries, body=b"", slots=4096):
    """A shard with an index that says anything; its checksum fits."""

    def change(store):
        raw = np.full((slots, 2), 2**64 - 1, "<u8")
        raw[: len(entries)] = np.array(entries, dtype="<u8").reshape(-1, 2)
        data = body + raw.tobytes() + google_crc32c.value(raw.tobytes()).to_bytes(4, "little")
        (store / SHARD).write_bytes(data)
        bucket(bytes=len(data))(store)

    return change


def chunk(body):
    """A chunk, and a shard that has it five times; its checksum fits."""
    data = body + google_crc32c.value(body).to_bytes(4, "little")
    return shard_of([(n * len(data), len(data)) for n in range(5)], data * 5)


def array_document(**changes):
    def change(store):
        path = store / f"chips/{BUCKET}/image/zarr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def zstd_bomb():
    """A frame of 2 GiB of zeros that does not tell its size."""
    part = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return b"".join(part.compress(bytes(MIB)) for _ in range(256)) + part.flush()


PLACES = ("zarr.json", SHARD, "samples", f"chips/{BUCKET}/image/zarr.json")
THINGS = {
    "fifo": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
    "zeros": lambda path, _: path.symlink_to("/dev/zero"),
    "tty": lambda path, _: path.symlink_to("/dev/tty"),
    "loop": lambda path, _: path.symlink_to(path),
    "dangling": lambda path, _: path.symlink_to("nowhere"),
    "secret": lambda path, _: path.symlink_to("/etc/passwd"),
    "socket": lambda path, _: bind(path),
}
FILES = {
    **{
        f"{name}-{number}": (replaced(key, make), "refused" if key == "zarr.json" else "damaged")
        for name, make in THINGS.items()
        for number, key in enumerate(PLACES)
    },
    **{f"linked-{n}": (replaced(key, Path.symlink_to), "fine") for n, key in enumerate(PLACES)},
    "shard-cut": (resized(SHARD, 1000), "damaged"),
    "shard-empty": (resized(SHARD, 0), "damaged"),
    "shard-padded": (resized(SHARD, MIB), "damaged"),
    "shard-sparse": (resized(SHARD, 2**40), "damaged"),
    "table-sparse": (resized("samples", 2**40), "damaged"),
    "metadata-sparse": (resized(f"chips/{BUCKET}/zarr.json", 2**40), "damaged"),
    "root-sparse": (resized("zarr.json", 2**40), "refused"),
    "index-beyond": (shard_of([(2**63, 2**63)] * 5), "damaged"),
    "index-wraps": (shard_of([(2**64 - 2, 2), (0, 2**64 - 2)]), "damaged"),
    "index-huge": (shard_of([(0, 2**50)]), "damaged"),
    "index-empty": (shard_of([]), "damaged"),
    "chunk-empty": (chunk(b""), "damaged"),
    "chunk-garbage": (chunk(b"garbage"), "damaged"),
    "chunk-bomb": (chunk(zstd_bomb()), "damaged"),
    "chunk-of-1-PiB": (chunk(b"\x28\xb5\x2f\xfd\xc0\x00" + struct.pack("<Q", 2**50) + b"\x01\x00\x00"), "damaged"),
    "codec-pickle": (array_document(codecs=[{"name": "numcodecs.pickle", "configuration": {}}]), "damaged"),
    "codec-vlen": (array_document(data_type="string", codecs=[{"name": "vlen-utf8"}]), "damaged"),
    "array-2**60": (array_document(shape=[2**60] * 4), "damaged"),
    "array-no-json": (replaced(PLACES[3], lambda path, _: path.write_bytes(b"[" * 10**6)), "damaged"),
}  # fmt: skip


def bind(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


@pytest.mark.parametrize("name", ["../../images/1.tif", "/images/1.tif", "images/\n1.tif", "a\\1.tif"])
def test_export_writes_no_name_that_no_release_may_hold(sound, tmp_path, name):
    shutil.copytree(sound, tmp_path / "s")
    column("image_member", [name, *"1234"])(tmp_path / "s")
    with pytest.raises(vs.errors.StoreError):
        vs.open(tmp_path / "s").export(tmp_path / "back.tar.gz")
    assert not (tmp_path / "back.tar.gz").exists()


@pytest.mark.parametrize("part", PARTS)
def test_files(sound, tmp_path, part):
    check(sound, tmp_path, dict(list(FILES.items())[part]))


def test_a_store_may_be_a_link(sound, tmp_path):
    (tmp_path / "link.zarr").symlink_to(sound)
    assert vs.open(tmp_path / "link.zarr").verify().ok
