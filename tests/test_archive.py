import gzip
import io
import itertools
import os
import re
import socket
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import ArchiveError
from vedastore.io.archive import iter_directory, iter_members, sniff
from vedastore.io.gzip import GzipReader
from vedastore.io.member import Unread
from vedastore.io.tar import TarWriter
from vedastore.model import Limits

END = bytes(1024)
LONG = "ünï/" * 75 + "x" * 30


def header(name=b"a", kind=b"0", size=0, *, magic=b"ustar\x0000", prefix=b"", mtime=b"0" * 11, signed=False):
    """A tar header made by hand; ``size`` is a number, or the bytes of the field."""
    size = b"%011o" % size if isinstance(size, int) else size
    fields = [(name, 100), (b"0000644", 8), (b"", 8), (b"", 8), (size, 12), (mtime, 12), (b" " * 8, 8), (kind, 1)]
    fields += [(b"", 100), (magic, 8), (b"", 80), (prefix, 167)]
    block = b"".join(value.ljust(length, b"\0") for value, length in fields)
    total = sum(byte - 256 * (signed and byte > 127) for byte in block)
    return block[:148] + b"%06o\0 " % total + block[156:]


def padded(data):
    return data + bytes(-len(data) % 512)


def extension(kind, payload):
    return header(b"././@extension", kind, len(payload)) + padded(payload)


def pax(*records, kind=b"x"):
    lines = b""
    for record in records:
        rest = b" " + record + b"\n"
        length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
        lines += str(length).encode() + rest
    return extension(kind, lines)


def members(tar, limits=None):
    return list(iter_members(io.BytesIO(tar).read, "r.tar", limits or Limits()))


def written(*entries):
    """A tar of (name, data) pairs; data None makes a directory."""
    sink = io.BytesIO()
    writer = TarWriter(sink.write)
    for name, data in entries:
        writer.add(name, data or b"", is_dir=data is None)
    writer.close()
    return sink.getvalue()


def told(found):
    """What was read, in the form that `written` takes."""
    return [(member.name, None if member.is_dir else member.data) for member in found]


def refused(tar, *reasons, limits=None):
    with pytest.raises(ArchiveError) as caught:
        members(tar, limits)
    assert str(caught.value).startswith("r.tar: ")
    for reason in reasons:
        assert reason in str(caught.value)
    return str(caught.value)


RELEASE = (
    ("./", None),
    ("./images/", None),
    ("./images/1.tif", b"II*\0" * 300),
    ("./labels/1.json", b"{}"),
    ("e", b""),
)

# ----------------------------------------------------------------------------------- what the programs write, is read


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_gnu_tar_is_read_exactly(tmp_path, form):
    files = {"README": b"", "images/1.tif": os.urandom(3000), "images/10.tif": bytes(512), "labels/é 1.json": b"{}"}
    if form != "v7":
        files["d" * 80 + "/" + "f" * 90] = b"a long name"
    if form in ("gnu", "pax"):
        files["n" * 200] = b"a longer name"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "empty").mkdir()
    command = ["tar", f"--format={form}", "--mtime=@1234567890", "-C", tmp_path, "-cf", "-", "."]
    tar = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    found = members(tar)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        names = [info.name + "/" * info.isdir() for info in archive]
    assert [member.name for member in found] == names
    assert {member.name: member.data for member in found if not member.is_dir} == {
        "./" + n: d for n, d in files.items()
    }
    assert {member.name for member in found if member.is_dir} >= {"./", "./images/", "./empty/"}
    assert [member.ordinal for member in found] == list(range(len(found)))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_pythons_tarfile_is_read_exactly(form):
    names = ["a", "é" * 40, "x" * 99, "y" * 100] + ([LONG, "z" * 101] if form != tarfile.USTAR_FORMAT else [])
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 1.75 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(info, io.BytesIO(b"." * len(name)))
    assert told(members(sink.getvalue())) == [(name, b"." * len(name)) for name in names]


# -------------------------------------------------------------------------------------------------------- the headers


