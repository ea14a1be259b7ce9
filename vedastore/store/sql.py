"""Conditions in SQL on the rows of an index table. DuckDB parses and runs them; it sees nothing but those rows."""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from vedastore.errors import UsageError
from vedastore.store.tables import arrow_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUERY: Final = "SELECT position FROM samples WHERE"
_MEMORY: Final = "256MB"
_HINT: Final = "give one expression on columns of samples, such as \"objects > 3 AND split = 'train'\""


class Condition:
    """A condition on rows of ``samples``: one expression of SQL without subqueries.

    Parameters
    ----------
    text : str
    schema : pyarrow.Schema, optional
        The columns that there are; those of the format without it.

    Attributes
    ----------
    columns : tuple of str
        The columns that it needs, ``position`` among them.

    Raises
    ------
    UsageError
        When it is no such expression, or asks for what the table has not.
    """

    def __init__(self, text: str, schema: Any = None) -> None:
        import duckdb

        self._text, self._error = text, duckdb.Error
        self._connection = duckdb.connect(":memory:", config=_configuration())
        self._run("SET enable_progress_bar = false; SET lock_configuration = true")
        nodes = list(_nodes(self._parse()))
        kinds = {node.get("class") for node in nodes}
        if "SUBQUERY" in kinds:
            raise self._refused("subqueries are not allowed")
        # What stands for several columns would stand for those that are read.
        references = [[name.lower() for name in node.get("column_names", ())] for node in nodes]
        named = {"position", *chain.from_iterable(references)}
        if "STAR" in kinds or ["samples"] in references:
            raise self._refused("columns have to be named one by one")
        schema = arrow_schema("samples") if schema is None else schema
        self.columns = tuple(name for name in schema.names if name.lower() in named)
        self.find(schema.empty_table())  # what cannot be asked is told before any row is read

    def find(self, rows: Any) -> Any:
        """Return the positions of the rows of a pyarrow Table for which it is true, in any order."""
        self._connection.register("samples", rows)
        return self._run(f"{_QUERY} ({self._text}\n)").fetchnumpy()["position"]

    def _parse(self) -> Any:
        """Return the syntax tree; what can stand both with parentheses and without is one expression."""
        queries = [f"{_QUERY} {self._text}\n", f"{_QUERY} ({self._text}\n)"]
        trees = [self._run("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0] for query in queries]
        try:
            parsed = [json.loads(tree) for tree in trees]
        except RecursionError:
            raise self._refused("it is nested too deeply") from None
        for tree in parsed:
            if tree["error"]:
                raise self._refused(tree["error_message"])
        return parsed[-1]

    def _run(self, query: str, values: Any = None) -> Any:
        try:
            return self._connection.execute(query, values)
        except self._error as error:
            raise self._refused(str(error)) from None

    def _refused(self, reason: str) -> UsageError:
        return UsageError(f"the condition {self._text[:200]!r}: {reason.partition(chr(10))[0]}", hint=_HINT)


@cache
def words() -> frozenset[str]:
    """Return the words that name no column, unless they are in quotes."""
    import duckdb

    query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')"
    with duckdb.connect(":memory:", config=_configuration()) as connection:
        return frozenset(word for (word,) in connection.execute(query).fetchall())


def _configuration() -> dict[str, Any]:
    return {
        "enable_external_access": False,
        "python_enable_replacements": False,
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "temp_directory": "",
        "memory_limit": _MEMORY,
        "threads": os.cpu_count() or 1,
    }


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON document."""
    pending = [tree]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            yield found
        pending += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
