import json
import math
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore.errors import LabelError
from vedastore.io import geojson
from vedastore.io.geojson import _check_limits, _depth, _may_be_huge, _memory, iter_features, parse_json
from vedastore.model import LabelOptions, Limits
from vedastore.spec.labels import parse_label

WHERE = "r.tar.gz: labels/1.json"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON, st.booleans(), st.booleans())
def test_reads_what_json_writes(value, ascii_only, bom):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text.encode("utf-8-sig" if bom else "utf-8"), WHERE) == value


@given(JSON, st.sampled_from([None, (",", ":")]))
def test_means_what_the_standard_library_reads(value, separators):
    text = json.dumps(value, ensure_ascii=False, separators=separators)
    assert repr(parse_json(text.encode(), WHERE)) == repr(json.loads(text))


@given(st.integers(-(2**70), 2**70), st.sampled_from(["{}", "[{}]", "[0.5, {}]", '{{"a": [[{}]]}}', "{}.0", "{}e0"]))
def test_numbers_are_as_exact_as_they_can_be(number, around):
    text = around.format(number)
    assert repr(parse_json(text.encode(), WHERE)) == repr(json.loads(text))


KEYS = ["a", "b", "a:b", ":", ""]
VALUES = [
    "1",
    '":"',
    '"a:b"',
    '[1, ":"]',
    '[":"]',
    '[[":"]]',
    '{"a": ":"}',
    '{":": {}}',
    '[{"a:b": 1}, ":"]',
    '"\\u003a"',
]


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES))), st.sampled_from(["{}", "[1, {}]", "[[{}]]"])
)
def test_a_key_that_stands_twice_is_found_whatever_has_colons(pairs, around):
    text = around.replace("{}", "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}")
    if len({key for key, _ in pairs}) == len(pairs):
        assert parse_json(text.encode(), WHERE) == json.loads(text)
    else:
        with pytest.raises(LabelError, match="stands twice"):
            parse_json(text.encode(), WHERE)