def test_pax_records_replace_the_header():
    tar = pax(b"path=images/\xc3\xa9=1.tif", b"size=5", b"mtime=7.25", b"comment=a\nb", b"linkpath=") + header(size=0)
    [member] = members(tar + padded(b"hello") + END)
    assert (member.name, member.data) == ("images/é=1.tif", b"hello")


def test_pax_records_hold_for_one_member_and_the_last_one_wins():
    tar = pax(b"path=p", b"path=q") + header(b"a") + header(b"b") + END
    assert [member.name for member in members(tar)] == ["q", "b"]


def test_global_pax_header_with_a_comment_is_skipped():
    tar = pax(b"comment=3f2a", b"mtime=9", kind=b"g") + header(b"a") + END
    assert told(members(tar)) == [("a", b"")]


def test_long_link_name_is_skipped():
    assert told(members(extension(b"K", b"x" * 200 + b"\0") + header(b"a") + END)) == [("a", b"")]


def test_prefix_is_of_ustar_only():
    assert told(members(header(b"name", prefix=b"folder") + END)) == [("folder/name", b"")]
    assert told(members(header(b"name", prefix=b"folder", magic=b"ustar  \0") + END)) == [("name", b"")]
    assert told(members(header(b"name", prefix=b"folder", magic=b"") + END)) == [("name", b"")]


@pytest.mark.parametrize("size", [b"00000000005\0", b"5", b"          5 ", b"\x80" + b"\0" * 10 + b"\5"])
def test_forms_of_a_number(size):
    assert told(members(header(size=size) + padded(b"hello") + END)) == [("a", b"hello")]


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0o5", b"1_1", b"9", b"5x", b"5 5", b"\xff" * 12])
def test_what_is_no_number(size):
    refused(header(size=size) + padded(b"hello") + END, "header at byte 0", "is no number")


def test_signed_checksum():
    tar = header("é".encode(), signed=True) + END
    assert tar != header("é".encode()) + END
    assert told(members(tar)) == [("é", b"")]


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_kinds_of_files(kind):
    assert told(members(header(kind=kind, size=3) + padded(b"abc") + END)) == [("a", b"abc")]


def test_directories():
    tar = header(b"a", b"5") + header(b"b/", b"5") + header(b"c/", b"\0", magic=b"") + END
    assert told(members(tar)) == [("a", None), ("b/", None), ("c/", None)]
    refused(header(b"a/", b"5", 1) + padded(b"x") + END, "a/", "directory with data")
    refused(header(b"a/", b"0") + END, "a/", "file with the name of a directory")


@pytest.mark.parametrize("byte", range(0, 512, 7))
def test_damaged_header(byte):
    block = bytearray(header(b"a") + header(b"b"))
    block[512 + byte] ^= 1
    refused(bytes(block) + END, "r.tar: header at byte 512: is damaged")


def test_unknown_magic():
    refused(header(magic=b"other") + END, "no tar header")
    refused(b"x" * 10240, "no tar header")


# -------------------------------------------------------------------------------------------------------- refused kinds


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b"1", "hard link"),
        (b"2", "symbolic link"),
        (b"3", "character device"),
        (b"4", "block device"),
        (b"6", "FIFO"),
        (b"D", "GNU directory dump"),
        (b"M", "multi-volume"),
        (b"S", "sparse file"),
        (b"V", "volume label"),
        (b"X", "unknown kind b'X'"),
        (b"\xff", "unknown kind"),
    ],
)
def test_refused_kinds(kind, words):
    refused(header(b"ok") + header(b"images/1.tif", kind) + END, "r.tar: images/1.tif: is ", words)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_files_of_gnu_tar(tmp_path, form):
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(0, io.SEEK_END)
        file.write(b"end")
    command = ["tar", f"--format={form}", "-S", "-C", tmp_path, "-cf", "-", "holes"]
    refused(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, "is a sparse file")


def test_links_and_fifos_of_gnu_tar(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "soft").symlink_to("/etc/passwd")
    (tmp_path / "hard").hardlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    for name, words in ("soft", "symbolic link"), ("hard", "hard link"), ("fifo", "FIFO"):
        command = ["tar", "-C", tmp_path, "-cf", "-", "file", name]
        refused(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, f"r.tar: {name}: is a {words}")


