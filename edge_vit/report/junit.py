"""A verdict as JUnit XML, which every CI shows as tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from edge_vit.measure.results import FindingOutcome, Gate, Outcome, VerifyReport
from edge_vit.report.grids import place_of, recommendation

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, as a file's name may hold them."""


def render_junit(report: VerifyReport) -> str:
    """Return one test case per finding and gate; the suite fails as the verdict does.

    A gate of the candidate that fails is a failure, one that is undecided an error. Gates of other
    precisions and backends are told, and skipped where they do not pass: nobody asked to ship them.
    A finding that questions the evaluation is an error; a note passes.
    """
    verdict = report.verdict
    cases = [(gate, _is_of_candidate(gate, report)) for gate in verdict.gates]
    outcomes = [gate.outcome for gate, mine in cases if mine]
    outcomes += [finding.outcome for finding in verdict.findings if finding.outcome != "note"]
    count = {
        "tests": len(cases) + len(verdict.findings),
        "failures": outcomes.count("fail"),
        "errors": outcomes.count("undecided"),
        "skipped": sum(not mine and gate.outcome != "pass" for gate, mine in cases),
    }
    totals = {name: str(number) for name, number in count.items()}
    name = f"edgevit verify {report.model.name}"
    root = ET.Element("testsuites", {"name": _text(name), **totals})
    suite = ET.SubElement(
        root, "testsuite", {"name": _text(name), "timestamp": _text(report.created), **totals}
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(report).items():
        ET.SubElement(properties, "property", {"name": key, "value": _text(value)})
    for finding in verdict.findings:
        attributes = {"classname": "edgevit.evaluation", "name": f"evaluation {finding.name}"}
        case = ET.SubElement(suite, "testcase", attributes)
        _add_outcome(case, finding.outcome, finding.sentence)
    for gate, is_of_candidate in cases:
        _add_case(suite, gate, is_of_candidate=is_of_candidate)
    ET.SubElement(suite, "system-out").text = _text("\n".join((verdict.sentence, *report.notes)))
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _is_of_candidate(gate: Gate, report: VerifyReport) -> bool:
    verdict = report.verdict
    return (gate.precision, gate.backend) == (verdict.candidate, verdict.backend or gate.backend)


def _properties(report: VerifyReport) -> dict[str, str]:
    return {
        "bundle": report.bundle,
        "bundle_digest": report.bundle_digest,
        "recommended": recommendation(report.verdict),
        "device": report.environment.device,
        **report.environment.packages,
    }


def _add_case(suite: ET.Element, gate: Gate, *, is_of_candidate: bool) -> None:
    place = place_of(gate)
    attributes = {"classname": f"edgevit.{place.replace(' ', '.')}", "name": f"{place} {gate.name}"}
    case = ET.SubElement(suite, "testcase", attributes)
    if gate.outcome != "pass" and not is_of_candidate:
        ET.SubElement(case, "skipped", {"message": _text(gate.sentence)})
    else:
        _add_outcome(case, gate.outcome, gate.sentence)


def _add_outcome(case: ET.Element, outcome: Outcome | FindingOutcome, sentence: str) -> None:
    """Add to `case` what became of it, by the words that JUnit has for it."""
    tag = {"fail": "failure", "undecided": "error"}.get(outcome, "system-out")
    attributes = {} if tag == "system-out" else {"message": _text(sentence), "type": outcome}
    ET.SubElement(case, tag, attributes).text = _text(sentence)


def _text(words: str) -> str:
    return _NOT_IN_XML.sub("?", words)
