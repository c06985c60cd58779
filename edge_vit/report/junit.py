"""A verdict as JUnit XML, which every CI shows as tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from edge_vit.measure.results import Gate, VerifyReport
from edge_vit.report.grids import place_of, recommendation

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, as a file's name may hold them."""


def render_junit(report: VerifyReport) -> str:
    """Return one test case per gate; the suite fails as the verdict does, and for no other reason.

    A gate of the candidate that fails is a failure, one that is undecided an error. Gates of other
    precisions and backends are told, and skipped where they do not pass: nobody asked to ship them.
    """
    verdict = report.verdict
    cases = [(gate, _is_of_candidate(gate, report)) for gate in verdict.gates]
    count = {
        "tests": len(cases),
        "failures": sum(mine and gate.outcome == "fail" for gate, mine in cases),
        "errors": sum(mine and gate.outcome == "undecided" for gate, mine in cases),
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
    message = {"message": _text(gate.sentence)}
    if gate.outcome == "pass":
        ET.SubElement(case, "system-out").text = _text(gate.sentence)
    elif not is_of_candidate:
        ET.SubElement(case, "skipped", message)
    elif gate.outcome == "fail":
        ET.SubElement(case, "failure", {**message, "type": "fail"}).text = _text(gate.sentence)
    else:
        ET.SubElement(case, "error", {**message, "type": "undecided"}).text = _text(gate.sentence)


def _text(words: str) -> str:
    return _NOT_IN_XML.sub("?", words)