# ---------------------------------------------------------------------------------------------------------- pax, abused


@pytest.mark.parametrize(
    "payload",
    [
        b"x",
        b"8 a=b\n",
        b"5 a=b\n",
        b"07 a=b",
        b"6 abc\n",
        b"5 =b\n",
        b"-6 a=b\n",
        b"99999999999999999999 a=b\n",
        b"6 a=b\n\0",
        b"3 a=b\n",
        b" 6 a=b\n",
    ],
)
def test_malformed_pax_header(payload):
    refused(extension(b"x", payload) + header() + END, "r.tar: a: its pax header is malformed")
    refused(extension(b"g", payload) + header() + END, "header at byte 0", "malformed")


@pytest.mark.parametrize("record", [b"size=-1", b"size=1.5", b"size=", b"size=0x1", b"size=" + b"9" * 5000])
def test_pax_size_that_is_none(record):
    refused(pax(record) + header() + END, "size that is no number")


@pytest.mark.parametrize("record", [b"mtime=nan", b"mtime=-1", b"mtime=.5"])
def test_dates_do_not_matter(record):
    (member,) = members(pax(record) + header(mtime=b"\xff" * 12) + END)
    assert member.name == "a"


@pytest.mark.parametrize("record", [b"path=b", b"size=1", b"linkpath=b"])
def test_global_pax_header_must_not_name_or_measure(record):
    refused(pax(record, kind=b"g") + header() + END, "all members at once")


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_pax_sparse_keywords(kind):
    refused(pax(b"GNU.sparse.major=1", kind=kind) + header() + END, "sparse")


def test_two_headers_for_one_member():
    long_name = extension(b"L", b"name\0")
    for kind, twice in ("pax header", pax(b"a=b")), ("long name", long_name), ("long link name", extension(b"K", b"l")):
        refused(twice + twice + header() + END, f"a {kind} follows a {kind} of the same member")
    refused(long_name + pax(b"path=b") + header() + END, "two long names")


@pytest.mark.parametrize("pending", [pax(b"path=a"), extension(b"L", b"a\0"), extension(b"K", b"a\0")])
def test_header_for_a_member_that_does_not_come(pending):
    refused(pending + END, "announces one more member")


# --------------------------------------------------------------------------------------------------------------- names

BAD_NAMES = [
    (b"/etc/passwd", "absolute"),
    (b"..", "'..'"),
    (b"../a", "'..'"),
    (b"a/../b", "'..'"),
    (b"a/..", "'..'"),
    (b"C:a", "drive"),
    (b"c:/a", "drive"),
    (b"a\\b", "backslash"),
    (b"a\nb", "control"),
    (b"a\x1b[31m", "control"),
    (b"a\x7f", "control"),
    ("a\x85".encode(), "control"),
    (b"a\xff", "not UTF-8"),
    (b"a\xed\xa0\x80", "not UTF-8"),
    (b"", "empty"),
]


@pytest.mark.parametrize(("name", "words"), BAD_NAMES)
def test_refused_names(name, words):
    for tar in header(name), extension(b"L", name + b"\0") + header(), pax(b"path=" + name) + header():
        message = refused(tar + END, "its name", words)
        assert message.isascii()
        assert message.isprintable()


def test_nul_within_a_long_name():
    refused(extension(b"L", b"a\0b\0") + header() + END, "control character")
    refused(pax(b"path=a\0b") + header() + END, "control character")


@pytest.mark.parametrize("name", ["a..b", "...", ".DS_Store", "ab:c", "images/._1.tif", "a b", "日本", "./x", "a//b"])
def test_names_that_look_odd_but_are_kept(name):
    assert told(members(header(name.encode()) + END)) == [(name, b"")]


def test_a_long_name_is_shown_in_part():
    assert len(refused(pax(b"path=" + b"x" * 500_000) + header() + END, "above the limit of 4096")) < 500


# -------------------------------------------------------------------------------------------------------------- limits


