import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import make_release
from vedastore.spec.tables import SCHEMAS
from vedastore.store.columns import arrow_array
from vedastore.store.tables import arrow_schema

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
VALUES = {
    "string": st.none() | TEXT,
    "binary": st.none() | st.binary(max_size=4),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(),
}


def values_of(kind):
    if isinstance(kind, list):
        return st.none() | st.lists(values_of(kind[0]), max_size=3)
    return VALUES[kind]


@pytest.mark.parametrize("kind", [*VALUES, ["string"], ["double"]], ids=str)
@given(st.data())
def test_arrays_are_pyarrows_own(kind, data):
    values = data.draw(st.lists(values_of(kind), max_size=9))
    arrow = pa.list_(pa.type_for_alias(kind[0])) if isinstance(kind, list) else pa.type_for_alias(kind)
    made = arrow_array(values, arrow)
    made.validate(full=True)
    assert str(made) == str(pa.array(values, arrow))


FINITE = st.floats(allow_nan=False)


@given(st.lists(st.none() | st.tuples(*[FINITE] * 4), max_size=9))
def test_boxes_are_structs_or_lists_with_null_for_nan(boxes):
    array = np.array([b or (np.nan,) * 4 for b in boxes], "f8").reshape(-1, 4)
    schema = arrow_schema("samples"), arrow_schema("features")
    edges, corners = schema[0].field("bbox").type, schema[1].field("box_px").type
    names = [*SCHEMAS["samples"]["bbox"]]
    expected = [None if b is None else dict(zip(names, b, strict=True)) for b in boxes]
    for made, given_ in ((arrow_array(array, edges), expected), (arrow_array(array, corners), boxes)):
        made.validate(full=True)
        assert made.to_pylist() == [list(v) if isinstance(v, tuple) else v for v in given_]
    numbers = arrow_array(array[:, 0], pa.float64())
    assert numbers.to_pylist() == [None if b is None else b[0] for b in boxes]


def test_a_conversion_does_not_import_pandas(tmp_path):
    (tmp_path / "r.tar").write_bytes(make_release(2).tar_bytes())
    code = (
        "import sys; from vedastore.cli import main; main(['convert', 'r.tar', 'r.zarr']);"
        "print('pandas' in sys.modules, 'pyarrow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False True"
