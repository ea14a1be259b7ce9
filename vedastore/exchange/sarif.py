"""Findings as SARIF 2.1.0, for code hosts and review tools.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from vedastore.spec.rules import RULES, SECTIONS, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vedastore.model import Finding

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_INDEX: Final = {rule: place for place, rule in enumerate(RULES)}
_IMAGE_RULES: Final = {rule.id for rule in SECTIONS["Images"]}


def dump_sarif(
    findings: Iterable[Finding], release: str, version: str, places: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return a SARIF log with one run: all rules, and a result for each finding.

    Parameters
    ----------
    findings : iterable of Finding
    release : str
        The file name of the release: the artifact that results point to.
    version : str
        Of vedastore.
    places : mapping
        By sample id: its members, by ``image`` and ``label``.
    """
    driver = {
        "name": "vedastore",
        "semanticVersion": version,
        "rules": [_rule(rule) for rule in RULES.values()],
    }
    results = [_result(finding, release, places) for finding in findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    fix = f" validate --fix: {rule.fix}." if rule.fix else ""
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": f"{rule.title}: {rule.advice}."},
        "help": {"text": f"{rule.advice}.{fix}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Finding, release: str, places: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    named: list[str | None] = [_member(name, finding.rule, places) for name in finding.samples]
    return {
        "ruleId": finding.rule,
        "ruleIndex": _INDEX[finding.rule],
        "level": RULES[finding.rule].severity,
        "message": {"text": finding.message},
        "locations": [_location(release, member) for member in named or [None]],
        "occurrenceCount": finding.count,
    }


def _member(name: str, rule: str, places: Mapping[str, Mapping[str, str]]) -> str:
    """Return the member that a finding is about; a name that is no sample's is a member's already."""
    members = places.get(name)
    if not members:
        return name
    halves = ("image", "label") if rule in _IMAGE_RULES else ("label", "image")
    return next(members[half] for half in halves if half in members)


def _location(release: str, member: str | None) -> dict[str, Any]:
    # The first line: some readers want a region, and an archive has no lines.
    physical = {
        "artifactLocation": {"uri": quote(release, safe="/", errors="surrogateescape")},
        "region": {"startLine": 1},
    }
    if member is None:
        return {"physicalLocation": physical}
    return {"physicalLocation": physical, "logicalLocations": [{"fullyQualifiedName": member, "kind": "member"}]}