def test_limits():
    limits = Limits(member_bytes=10, header_bytes=100, name_chars=5, members=2)
    assert len(members(written(("12345", b"x" * 10), ("b", b"")), limits)) == 2
    refused(written(("a", b"x" * 11)), "r.tar: a: its size of 11 bytes is above the limit of 10", limits=limits)
    refused(written(("123456", b"")), "its name of 6 characters is above the limit of 5", limits=limits)
    refused(
        written(("a", b""), ("b", b""), ("c", b"")),
        "r.tar: c: the number of members is above the limit of 2",
        limits=limits,
    )
    for kind in b"x", b"g", b"L", b"K":
        refused(extension(kind, b"x" * 101) + END, "of 101 bytes is above the limit of 100", limits=limits)


def test_padding_has_a_limit():
    tar = written(("a", b"x"))
    assert members(tar + bytes(3 << 20), Limits(padding_bytes=4 << 20))
    refused(tar + bytes(5 << 20), "above the limit of 4194304", limits=Limits(padding_bytes=4 << 20))


@pytest.mark.parametrize("place", [100, 108, 116, 136])
def test_fields_that_are_no_numbers(place):
    block = bytearray(header())
    block[place : place + 8] = b"0000x44\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    refused(bytes(block) + END, "is no number")
    block[place : place + 8] = b"\xff" * 8 if place == 136 else b"\x80" + bytes(6) + b"\1"  # GNU's way to write more
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert [m.name for m in members(bytes(block) + END)] == ["a"]


def test_a_long_name_without_its_end():
    refused(extension(b"L", b"images/1") + header() + END, "its long name has no end")


def test_refusals_name_their_rule():
    def rule_of(tar, limits=None):
        with pytest.raises(ArchiveError) as caught:
            members(tar, limits)
        return caught.value.rule

    assert rule_of(written(("a", b"x"))[:600]) == "archive-damaged"
    assert rule_of(header(kind=b"2") + END) == "archive-member"
    assert rule_of(header(b"../a") + END) == "archive-member"
    assert rule_of(written(("a", b"xx")), Limits(member_bytes=1)) == "archive-limit"


@pytest.mark.parametrize("size", [2 << 30, (2 << 30) + 1, 1 << 62])
def test_a_size_that_is_only_declared_allocates_nothing(size):
    asked = []
    stream = io.BytesIO(header(size=b"\x80" + size.to_bytes(11, "big")) + b"x" * 1000)

    def read(amount):
        asked.append(amount)
        return stream.read(amount)

    with pytest.raises(ArchiveError, match=r"cut short|above the limit"):
        list(iter_members(read, "r.tar"))
    assert max(asked) <= 16 << 20


# ------------------------------------------------------------------------------------------------------------- the end


def test_an_empty_archive_has_no_members():
    assert members(END) == members(bytes(10240)) == []


def test_every_cut_of_a_tar_is_noticed():
    tar = written(*RELEASE)
    end = tar.rindex(b"e".ljust(100, b"\0")) + 512 + 1024
    assert told(members(tar[:end])) == list(RELEASE)
    for length in (*range(0, end, 512), *range(end - 20, end), *range(1, end, 97)):
        refused(tar[:length], "ends without its end marker")


def test_every_cut_of_a_compressed_tar_is_noticed():
    compressed = gzip.compress(written(*RELEASE, ("noise", os.urandom(5000))), mtime=0)
    for length in (*range(0, len(compressed), 512), *range(len(compressed) - 32, len(compressed))):
        with pytest.raises(ArchiveError):
            list(iter_members(GzipReader(io.BytesIO(compressed[:length]), "r").read, "r"))


def test_the_gzip_trailer_is_checked_at_the_end_of_the_archive():
    compressed = bytearray(gzip.compress(written(*RELEASE)))
    compressed[-6] ^= 1
    found = iter_members(GzipReader(io.BytesIO(compressed), "r").read, "r")
    with pytest.raises(ArchiveError, match="damaged"):
        list(found)


def test_an_archive_in_many_gzip_members():
    tar = written(*RELEASE)
    compressed = b"".join(gzip.compress(tar[start : start + 700]) for start in range(0, len(tar), 700))
    assert told(iter_members(GzipReader(io.BytesIO(compressed), "r").read, "r")) == list(RELEASE)