@pytest.mark.parametrize(
    ("data", "message", "rule"),
    [
        (b'{"a": NaN}', "NaN is not JSON", "json-number"),
        (b"[Infinity]", "Infinity is not JSON", "json-number"),
        (b"[-Infinity]", "-Infinity is not JSON", "json-number"),
        (b"[1e999]", "the number 1e999 is out of range", "json-number"),
        (b"[-1.5E+400]", "the number -1.5E+400 is out of range", "json-number"),
        (b"[1e0309]", "the number 1e0309 is out of range", "json-number"),
        (b"1" * 300 + b"e99", "is out of range", "json-number"),
        (b"9" * 400 + b".5", "is out of range", "json-number"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice in one object", "json-duplicate-key"),
        (b'{"a": 1, "\\u0061": 2}', "the key 'a' stands twice in one object", "json-duplicate-key"),
        (b'{"x": [{"type": 1, "type": 2}]}', "the key 'type' stands twice in one object", "json-duplicate-key"),
        (b"", "not JSON: the file is empty at line 1, column 1", "json-syntax"),
        (b'{"a": 1,\n "b" 2}', "not JSON: Expecting ':' delimiter at line 2, column 6", "json-syntax"),
        (b"{} {}", "not JSON: Extra data at line 1, column 4", "json-syntax"),
        (b"{'a': 1}", "not JSON", "json-syntax"),
        (b'["a\nb"]', "not JSON: Invalid control character at line 1, column 4", "json-syntax"),
        (b"\xff", "not UTF-8 text at byte 0", "json-encoding"),
        (b'{"a": "\xe9"}', "not UTF-8 text at byte 7", "json-encoding"),
        (b'"\xed\xa0\x80"', "not UTF-8 text at byte 1", "json-encoding"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not JSON", "json-syntax"),
        (b"1" * 5000, "has more than 4300 digits", "json-number"),
    ],
)
def test_refuses(data, message, rule):
    with pytest.raises(LabelError) as caught:
        parse_json(data, WHERE)
    assert message in caught.value.message
    assert (caught.value.where, caught.value.rule) == (WHERE, rule)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_refuses_other_encodings(encoding):
    with pytest.raises(LabelError, match="not UTF-8") as caught:
        parse_json('{"label": "é"}'.encode(encoding), WHERE)
    assert caught.value.rule == "json-encoding"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [513, 3_000, 200_000])
def test_refuses_deep_nesting(opening, depth):
    with pytest.raises(LabelError, match="JSON nested too deeply"):
        parse_json((opening * depth).encode(), WHERE)


def test_takes_what_is_nested_less():
    deep = b"[" * 512 + b"]" * 512
    assert parse_json(deep, WHERE)
    assert parse_json(b'{"a": "' + b"[" * 5000 + b'\\"", "b": ' + deep[1:-1] + b"}", WHERE)["a"] == "[" * 5000 + '"'


def test_keeps_big_integers():
    assert parse_json(b"[18446744073709551617]", WHERE) == [2**64 + 1]
    assert parse_json(str(10**400).encode(), WHERE) == 10**400


def test_reads_what_is_long_but_in_range():
    assert parse_json(b"[1e-999, 1.7976931348623157e308, -0.0]", WHERE) == [0.0, 1.7976931348623157e308, 0.0]
    assert parse_json(b"0." + b"3" * 500, WHERE) == pytest.approx(1 / 3)
    assert parse_json(b"1" * 250 + b".0e-10", WHERE) == pytest.approx(10**240 / 9)


@given(st.integers(0, 400), st.integers(-400, 400))
def test_no_number_becomes_infinite(digits, exponent):
    text = f"{'7' * (digits + 1)}.0e{exponent}"
    try:
        value = parse_json(text.encode(), WHERE)
    except LabelError:
        assert math.isinf(float(text))
    else:
        assert value == float(text) < math.inf


@given(st.lists(st.sampled_from(["7" * 99, "7" * 100, *"0.eE+- ,a", "99", "308"])))
def test_every_number_out_of_range_is_looked_for(parts):
    text = "".join(parts)
    for number in re.findall(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", text):
        if len(number) > 300 or math.isinf(float(number)):
            assert _may_be_huge(text.encode())


def test_a_key_that_stands_twice_is_found_in_a_huge_object():
    """The work grows with the number of keys, not with its square: 200,000 keys would take hours."""
    keys = [*range(200_000), 199_999]
    data = ("{" + ",".join(f'"{k}":0' for k in keys) + "}").encode()
    with pytest.raises(LabelError, match="the key '199999' stands twice"):
        parse_json(data, WHERE)


def test_lone_surrogates_pass_here_and_are_refused_as_class_names():
    feature = parse_json(b'{"type": "Feature", "properties": {"label": {"\\ud800": 1}, "note": "\\udfff"}}', WHERE)
    assert feature["properties"]["note"] == "\udfff"
    with pytest.raises(LabelError, match="lone surrogate"):
        parse_label(feature, LabelOptions(), WHERE)


# --------------------------------------------------------------------------------------------------------- the limits

COUNT = 30_000
LIST = "[" + ",".join(["%s"] * COUNT) + "]"
ITEMS = (
    *(
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        '{"a":0}',
        '{"a":1000,"b":1.5}',
        '{"a":{"b":{}}}',
        "1",
        "1.5",
        "1e5",
        "1000",
        "9" * 50,
    ),
    *('"a"', '"ab"', '""', r'"\n\n"', '"é"', '"éé"', '"ab😀"', r'"\u0100"', r'"a\ud83d\ude00"', "[1000]"),
    *("[1.5,1.5]", "[1.5,1.5,1.5,1.5,1.5]", "[1000,1000,1000,1000,1000,1000,1000,1000,1000]"),
)
NASTY = {
    **{item: LIST.replace("%s", item) for item in ITEMS},
    "other keys": "[" + ",".join(f'{{"k{i}":1000}}' for i in range(COUNT)) + "]",
    "many keys": "{" + ",".join(f'"{i}":1000' for i in range(43_691)) + "}",  # as a table of keys has just grown
    "long keys": "{" + ",".join(f'"{i:064}":1000' for i in range(21_846)) + "}",
    "one string": '"' + "a" * 10**6 + '"',
    "one wide string": '"' + "a" * 10**6 + '😀"',
    "one wide key": '{"' + r"\n" * 10**6 + '😀":0}',
    "one escaped string": '"' + "a" * 10**6 + r'\ud83d\ude00"',
    "one less escaped string": '"' + "a" * 10**6 + r'\u0100"',
    "deep": "[" + ",".join(["[" * 400 + "]" * 400] * 100) + "]",
    "nothing": "[1" + " " * 10**6 + "]",
    "mark": "\ufeff[1" + " " * 10**6 + "]",
}  # fmt: skip
UNLIMITED = Limits(json_bytes=2**40, json_memory_bytes=2**40)


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", NASTY.values(), ids=[k[:30] for k in NASTY])
def test_the_memory_that_parsing_needs_is_known_before(text):
    data = text.encode()
    values = parse_json(data, WHERE, UNLIMITED)
    assert values is not None
    del values
    assert peak_bytes(lambda: parse_json(data, WHERE, UNLIMITED)) < 1.2 * _memory(data) + 20_000
    with pytest.raises(LabelError, match="bytes of memory, more than") as caught:
        parse_json(data, WHERE, Limits(json_memory_bytes=_memory(data) - 1))
    assert caught.value.rule == "json-limit"
    assert parse_json(data, WHERE, Limits(json_memory_bytes=_memory(data))) is not None


@pytest.mark.parametrize("text", NASTY.values(), ids=[k[:30] for k in NASTY])
def test_checking_needs_little_memory_itself(text):
    data = text.encode()
    assert peak_bytes(lambda: _check_limits(data, WHERE, Limits(json_memory_bytes=2**40))) < 2 * len(data) + 2**20


def test_large_labels_pass():
    """Ten megabytes of small pixel coordinates; 200,000 corners of full precision."""
    pairs = ",".join(f"[{i % 512}, {i * 7 % 512}]" for i in range(960_000))
    assert len(pairs) > 10 * 10**6
    assert len(parse_json(f"[[{pairs}]]".encode(), WHERE)[0]) == 960_000
    corners = ",".join(f"[{math.cos(i)!r}, {math.sin(i)!r}]" for i in range(200_000))
    assert len(parse_json(f"[[{corners}]]".encode(), WHERE)[0]) == 200_000


def depth_of(text):
    """The referee: one sign after the other."""
    depth = deepest = 0
    for token in re.findall(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', text, re.DOTALL):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token, 0)
        deepest = max(deepest, depth)
    return deepest


@given(JSON)
def test_depth_of_values(value):
    text = json.dumps(value)
    assert _depth(text.encode()) == depth_of(text)


@given(
    st.lists(st.sampled_from(["[", "]", "{", '"', "a", '"\\\\"', '"\\""', '"[]{"', '"\\\\\\"["'])).map("".join),
    st.integers(0, 3),
)
def test_depth_of_signs(text, times):
    """Also over the ends of the blocks that are looked at at once."""
    text = '"' + "x" * (2**16 - times) + '"' + text
    assert _depth(text.encode()) == depth_of(text)


# ------------------------------------------------------------------------------------------------- features, one by one

FEATURES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\\\[]{},:', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["features", "type", "a"]), inner),
    max_leaves=8,
)


@given(st.lists(FEATURES, max_size=4), st.dictionaries(st.sampled_from(["a", "b]", '"']), FEATURES), st.booleans())
def test_features_are_those_of_the_whole_document(features, foreign, last):
    collection = {"type": "FeatureCollection", "features": features}
    document = foreign | collection if last else collection | foreign
    for options in ({}, {"indent": 2}, {"ensure_ascii": False, "separators": (",", ":")}):
        assert list(iter_features(json.dumps(document, **options).encode(), WHERE)) == features


@given(FEATURES)
def test_a_document_that_is_no_collection_is_its_only_feature(document):
    if isinstance(document, dict) and isinstance(document.get("features"), list):
        document["features"] = None
    assert list(iter_features(json.dumps(document).encode(), WHERE)) == [document]


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "FeatureCollection", "features": [}', '{"type": "FeatureCollection", "features": [1}',
        '{"type": "FeatureCollection", "features": [1, 2}', '{"type": "FeatureCollection", "features": [1,]}',
        '{"type": "FeatureCollection", "features": [1', '{"type": "FeatureCollection", "features": [{]}]}',
        '{"type": "FeatureCollection", "features": [1], "features": [2]}', "", "[", '{"features": ["a]}',
        '{"type": "FeatureCollection", "features": [{"a": NaN}]}',
    ],
)  # fmt: skip
def test_collections_that_are_no_json(text):
    with pytest.raises(LabelError):
        list(iter_features(text.encode(), WHERE))


PIECES = st.sampled_from(
    ["1", "[]", '{"a": [{}]}', '"]\\\\"', r'"\",["', '"é{"', " ", "", ",", "}", "]", '"', "\\", "NaN"]
)


@given(
    st.lists(PIECES, max_size=5), st.sampled_from(["]}", '], "a": ["]"]}', ""]), st.integers(1, 9), st.integers(3, 6)
)
def test_features_are_found_in_blocks_of_any_size(pieces, end, block, depth):
    data = ('{"type": "FeatureCollection", "features": [' + ",".join(pieces) + end).encode()
    limits = Limits(json_depth=depth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geojson, "_DEPTH_BLOCK", block)
        try:
            expected = parse_json(data, WHERE, limits)["features"]
        except LabelError:
            with pytest.raises(LabelError):
                list(iter_features(data, WHERE, limits))
        else:
            assert list(iter_features(data, WHERE, limits)) == expected


def test_a_collection_needs_the_memory_of_one_feature():
    feature = json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0.5, 1.5]] * 5]}})
    data = ('{"type": "FeatureCollection", "features": [' + ", ".join([feature] * 50_000) + "]}").encode()
    tracemalloc.start()
    try:
        assert sum(1 for _ in iter_features(data, WHERE, Limits(json_bytes=1000, json_memory_bytes=20_000))) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()
