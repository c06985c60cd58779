"""Reports side by side: a ratio for like conditions, their names for unlike ones."""

import dataclasses

import numpy as np
import pytest

from edge_vit.errors import SpecError
from edge_vit.measure.compare import Measured, compare


def noisy(report, factor=1.0, seed=0):
    samples = np.random.default_rng(seed).normal(10.0, 0.1, 400) * factor
    summary = dataclasses.replace(report.latency_ms, p50=float(np.median(samples)))
    return dataclasses.replace(
        report, samples_ms=tuple(samples.tolist()), latency_ms=summary, iterations=400
    )


@pytest.fixture
def measured(make_accuracy, make_latencies):
    def make(name, factor=1.0, seed=0, backend="ort", changes=None, **accuracy):
        timed = tuple(noisy(r, factor, seed) for r in make_latencies(backend, fp32=10.0, int8=10.0))
        timed = tuple(dataclasses.replace(r, **(changes or {})) for r in timed)
        right = {"reference_top1": 0.6, "top1": 0.6 - accuracy.get("lost", 0) / 3000}
        judged = (make_accuracy(images=3000, backend=backend, **{**right, **accuracy}),)
        return Measured(name, "vit", "0" * 64, timed, judged)

    return make


def change(comparison, report, place="int8 ort", measure="latency"):
    (found,) = (
        c for c in comparison.changes if (c.report, c.place, c.measure) == (report, place, measure)
    )
    return found


@pytest.mark.parametrize(
    ("factor", "difference"), [(1.0, "no difference"), (1.05, "slower"), (0.9, "faster")]
)
def test_like_with_like_is_a_ratio_with_its_interval(measured, factor, difference):
    found = change(compare([measured("a"), measured("b", factor, seed=1)]), "b")
    assert found.difference == difference
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(factor, rel=0.01)
    assert found.sentence.lower().startswith(difference)
    assert found.unlike == ()


def test_unlike_conditions_are_named_and_no_number_is_given(measured):
    other = measured("b", 2.0, changes={"threads": 4, "batch_size": 8}, data_digest="f" * 64)
    comparison = compare([measured("a"), other])
    found = change(comparison, "b")
    assert (found.difference, found.value, found.low) == (None, None, None)
    assert found.unlike == ("batch size 8, not 1", "threads 4, not 2")
    assert found.sentence == "Not comparable: batch size 8, not 1; threads 4, not 2."
    images = change(comparison, "b", measure="accuracy")
    assert images.unlike == ("images ffffffffffff, not 000000000000",)


@pytest.mark.parametrize(
    ("then", "now", "difference"),
    [
        ({}, {}, "no difference"),
        ({"lost": 3}, {"lost": 5}, "no difference"),
        ({"lost": 3}, {"lost": 300}, "worse"),
        ({"lost": 300}, {"lost": 3}, "better"),
    ],
)
def test_accuracy_is_compared_on_the_same_images(measured, then, now, difference):
    comparison = compare([measured("a", **then), measured("b", **now)])
    found = change(comparison, "b", measure="accuracy")
    assert found.difference == difference
    assert found.low <= found.value <= found.high


def test_two_models_may_differ_on_every_image_that_one_gets_wrong(measured):
    """Both are 50 % right, but of other fp32 models: which images they get right is not known."""
    first, second = measured("a"), measured("b", lost=2, gained=2, reference_top1=0.7)
    found = change(compare([first, second]), "b", measure="accuracy")
    assert found.difference == "no difference"
    assert found.high - found.low > 2


def test_each_is_held_against_the_same_place_of_the_first_else_the_same_precision(measured):
    comparison = compare([measured("a"), measured("b", backend="openvino")])
    found = change(comparison, "b", "int8 openvino")
    assert (found.base, found.base_place) == ("a", "int8 ort")
    single = Measured("c", "", "", measured("c").latency[:1], ())
    assert change(compare([single, measured("d")]), "d", "int8 ort").base_place == "fp32 ort"


def test_versions_of_different_backends_are_not_compared(measured):
    first, second = measured("a"), measured("b", backend="openvino")
    packages = {"onnxruntime": "1.20", "openvino": "2026.1"}
    environment = dataclasses.replace(first.latency[0].environment, packages=packages)
    reports = [
        dataclasses.replace(
            m, latency=tuple(dataclasses.replace(r, environment=environment) for r in m.latency)
        )
        for m in (first, second)
    ]
    assert change(compare(reports), "b", "int8 openvino").unlike == ()


def test_any_number_of_reports_keep_their_order(measured):
    comparison = compare([measured(name) for name in "abcde"])
    assert list(dict.fromkeys(entry.report for entry in comparison.entries)) == list("abcde")
    assert {c.base for c in comparison.changes} == {"a"}
    assert not any(c.unlike for c in comparison.changes)


def test_entries_say_only_what_is_known(measured):
    few = measured("a")
    (entry, *_) = compare([few, few]).entries
    assert entry.p99_ms is None  # of 400 runs
    bare = Measured("x", "", "", (), few.accuracy)
    last = compare([few, bare]).entries[-1]
    assert (last.p50_ms, last.num_runs, last.agreement) == (None, None, 1.0)
    assert last.conditions == {}


def test_runs_that_were_not_kept_are_said(measured):
    other = measured("b", changes={"samples_ms": ()})
    assert "single runs were not kept" in change(compare([measured("a"), other]), "b").sentence


def test_refuses_a_single_report(measured):
    with pytest.raises(SpecError, match="got 1, expected at least 2"):
        compare([measured("a")])


def test_another_fp32_of_the_same_accuracy_by_chance_is_no_common_reference(measured):
    lost = {"lost": 3, "gained": 3}
    first, same, other = (
        measured(name, **lost, cosine_mean=cosine, reference_confusion=confusion)
        for name, cosine, confusion in (
            ("a", 0.99, ((0, 1, 1200),)),
            ("b", 0.98, ((0, 1, 1200),)),
            ("c", 0.98, ((1, 0, 1200),)),
        )
    )
    comparison = compare([first, same, other])
    narrow, wide = (change(comparison, name, measure="accuracy") for name in "bc")
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_one_run_each_tells_no_difference(measured):
    few = [measured(name, changes={"samples_ms": (10.0,), "iterations": 1}) for name in "ab"]
    found = change(compare(few), "b")
    assert (found.difference, found.low, found.high) == ("no difference", None, None)
    assert "1 timed run says nothing of the next ones" in found.sentence


def test_a_session_timed_alone_is_not_held_against_one_in_turns(measured):
    """In turns a small model of 0.23 ms took 0.31 ms: the others had emptied its caches."""
    alone = measured("bench", changes={"interleaved_with": ()})
    found = change(compare([measured("verify"), alone]), "bench")
    assert (found.difference, found.unlike) == (None, ("in turns with none, not fp32",))


def test_a_provider_tells_no_two_backends_apart(measured):
    ort = measured("a", changes={"provider": "cpu"})
    found = change(compare([ort, measured("b", backend="openvino")]), "b", "int8 openvino")
    assert (found.difference, found.unlike) == ("no difference", ())
    cuda = measured("c", changes={"provider": "cuda"})
    assert change(compare([ort, cuda]), "c").unlike == ("provider cuda, not cpu",)