def test_half_an_end_marker():
    refused(header() + bytes(512), "cut short")
    refused(header() + bytes(512) + header() + END, "half of an end marker")


@pytest.mark.parametrize("tail", [b"x", bytes(3000) + b"x", header(b"b") + END, bytes(2 << 20) + header(b"b") + END])
def test_data_after_the_end(tail):
    refused(header() + END + tail, "second archive or other data")


def test_zeros_after_the_end():
    assert told(members(header() + END + bytes(3 << 20))) == [("a", b"")]


@given(st.lists(st.integers(1, 900), min_size=1))
def test_a_stream_may_give_less_than_it_was_asked_for(sizes):
    tar, turn = io.BytesIO(written(*RELEASE)), itertools.cycle(sizes)
    assert told(iter_members(lambda size: tar.read(min(size, next(turn))), "r")) == list(RELEASE)


def test_errors_of_the_stream_pass_through():
    def read(size):
        raise OSError(size)

    with pytest.raises(OSError, match="512"):
        next(iter_members(read, "r"))


# -------------------------------------------------------------------------------------------------------------- writer

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\/:"), min_size=1, max_size=150)
PATHS = st.lists(NAMES.filter(lambda name: name != ".."), min_size=1, max_size=4).map("/".join)
ENTRIES = st.one_of(
    st.tuples(PATHS, st.binary(max_size=2000), st.just(False)),
    st.tuples(PATHS.flatmap(lambda path: st.sampled_from([path, path + "/"])), st.just(b""), st.just(True)),
)


