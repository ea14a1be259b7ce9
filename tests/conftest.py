"""What all tests share."""

import pytest
from hypothesis import settings

from vedastore.store.index import TableFile

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
