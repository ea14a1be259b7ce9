import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedastore import errors
from vedastore.errors import (
    ArchiveError,
    ClusterError,
    ConflictError,
    ImageError,
    LabelError,
    MissingExtraError,
    PairError,
    ReleaseError,
    SampleNotFoundError,
    StoreError,
    UnknownOutcomeError,
    UsageError,
    VedastoreError,
    escape,
)

EXIT_CODES = {
    UsageError: 2,
    SampleNotFoundError: 2,
    MissingExtraError: 2,
    ReleaseError: 3,
    ArchiveError: 3,
    ImageError: 3,
    LabelError: 3,
    PairError: 3,
    ConflictError: 4,
    StoreError: 5,
    ClusterError: 5,
    UnknownOutcomeError: 6,
}


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items())
def test_exit_code(kind, code):
    assert kind("x").exit_code == code


def test_the_table_holds_every_error():
    found = {c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)}
    assert found == {*EXIT_CODES, VedastoreError}
    assert len({c.kind for c in found}) == len(found)


def test_tree():
    assert all(issubclass(c, VedastoreError) for c in EXIT_CODES)
    assert {c for c in EXIT_CODES if issubclass(c, ReleaseError)} == {
        *(ReleaseError, ArchiveError, ImageError, LabelError, PairError),
    }
    assert issubclass(UsageError, ValueError)
    assert issubclass(SampleNotFoundError, UsageError)
    assert issubclass(SampleNotFoundError, KeyError)
    assert issubclass(MissingExtraError, UsageError)
    assert issubclass(MissingExtraError, ImportError)


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"(\w+Error) +exit (\d)", errors.__doc__)
    assert {name: int(code) for name, code in drawn} == {c.__name__: c.exit_code for c in (*EXIT_CODES, VedastoreError)}


def test_text_has_place_message_and_hint():
    assert str(LabelError("no label", where="r.tar.gz: labels/1.json", hint="give one")) == (
        "r.tar.gz: labels/1.json: no label (give one)"
    )
    assert str(ConflictError("gone")) == "gone"
    assert str(StoreError("gone")) == f"gone ({StoreError.advice})"


def test_a_key_error_is_told_without_quotes():
    assert str(SampleNotFoundError("there is no sample '7'")) == "there is no sample '7'"


@pytest.mark.parametrize("kind", [*EXIT_CODES, VedastoreError])
def test_pickled(kind):
    before = kind("a\nb", where="r\x00", hint="h")
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert (after.message, after.where, after.hint, str(after)) == ("a\\nb", "r\\x00", "h", str(before))


def _fail():
    raise PairError("sample '1' has no image", where="r: labels/1.json")


def test_crosses_a_process_boundary():
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(PairError, match="has no image") as caught,
    ):
        pool.submit(_fail).result()
    assert caught.value.where == "r: labels/1.json"


def test_at_puts_a_place_in_front():
    error = ImageError("cut short", hint="h").at("r.tar.gz: images/1.tif")
    assert (type(error), str(error)) == (ImageError, "r.tar.gz: images/1.tif: cut short (h)")
    assert error.at("batch\n2").where == "batch\\n2: r.tar.gz: images/1.tif"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, Zürich, 東京 🛰", "plain, Zürich, 東京 🛰"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff", "\\udcff"),
    ],
)
def test_escape(text, escaped):
    assert escape(text) == escaped


@given(st.text(st.characters()))
def test_escaped_text_is_one_printable_line_and_stays_so(text):
    shown = escape(text)
    assert shown.isprintable()
    shown.encode()  # no lone surrogate is left
    assert escape(shown) == shown


@given(st.text(), st.text(), st.text())
def test_an_error_is_one_line(message, where, hint):
    assert str(VedastoreError(message, where=where, hint=hint).at(where)).isprintable()
