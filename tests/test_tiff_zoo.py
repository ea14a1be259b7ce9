"""Every layout of the catalogue: given back as promised, with rasterio as referee, or refused by name."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

import vedastore as vs
from tests import builders
from tests.tiff_bytes import Page, image, pack_bits
from tests.tiff_bytes import tiff as tiff_bytes
from tests.zoo import DECODED, EQUIVALENT, EXACT, REFUSED, by_gdal, read_tags, some_pixels, sweep
from tests.zoo_specials import numbers, one, pattern, specials
from vedastore.errors import ImageError
from vedastore.io import tiff
from vedastore.model import Limits

SPECIALS = list(specials())
KEPT_WHOLE = [entry for entry in SPECIALS if entry.whole]


def by_group(entries, key):
    """Entries by group, as arguments of a parametrised test."""
    ordered = sorted(entries, key=key)
    return {name: list(group) for name, group in itertools.groupby(ordered, key)}


SWEPT = by_group(sweep(), lambda entry: f"{entry.group}-{entry.name.split()[0]}")
GROUPS = by_group(SPECIALS, lambda entry: entry.group)


def referee(data):
    """All that rasterio tells of a file."""
    pairs_of_int32 = read_tags(data)[3].get(339, (1,))[0] == 5 and read_tags(data)[3][258][0] == 64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
            pixels = file.read(out_dtype="complex128" if pairs_of_int32 else None)
            facts = {
                "crs": _crs(file.crs), "transform": _transform(file), "nodata": str(file.nodata),
                "palette": file.colormap(1) if "palette" in str(file.colorinterp[0]) else None,
                "mask": file.dataset_mask().tobytes(), "overviews": [file.overviews(b) for b in file.indexes],
                "control points": [(p.row, p.col, p.x, p.y, p.z) for p in file.gcps[0]],
                "rpc": None if file.rpcs is None else file.rpcs.to_dict(), "tags": file.tags(), "band": file.tags(1),
                "names": file.descriptions, "scales": file.scales, "offsets": file.offsets, "units": file.units,
                "blocks": file.block_shapes, "pages": len(file.subdatasets),
            }  # fmt: skip
            if file.overviews(1):
                facts["overview"] = file.read(out_shape=(file.count, file.height // 2, file.width // 2)).tobytes()
    return pixels, facts


def _crs(crs):
    if not crs:
        return None
    code = crs.to_epsg(confidence_threshold=100)
    return f"EPSG:{code}" if code and CRS.from_epsg(code) == crs else crs.to_wkt(version="WKT2_2019")


def _transform(file):
    return None if file.transform == rasterio.Affine.identity() else tuple(file.transform)[:6]


def same_pixels(one_array, other):
    """Same numbers of the same type; float16 alone is narrower than what GDAL makes of it."""
    wide = one_array.astype("float32") if one_array.dtype == "float16" and other.dtype == "float32" else one_array
    return wide.dtype == other.dtype and wide.shape == other.shape and wide.tobytes() == other.tobytes()


def check(entry):
    """Hold an entry to its promise."""
    data = entry.build()
    if entry.outcome == REFUSED:
        with pytest.raises(ImageError) as caught:
            tiff.decode(data)
        assert (caught.value.rule, bool(caught.value.hint)) == ("image-unsupported", True), entry
        return
    taken, (pixels, facts) = tiff.decode(data), referee(data)
    info = tiff.describe(taken.envelope)
    assert (taken.fidelity, info.encoder == "verbatim") == (entry.outcome, entry.whole), entry
    assert same_pixels(taken.pixels, pixels), entry
    assert entry.pixels is None or same_pixels(taken.pixels, entry.pixels), entry
    assert (taken.crs, taken.transform) == (facts["crs"], facts["transform"]), entry
    assert str(float(taken.nodata) if taken.nodata else None) == facts["nodata"], entry
    again = tiff.encode(taken.pixels, taken.envelope)
    if entry.outcome == EXACT:
        assert again == data, entry
        return
    pixels_again, facts_again = referee(again)
    assert same_pixels(pixels_again, pixels), entry
    assert facts_again == facts, entry
    if entry.outcome == EQUIVALENT:
        assert tiff.differences(data, again) == [], entry


@pytest.mark.parametrize("group", SWEPT)
def test_sweep(group):
    for entry in SWEPT[group]:
        check(entry)


@pytest.mark.parametrize("group", GROUPS)
def test_special(group):
    for entry in GROUPS[group]:
        check(entry)


def test_the_catalogue_is_what_it_says():
    """Entries are told apart by their names, and all outcomes are there."""
    names = [(entry.group, entry.name) for group in (*SWEPT.values(), SPECIALS) for entry in group]
    assert len(names) == len(set(names)) > 1000
    assert {entry.outcome for entry in SPECIALS} == {EXACT, EQUIVALENT, DECODED, REFUSED}


# ------------------------------------------------------------------------------ files that are kept whole


@pytest.mark.parametrize("entry", KEPT_WHOLE, ids=lambda entry: f"{entry.group}-{entry.name}")
def test_other_pixels_do_not_fit_the_file_that_is_kept(entry):
    taken = tiff.decode(entry.build())
    edited = taken.pixels.copy()
    edited[0, 0, 0] += 1
    for wrong in (edited, taken.pixels[:, 1:], np.zeros(taken.pixels.shape, "float16")):
        with pytest.raises(ImageError, match="not those of the file"):
            tiff.encode(wrong, taken.envelope)


def test_a_damaged_file_that_is_kept_is_noticed():
    data = one(numbers(12).tobytes(), bits=12)
    taken = tiff.decode(data)
    flipped = bytearray(taken.envelope)
    flipped[taken.envelope.index(data) + 500] ^= 1
    with pytest.raises(ImageError, match="not those of the file"):
        tiff.encode(taken.pixels, bytes(flipped))


def test_blank_fax_pages_are_no_bombs():
    """They compress nearly without bound; only above what is trusted the ratio counts."""
    data = by_gdal(np.zeros((1, 4000, 4000), "uint8"), NBITS=1, compress="CCITTFAX4", blockysize=4000)
    assert len(data) < 4000
    assert tiff.decode(data).pixels.shape == (1, 4000, 4000)
    with pytest.raises(ImageError, match="claim to hold") as caught:
        tiff.decode(data, Limits(image_trusted_bytes=2**20))
    assert (caught.value.rule, "--limit image_expansion=" in caught.value.hint) == ("image-limit", True)


@pytest.mark.parametrize("entry", KEPT_WHOLE[::7], ids=lambda entry: f"{entry.group}-{entry.name}")
def test_limits_hold_before_pixels_are_read(entry):
    with pytest.raises(ImageError, match="over the limit of 500") as caught:
        tiff.decode(entry.build(), Limits(image_bytes=500))
    assert (caught.value.rule, "--limit image_bytes=" in caught.value.hint) == ("image-limit", True)


@pytest.mark.parametrize(
    "tags", [{256: 1 << 30, 257: 1 << 30}, {322: 1 << 30, 323: 1 << 30}, {256: 200_000, 257: 200_000}]
)
@pytest.mark.parametrize(("bits", "scheme"), [(1, 4), (12, 1), (4, 32809), (1, 3), (2, 8)])
def test_terabytes_of_odd_layouts(tags, bits, scheme):
    sizes = {tag: ("I", [value]) for tag, value in tags.items()}
    data = tiff_bytes(Page(image(48, 40, bits=bits, scheme=scheme) | sizes, [bytes(100)]))
    with pytest.raises(ImageError) as caught:
        tiff.decode(data)
    assert caught.value.rule == "image-limit"


def test_an_image_above_the_limits_of_today_is_put_together():
    """It was let in with other limits; its pixels are there already."""
    for data in (by_gdal(compress="deflate"), by_gdal(pattern(), NBITS=1, compress="CCITTFAX4")):
        taken = tiff.decode(data)
        assert tiff.encode(taken.pixels, taken.envelope, Limits(image_bytes=100, image_trusted_bytes=1)) == data


@pytest.mark.parametrize("cut", [1, 30, 500])
def test_truncated_odd_layouts_are_damaged(cut):
    data = by_gdal(numbers(12), NBITS=12)[:-cut]
    with pytest.raises(ImageError) as caught:
        tiff.decode(data)
    assert caught.value.rule == "image-damaged"


@pytest.mark.parametrize("place", [1, 5, 2000, 1 << 30])
def test_odd_pixels_upon_the_header_or_behind_the_end(place):
    """GDAL would take for pixels what is not in the file."""
    tags = image(48, 40, bits=12) | {273: ("I", [place]), 279: ("I", [2880])}
    for lengths in ({}, {279: ("I", [5])}, {279: ("I", [0])}):
        with pytest.raises(ImageError, match=r"header|truncated|without lengths"):
            tiff.decode(tiff_bytes(Page(tags | lengths, [bytes(2880)])))


# ------------------------------------------------------------------------------ arbitrary bytes


@settings(max_examples=400)
@given(data=st.data())
def test_no_foreign_error_escapes(data):
    entry = data.draw(st.sampled_from(SPECIALS))
    good = bytearray(entry.build())
    ends = st.one_of(st.integers(0, min(300, len(good) - 1)), st.integers(0, len(good) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(ends) if data.draw(st.booleans()) else len(good) - 1 - data.draw(ends)
        good[place] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 12, 127, 128, 255]))
    bad = bytes(good)
    taken = or_rule(tiff.decode, bad)
    if isinstance(taken, str):
        assert taken in {"image-damaged", "image-unsupported", "image-limit"}
        return
    assert tiff.describe(taken.envelope).fidelity == taken.fidelity
    again = tiff.encode(taken.pixels, taken.envelope)
    assert taken.fidelity != EXACT or again == bad
    assert taken.fidelity == DECODED or or_rule(tiff.differences, bad, again) in ([], "image-damaged")


def or_rule(function, *arguments):
    """What a function returns, or the rule that it finds broken."""
    try:
        return function(*arguments)
    except ImageError as error:
        return error.rule


# ------------------------------------------------------------------------------ differences


def test_differences_behind_the_first_page():
    entry = next(entry for entry in SPECIALS if entry.group == "several pages, SubIFDs, EXIF")
    data = entry.build()
    half = some_pixels(bands=1, height=20, width=24).tobytes()
    for part, told in ((half, "directory below 1: other strips"), (b"2019:06", "directory below 3: tag 36867")):
        place = data.index(part)
        changed = data[:place] + b"1" + data[place + 1 :]
        assert told in "\n".join(tiff.differences(data, changed))
    place = data.index(pack_bits(pattern()[0], 1))
    changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    assert tiff.differences(data, changed) == ["page 3: other strips or tiles"]
    assert tiff.differences(data, data) == []


def test_differences_of_files_that_are_kept_whole():
    a, b = (by_gdal(numbers(12, seed=seed), NBITS=12, compress="lzw") for seed in (1, 2))
    assert tiff.differences(a, a) == []
    assert "pixel values" in tiff.differences(a, b)[0]


# ------------------------------------------------------------------------------ a whole release


@pytest.fixture(scope="module")
def zoo_release(tmp_path_factory):
    """One sample of each special layout, with sidecars, as an archive."""
    release = builders.Release()
    entries = [
        next(e for e in group if e.outcome != REFUSED) for group in GROUPS.values() if group[0].outcome != REFUSED
    ]
    for number, entry in enumerate(entries):
        feature = {"type": "Feature", "geometry": None, "properties": {"label": {"odd": number % 2}}}
        sample = builders.Sample(f"{number}", entry.build(), feature)
        release.members[f"{release.top}/images/{number}.tif"] = sample.image
        release.members[f"{release.top}/labels/{number}.json"] = sample.label_bytes()
    for name in ("1.tif.aux.xml", "1.tif.ovr", "1.tfw"):
        release.members[f"{release.top}/images/{name}"] = name.encode() * 9
    folder = tmp_path_factory.mktemp("zoo")
    return entries, release, release.tar_gz(folder / "zoo-1.0.0.tar.gz")


def test_a_release_of_all_layouts(zoo_release, tmp_path):
    entries, release, source = zoo_release
    collection = vs.convert(source, tmp_path / "zoo.zarr")
    assert len(collection) == len(entries) > 50
    for number, entry in enumerate(entries):
        assert same_pixels(collection[str(number)].image.to_numpy(), referee(entry.build())[0])
    collection.export(tmp_path / "back.tar.gz")
    back = builders.gnu_tar_members(tmp_path / "back.tar.gz", tmp_path / "back")
    given = dict(release.members)
    for number, entry in enumerate(entries):
        name = f"{release.top}/images/{number}.tif"
        if entry.outcome != EXACT:
            assert same_pixels(referee(back.pop(name))[0], referee(given.pop(name))[0])
    assert back == given
    assert f"{release.top}/images/1.tif.ovr" in given
    report = collection.verify(against=source)
    assert report.ok, report.problems
    assert report.equivalent == sum(entry.outcome != EXACT for entry in entries)