@given(st.lists(st.tuples(ENTRIES, st.integers(0, 1 << 40)), max_size=6))
def test_what_is_written_is_read_back(entries):
    sink = io.BytesIO()
    writer = TarWriter(sink.write)
    for (name, data, is_dir), mtime in entries:
        writer.add(name, data, mtime=mtime, is_dir=is_dir)
    writer.close()
    found = [(member.name, member.data, member.is_dir) for member in members(sink.getvalue())]
    assert found == [entry for entry, _ in entries]
    assert len(sink.getvalue()) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        listed = [(i.name, archive.extractfile(i).read() if i.isfile() else b"", i.mtime) for i in archive]
    assert listed == [(name.rstrip("/"), data, mtime) for (name, data, _), mtime in entries]


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("length", [98, 99, 100, 101, 102, 300])
def test_names_around_the_length_of_the_field(length, slash):
    entries = [("x" * length, b"file"), ("d" * (length - 1) + slash, None), ("é" * (length // 2), b"")]
    assert told(members(written(*entries))) == entries


def test_gnu_tar_lists_and_reads_what_is_written():
    tar = written(*RELEASE, (LONG, b"long"))

    def run(*options):
        return subprocess.run(
            ["tar", "--quoting-style=literal", *options], input=tar, stdout=subprocess.PIPE, check=True
        )

    assert run("-tf", "-").stdout.decode().splitlines() == [name for name, _ in RELEASE] + [LONG]
    assert run("-xOf", "-", LONG).stdout == b"long"
    lines = run("-tvf", "-", "--numeric-owner", "--utc").stdout.decode().splitlines()
    assert re.match(r"drwxr-xr-x 0/0 +0 1970-01-01 00:00 \./", lines[0])
    assert re.match(r"-rw-r--r-- 0/0 +1200 1970-01-01 00:00 \./images/1.tif", lines[2])


def test_a_name_that_is_no_text_is_not_written():
    with pytest.raises(UnicodeEncodeError):
        written(("a\udcff", b""))


def test_an_empty_tar_is_one_record():
    assert written() == bytes(10240)


# --------------------------------------------------------------------------------------------------------------- sniff


@pytest.mark.parametrize("magic", [b"ustar\x0000", b"ustar  \0", b""])
def test_sniff_tar(magic):
    assert sniff(header(magic=magic)) == "tar"


def test_sniff():
    assert sniff(bytes(1024)) == "tar"
    assert sniff(gzip.compress(b"")) == "gzip"
    for head in b"", b"\x1f", b"PK\3\4" + bytes(600), bytes(511), header(magic=b"")[:-1], b"x" * 512:
        assert sniff(head) == "unknown"


# ----------------------------------------------------------------------------------------------------------- directory


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "ts_104-1.0.1"
    for name in "images/10.tif", "images/9.tif", "images/2.tif", "labels/2.json", "meta.json", "images/01.tif":
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "empty").mkdir()
    return root


def in_directory(root, limits=None):
    found = iter_directory(root, "folder", limits or Limits())
    return [member.read("folder") if isinstance(member, Unread) else member for member in found]


NATURAL = ["empty/", "images/01.tif", "images/2.tif", "images/9.tif", "images/10.tif", "labels/2.json", "meta.json"]


def test_directory_of_a_release(release):
    found = in_directory(release)
    assert [member.name for member in found] == [f"ts_104-1.0.1/{name}" for name in NATURAL]
    assert [member.ordinal for member in found] == list(range(7))
    assert [member.is_dir for member in found] == [True] + [False] * 6
    assert found[2].data == b"images/2.tif"


def test_directory_around_a_release(release):
    assert in_directory(release.parent) == in_directory(release)


def test_directory_has_its_real_name(release, monkeypatch):
    (release.parent / "link").symlink_to(release)
    monkeypatch.chdir(release)
    assert in_directory(release.parent / "link") == in_directory(type(release)()) == in_directory(release)


def test_natural_order_is_total(tmp_path):
    for name in "a1", "a01", "a001", "a", "1a", "1", "b", "A1", "1.5", "1.10", "é":
        (tmp_path / name).touch()
    names = [member.name for member in in_directory(tmp_path)]
    assert names == ["1", "1.5", "1.10", "1a", "A1", "a", "a001", "a01", "a1", "b", "é"]


def test_an_empty_directory_has_no_members(tmp_path):
    assert in_directory(tmp_path) == []


def refused_in(root, *reasons, limits=None):
    with pytest.raises(ArchiveError) as caught:
        in_directory(root, limits)
    assert str(caught.value).startswith("folder: ")
    for reason in reasons:
        assert reason in str(caught.value)


@pytest.mark.parametrize("target", ["images/2.tif", "images", "nowhere", "/etc/passwd"])
def test_links_in_a_directory(release, target):
    (release / "images" / "3.tif").symlink_to(target)
    refused_in(release, "folder: ts_104-1.0.1/images/3.tif: is a symbolic link")


def test_images_that_are_a_link(release):
    (release / "images").rename(release.parent / "elsewhere")
    (release / "images").symlink_to(release.parent / "elsewhere")
    refused_in(release, "ts_104-1.0.1/images: is a symbolic link")


def test_fifos_and_sockets_in_a_directory(release, monkeypatch):
    os.mkfifo(release / "a")
    refused_in(release, "ts_104-1.0.1/a: is a device, FIFO or socket")
    (release / "a").unlink()
    monkeypatch.chdir(release)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a")
        refused_in(release, "ts_104-1.0.1/a: is a device, FIFO or socket")


@pytest.mark.parametrize("name", [b"a\\b", b"a\nb", b"a\xff", b"C:"])
def test_names_in_a_directory(tmp_path, name):
    (tmp_path / os.fsdecode(name)).touch()
    refused_in(tmp_path, "its name")


def test_limits_of_a_directory(release):
    in_directory(release, Limits(member_bytes=13, name_chars=30, members=7))
    refused_in(release, "above the limit of 12", limits=Limits(member_bytes=12))
    refused_in(release, "above the limit of 20", limits=Limits(name_chars=20))
    refused_in(release, "the number of members is above the limit of 6", limits=Limits(members=6))


def test_directories_deeper_than_the_stack(tmp_path):
    subprocess.run(["mkdir", "-p", tmp_path / ("d/" * 1500)], check=True)
    try:
        assert [member.name for member in in_directory(tmp_path)] == ["d/" * 1500]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_directory_that_cannot_be_read(tmp_path):
    refused_in(tmp_path / "none", "folder: cannot be read: No such file")
    (tmp_path / "file").touch()
    refused_in(tmp_path / "file", "cannot be read")
