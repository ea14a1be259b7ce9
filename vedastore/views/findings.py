"""Findings as people and programs read them: one line, or plain JSON values, with the words of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vedastore.errors import escape
from vedastore.spec.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping


def to_document(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finding as plain JSON values, with its severity.

    Stores may have findings of a rule that this version does not know, and those of older versions no counts.
    """
    rule = RULES.get(finding["rule"])
    return {"rule": finding["rule"], "severity": rule.severity if rule else "note", **finding}


def to_line(finding: Mapping[str, Any]) -> str:
    """Return a finding as one line: severity, rule, what is the matter, and what to do.

    >>> to_line({"rule": "meta-missing", "message": "there is no meta.json"})
    'note     meta-missing  there is no meta.json (nothing but the labels tells name, task and classes then; import...
    """
    document = to_document(finding)
    rule = RULES.get(document["rule"])
    advice = f" ({rule.advice})" if rule else ""
    return escape(f"{document['severity']:8} {document['rule']}  {document['message']}{advice}")
