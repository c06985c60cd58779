"""A verdict as JUnit XML, which every CI shows as tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from edge_vit.measure.results import FindingOutcome, Outcome, VerifyReport
from edge_vit.report.grids import is_of_candidate, place_of, recommendation

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, as a file's name may hold them."""


def render_junit(report: VerifyReport) -> str:
    """Return one test case per finding and gate; the suite fails as the verdict does.

    A gate of the candidate that fails is a failure, one that is undecided an error. Gates of other
    precisions and backends are skipped where they do not pass. A finding that questions the
    evaluation is an error; a note passes.
    """
    verdict = report.verdict
    mine = [is_of_candidate(gate, verdict) for gate in verdict.gates]
    gates = list(zip(verdict.gates, mine, strict=True))
    outcomes = [gate.outcome for gate, counts in gates if counts]
    findings = [finding.outcome for finding in verdict.findings]
    totals = {
        "tests": str(len(gates) + len(findings)),
        "failures": str(outcomes.count("fail") + findings.count("fail")),
        "errors": str(outcomes.count("undecided") + findings.count("undecided")),
        "skipped": str(sum(not counts and gate.outcome != "pass" for gate, counts in gates)),
    }
    name = _text(f"edgevit verify {report.model.name}")
    root = ET.Element("testsuites", {"name": name, **totals})
    stamp = {"timestamp": _text(report.created)}
    suite = ET.SubElement(root, "testsuite", {"name": name, **stamp, **totals})
    facts = {
        "bundle": report.bundle,
        "bundle_digest": report.bundle_digest,
        "recommended": recommendation(verdict),
        "device": report.environment.device,
        **report.environment.packages,
    }
    properties = ET.SubElement(suite, "properties")
    for key, value in facts.items():
        ET.SubElement(properties, "property", {"name": key, "value": _text(value)})
    for finding in verdict.findings:
        _add_case(suite, "evaluation", finding.name, finding.outcome, finding.sentence)
    for gate, counts in gates:
        outcome: Outcome | None = gate.outcome if counts or gate.outcome == "pass" else None
        _add_case(suite, place_of(gate), gate.name, outcome, gate.sentence)
    ET.SubElement(suite, "system-out").text = _text("\n".join((verdict.sentence, *report.notes)))
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _add_case(
    suite: ET.Element, place: str, name: str, outcome: Outcome | FindingOutcome | None, words: str
) -> None:
    """Add a test case with what became of it, in JUnit's words; skipped where that is None."""
    attributes = {"classname": f"edgevit.{place.replace(' ', '.')}", "name": f"{place} {name}"}
    case = ET.SubElement(suite, "testcase", {k: _text(v) for k, v in attributes.items()})
    message = {"message": _text(words)}
    if outcome is None:
        ET.SubElement(case, "skipped", message)
    elif outcome in ("fail", "undecided"):
        tag = "failure" if outcome == "fail" else "error"
        ET.SubElement(case, tag, {**message, "type": outcome}).text = _text(words)
    else:
        ET.SubElement(case, "system-out").text = _text(words)


def _text(words: str) -> str:
    return _NOT_IN_XML.sub("?", words)
