"""What all tests share."""

import uuid
from types import SimpleNamespace

import pytest
from hypothesis import settings

from vedastore.spec import arrays
from vedastore.store.index import TableFile

CHIP_BYTES = 3 * 32 * 40
"""Of the usual shape of a test."""

# Derandomized: a run says the same thing twice. No deadline: shared machines are slow at times.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")


@pytest.fixture
def groups(monkeypatch):
    """The columns and row groups of every table that is read."""
    found, read = [], TableFile.read

    def noted(self, columns=None, groups=None):
        found.append((self._table, columns, None if groups is None else list(groups)))
        return read(self, columns, groups)

    monkeypatch.setattr(TableFile, "read", noted)
    return found


@pytest.fixture
def small_shards(monkeypatch):
    """Four chips of the usual shape a shard, one or two a batch."""
    arrays._spec_of.cache_clear()
    monkeypatch.setattr(arrays, "SHARD_TARGET_BYTES", 4 * CHIP_BYTES)
    monkeypatch.setattr("vedastore.ops.convert.BATCH_BYTES", 2 * CHIP_BYTES)
    yield
    arrays._spec_of.cache_clear()


@pytest.fixture
def one_write_id(monkeypatch):
    monkeypatch.setattr("vedastore.store.commit.uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=0x5C0FFEE1)))
