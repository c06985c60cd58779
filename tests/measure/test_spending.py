"""What may pass wrongly is shared: by looks, and by what is compared."""

from __future__ import annotations

import dataclasses

import pytest
from graph_files import ONNX_FILES
from small_models import make_model

from edge_vit.bundle import Bundle, draft_bundle
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.measure.results import Finding, Verdict, VerifyReport
from edge_vit.measure.spending import (
    ERROR,
    LookHistory,
    error_of_look,
    judge_together,
    read_history,
    record_look,
)


def test_all_looks_together_spend_no_more_than_there_is():
    assert error_of_look(1) == pytest.approx(0.04)
    assert sum(map(error_of_look, range(1, 40))) <= ERROR + 1e-15
    with pytest.raises(SpecError, match="look: got 0, expected 1 for the first"):
        error_of_look(0)


def smallest_errors(**needed):
    """Return places that pass from a certain error on, and the confidence each was judged with."""
    judged = {}

    def judge(place, trust):
        judged[place] = trust.now
        return 1 - trust.now >= needed[place] - 1e-12

    passed = judge_together(list(needed), 1, judge, bool)
    return {place for place, is_passed in passed.items() if is_passed}, judged


def test_one_place_has_all_of_it():
    assert smallest_errors(a=0.04)[0] == {"a"}
    assert smallest_errors(a=0.041)[0] == set()


def test_each_of_several_has_its_share():
    assert smallest_errors(a=0.021, b=0.021)[0] == set()
    assert smallest_errors(a=0.01, b=0.01, c=0.01, d=0.01)[0] == {"a", "b", "c", "d"}


def test_what_passes_leaves_its_share_to_the_others():
    passed, confidence = smallest_errors(a=0.001, b=0.04)
    assert passed == {"a", "b"}
    assert (confidence["a"], confidence["b"]) == (pytest.approx(0.98), pytest.approx(0.96))
    assert smallest_errors(a=0.001, b=0.03, c=0.03)[0] == {"a"}


@pytest.fixture
def bundle(tmp_path):
    with draft_bundle(tmp_path / "a.edgevit", make_model()) as draft:
        draft.add({ONNX_FILES["fp32"]: b"fp32"})
    return Bundle.open(tmp_path / "a.edgevit")


@pytest.fixture
def look(bundle, make_accuracy):
    """Return a function that records a look at images, and returns the number of the next."""

    def take(images, outcome="undecided", questioned=False):
        number = read_history(bundle).number("b0", images)
        finding = Finding("chance", "undecided", "No better than chance.")
        verdict = Verdict(
            candidate="int8",
            recommended="fp32",
            outcome=outcome,
            sentence="",
            gates=(),
            findings=(finding,) if questioned else (),
            look=number,
        )
        accuracy = make_accuracy(data_digest=images)
        report = VerifyReport(
            *("a", "b0", "", bundle.spec, verdict, (accuracy,), (), (), accuracy.environment)
        )
        record_look(bundle, report)
        return number

    return take


def test_other_images_are_another_look_and_the_same_ones_are_not(look, bundle):
    assert [look("x"), look("y"), look("x"), look("y"), look("z")] == [1, 2, 1, 2, 3]
    assert read_history(bundle).number("another bundle", "z") == 1


def test_a_failure_is_a_look_and_a_pass_ends_them(look):
    assert [look("x", "fail"), look("y", "pass"), look("z", "pass")] == [1, 2, 2]


def test_what_could_not_have_passed_is_no_look(look):
    assert [look("x", questioned=True), look("y")] == [1, 1]


def test_a_record_that_cannot_be_read_is_refused_in_one_line(look, bundle):
    look("x")
    path = bundle.reports_path / "looks.json"
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"looks.json is no record of earlier looks.*--look N"):
        read_history(bundle)
    path.write_text('{"looks": [], "format": 7}')
    with pytest.raises(ArtifactError, match="format is 7, this edge-vit reads 1"):
        read_history(bundle)
    path.unlink()
    assert read_history(bundle) == LookHistory()


def test_the_look_is_in_the_verdict(make_accuracy, make_latencies):
    from edge_vit.measure.verdict import decide

    accuracy = [make_accuracy("fp32", images=800), make_accuracy(images=800)]
    first = decide(accuracy, make_latencies(fp32=9.0, int8=4.0))
    second = decide(accuracy, make_latencies(fp32=9.0, int8=4.0), look=2)
    assert (first.outcome, second.outcome, second.look) == ("pass", "undecided", 2)
    (finding,) = second.findings
    assert (
        "look 2 at the same candidate: its bounds hold with 99.2 % confidence" in finding.sentence
    )
    (drop,) = [gate for gate in second.gates if gate.name == "max-drop"]
    assert drop.confidence == pytest.approx(0.992)


def test_two_precisions_share_what_may_pass_wrongly(make_accuracy, make_latencies):
    from edge_vit.measure.verdict import decide

    accuracy = [make_accuracy(p, images=700) for p in ("fp32", "fp16", "int8")]
    verdict = decide(accuracy, make_latencies(fp32=9.0, fp16=5.0, int8=4.0))
    assert verdict.outcome == "undecided"  # 700 are enough for one alone, 781 for two
    assert [f.name for f in verdict.findings] == ["shared-error"]
    more = [
        dataclasses.replace(a, num_images=781, num_labelled=781, num_agreeing=781) for a in accuracy
    ]
    assert decide(more, make_latencies(fp32=9.0, fp16=5.0, int8=4.0)).outcome == "pass"
