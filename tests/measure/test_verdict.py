import dataclasses
import re

import numpy as np
import pytest

from edge_vit.errors import SpecError
from edge_vit.measure.limits import Limits
from edge_vit.measure.results import Verdict
from edge_vit.measure.verdict import decide


@pytest.fixture
def verdict_on(make_accuracy, make_latencies):
    def decide_on(report, /, *, limits=None, backend="ort", fp16_report=None, look=1, **median_ms):
        reports = [make_accuracy("fp32", images=report.num_images), report]
        reports += [fp16_report] if fp16_report else []
        reports = [dataclasses.replace(r, backend=backend) for r in reports]
        return decide(reports, make_latencies(backend, **median_ms), limits, look=look)

    return decide_on


def _gate(verdict: Verdict, name: str, precision: str = "int8"):
    return next(g for g in verdict.gates if (g.name, g.precision) == (name, precision))


def test_ships_int8_that_is_accurate_and_faster(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=3000, lost=11, gained=6), fp32=9.43, int8=4.1)
    assert (verdict.outcome, verdict.exit_status, verdict.recommended) == ("pass", 0, "int8")
    assert verdict.sentence == (
        "Ship INT8: 2.3x faster than FP32 (median 4.1 ms against 9.43 ms); "
        "accuracy drop 0.17 points, at most 0.45 with 95 % confidence (0.5 allowed)."
    )
    drop = _gate(verdict, "max-drop")
    assert drop.value == pytest.approx(100 * 5 / 3000)
    assert drop.low < drop.value < drop.high < 0.5
    speed = _gate(verdict, "min-speedup")
    assert speed.low <= speed.value <= speed.high
    assert speed.value == pytest.approx(2.3)


def test_does_not_ship_int8_that_is_inaccurate(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=3000, lost=120, gained=30), fp32=9.4, int8=4.1)
    assert (verdict.outcome, verdict.exit_status, verdict.recommended) == ("fail", 3, "fp32")
    assert verdict.sentence.startswith("Do not ship INT8: accuracy drop 3.00 points, at least 2.")
    assert verdict.sentence.endswith(". Ship FP32 instead.")


def test_does_not_ship_int8_that_is_slower(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=3000), fp32=8.0, int8=10.0)
    assert (verdict.outcome, verdict.exit_status, verdict.recommended) == ("fail", 3, "fp32")
    assert verdict.sentence.startswith(
        "Do not ship INT8: it is slower than FP32 (0.8x, wanted 1.05x; median 10 ms against 8 ms)"
    )


def test_never_rounds_a_speedup_up_to_its_limit(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=3000), fp32=10.499, int8=10.0)
    assert verdict.outcome == "fail"
    assert "only 1.04x the speed of FP32 (wanted 1.05x" in verdict.sentence


def test_is_undecided_on_too_few_images_and_says_how_many_would_do(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=360), fp32=9.4, int8=4.1)
    assert (verdict.outcome, verdict.exit_status, verdict.recommended) == ("undecided", 5, "fp32")
    assert _gate(verdict, "max-drop").images_needed == 964  # at the second look
    assert "about 970 images like these would decide" in verdict.sentence
    assert verdict.sentence.startswith("Undecided about INT8: accuracy drop 0.00 points on 360")
    assert verdict.sentence.endswith(". Until then ship FP32.")


@pytest.mark.parametrize(("lost", "outcome"), [(1, "undecided"), (0, "pass")])
def test_as_many_images_as_were_asked_for_do_decide(verdict_on, make_accuracy, lost, outcome):
    verdict = verdict_on(make_accuracy(images=964, lost=lost), look=2, fp32=9.4, int8=4.1)
    assert verdict.outcome == outcome


def test_a_failed_gate_outweighs_an_undecided_one(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=360), fp32=9.4, int8=9.4)
    assert verdict.exit_status == 3
    slower, unsure = verdict.sentence.index("1x the speed"), verdict.sentence.index("would decide")
    assert slower < unsure


def test_on_the_limit_no_number_of_images_decides(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=1000, lost=5), fp32=9.4, int8=4.1)
    assert verdict.exit_status == 5
    assert _gate(verdict, "max-drop").images_needed is None
    assert "too close to the limit" in verdict.sentence


def test_says_that_a_model_gained(verdict_on, make_accuracy):
    medians = {"fp32": 9.4, "int8": 4.1}
    verdict = verdict_on(make_accuracy(images=1000, lost=2, gained=4), **medians)
    assert "accuracy gain 0.20 points, a drop of at most 0.33 with" in verdict.sentence
    verdict = verdict_on(make_accuracy(images=1000, lost=2, gained=40), **medians)
    assert "accuracy gain 3.80 points, a drop of at most 0.00 with" in verdict.sentence


@pytest.mark.parametrize(
    ("images", "differing", "outcome", "words"),
    [
        (5000, 5, "pass", "at most 0.22 % .* accuracy drops by no more than that"),
        (500, 1, "undecided", "about 3,000 images like these would decide"),
        (5000, 500, "undecided", "images with labels would decide"),
    ],
    ids=["agrees", "too few", "disagrees"],
)
def test_without_labels_bounds_the_drop_by_the_disagreement(
    verdict_on, make_accuracy, images, differing, outcome, words
):
    report = make_accuracy(images=images, labelled=0, differing=differing)
    verdict = verdict_on(report, fp32=9.4, int8=4.1)
    assert verdict.outcome == outcome
    assert "without labels" in verdict.sentence
    assert re.search(words, verdict.sentence)


@pytest.mark.parametrize(
    ("images", "differing", "outcome"),
    [(5000, 5, "pass"), (300, 0, "undecided"), (5000, 500, "fail")],
)
def test_features_are_judged_by_their_nearest_neighbours(
    verdict_on, make_accuracy, images, differing, outcome
):
    report = make_accuracy(images=images, labelled=0, differing=differing, kl_mean=None)
    verdict = verdict_on(report, fp32=9.4, int8=4.1)
    assert verdict.outcome == outcome
    assert "nearest neighbour differs on" in verdict.sentence
    assert "labels" not in verdict.sentence


def test_int8_has_to_beat_fp16_on_a_gpu_and_fp32_on_a_cpu(verdict_on, make_accuracy):
    int8, fp16 = make_accuracy(images=3000), make_accuracy("fp16", images=3000)
    medians = {"fp32": 9.0, "fp16": 4.0, "int8": 4.1}
    assert verdict_on(int8, fp16_report=fp16, **medians).outcome == "pass"
    on_gpu = verdict_on(int8, fp16_report=fp16, backend="trt", **medians)
    assert (on_gpu.outcome, on_gpu.recommended) == ("fail", "fp16")
    assert "slower than FP16" in on_gpu.sentence
    assert _gate(on_gpu, "min-speedup", "fp16").value == pytest.approx(9 / 4)


@pytest.mark.parametrize(
    ("fp16_lost", "fp16_ms", "recommended"),
    [(0, 5.0, "fp16"), (0, 9.0, "fp32"), (0, 12.0, "fp32"), (300, 5.0, "fp32")],
    ids=["fp16 is accurate and fast", "fp16 is as fast", "fp16 is slow", "fp16 is inaccurate"],
)
def test_recommends_the_fastest_accurate_precision_where_int8_fails(
    verdict_on, make_accuracy, fp16_lost, fp16_ms, recommended
):
    verdict = verdict_on(
        make_accuracy(images=3000, lost=300),
        fp16_report=make_accuracy("fp16", images=3000, lost=fp16_lost),
        fp32=9.0,
        fp16=fp16_ms,
        int8=3.0,
    )
    assert (verdict.outcome, verdict.recommended) == ("fail", recommended)
    assert verdict.sentence.endswith(f"Ship {recommended.upper()} instead.")


def test_does_not_recommend_what_is_faster_by_noise_alone(make_accuracy, make_latencies):
    reports = [make_accuracy(p, images=3000) for p in ("fp32", "fp16")]
    reports.append(make_accuracy(images=3000, lost=300))
    fp32, fp16, int8 = make_latencies(fp32=9.0, fp16=8.9, int8=3.0)
    noisy = tuple(np.random.default_rng(0).normal(8.9, 2.0, 100).tolist())
    latency = [fp32, dataclasses.replace(fp16, samples_ms=noisy), int8]
    assert decide(reports, latency).recommended == "fp32"


def test_judges_fp16_where_there_is_no_int8(make_accuracy, make_latencies):
    reports = [make_accuracy("fp32", images=3000), make_accuracy("fp16", images=3000)]
    verdict = decide(reports, make_latencies(fp32=9.0, fp16=5.0))
    assert (verdict.candidate, verdict.recommended, verdict.outcome) == ("fp16", "fp16", "pass")


def test_limits_of_the_user_count(verdict_on, make_accuracy):
    report, medians = make_accuracy(images=3000, lost=30), {"fp32": 9.4, "int8": 4.7}
    assert verdict_on(report, limits=Limits(2.0, 1.9), **medians).outcome == "pass"
    assert verdict_on(report, limits=Limits(2.0, 2.1), **medians).outcome == "fail"
    assert verdict_on(report, limits=Limits(0.5, 1.9), **medians).outcome == "fail"


@pytest.mark.parametrize(
    ("accurate", "timed", "message"),
    [
        (["fp32"], ["fp32"], "nothing to verify: got fp32.*Run: edgevit export"),
        (["fp32", "int8"], ["int8"], "latency: got int8, expected fp32"),
        (["fp32", "int8"], ["fp32"], "verdict on int8: got accuracy or latency alone"),
    ],
    ids=["fp32 alone", "no fp32", "not timed"],
)
def test_refuses_what_it_cannot_judge(make_accuracy, make_latencies, accurate, timed, message):
    reports = [make_accuracy(precision) for precision in accurate]
    with pytest.raises(SpecError, match=message):
        decide(reports, make_latencies(**dict.fromkeys(timed, 5.0)))


def test_refuses_latencies_that_were_not_taken_in_turns(make_accuracy, make_latencies):
    reports = [make_accuracy("fp32"), make_accuracy("int8")]
    apart = [*make_latencies(fp32=9.0), *make_latencies(int8=4.0)]
    with pytest.raises(SpecError, match="not measured in turns"):
        decide(reports, apart)


@pytest.fixture
def verdict_of_two(make_accuracy, make_latencies):
    """A verdict on two backends: medians of fp32 and int8 on each, and images that INT8 loses."""

    def decide_on(*, ort_ms, openvino_ms, ort_lost=0, openvino_lost=0):
        accuracy, latency = [], []
        for backend, medians, lost in (
            ("ort", ort_ms, ort_lost),
            ("openvino", openvino_ms, openvino_lost),
        ):
            accuracy.append(make_accuracy("fp32", images=3000, backend=backend))
            accuracy.append(make_accuracy("int8", images=3000, backend=backend, lost=lost))
            latency += make_latencies(backend, fp32=medians[0], int8=medians[1])
        return decide(accuracy, latency)

    return decide_on


def test_of_several_backends_the_fastest_int8_has_to_beat_the_fastest_fp32(verdict_of_two):
    verdict = verdict_of_two(ort_ms=(9.0, 6.0), openvino_ms=(8.0, 4.0))
    assert (verdict.outcome, verdict.backend) == ("pass", "openvino")
    assert verdict.recommended_backend == "openvino"
    assert verdict.sentence.startswith("Ship INT8 on openvino: 2x faster than FP32 on openvino")
    verdict = verdict_of_two(ort_ms=(9.0, 6.0), openvino_ms=(5.0, 7.0))
    assert (verdict.outcome, verdict.exit_status) == ("fail", 3)
    assert (verdict.recommended, verdict.recommended_backend) == ("fp32", "openvino")
    assert verdict.sentence.startswith("Do not ship INT8 on ort: it is slower than FP32 on openvi")
    assert verdict.sentence.endswith("Ship FP32 on openvino instead.")


def test_of_several_backends_the_one_that_passes_is_shipped(verdict_of_two):
    verdict = verdict_of_two(ort_ms=(9.0, 4.0), openvino_ms=(8.0, 5.0), ort_lost=300)
    assert (verdict.outcome, verdict.recommended_backend) == ("pass", "openvino")
    gates = {(g.backend, g.name): g.outcome for g in verdict.gates}
    assert gates["ort", "max-drop"] == "fail"
    assert gates["openvino", "max-drop"] == "pass"


def test_fp32_on_another_backend_is_no_fallback_where_its_answers_are_wrong(
    make_accuracy, make_latencies
):
    accuracy = [make_accuracy("fp32", images=3000), make_accuracy("int8", images=3000, lost=300)]
    accuracy.append(make_accuracy("fp32", images=3000, lost=300, backend="openvino"))
    accuracy.append(make_accuracy("int8", images=3000, lost=300, backend="openvino"))
    latency = [*make_latencies(fp32=9.0, int8=4.0), *make_latencies("openvino", fp32=5.0, int8=4.0)]
    verdict = decide(accuracy, latency)
    assert (verdict.recommended, verdict.recommended_backend) == ("fp32", "ort")


def test_speed_is_undecided_where_the_noise_spans_the_limit(make_accuracy, make_latencies):
    fp32, int8 = make_latencies(fp32=10.6, int8=10.0)
    noisy = np.random.default_rng(0).normal(10.6, 3.0, 100).tolist()
    fp32 = dataclasses.replace(fp32, samples_ms=tuple(noisy))
    accuracy = [make_accuracy("fp32", images=3000), make_accuracy(images=3000)]
    verdict = decide(accuracy, [fp32, int8])
    gate = _gate(verdict, "min-speedup")
    assert (verdict.exit_status, gate.outcome) == (5, "undecided")
    assert gate.low < 1.05 < gate.high
    assert "but that can be anything from" in gate.sentence
    assert gate.runs_needed > 100
    assert re.search(r"about --iterations \d+ would decide", verdict.sentence)


@pytest.mark.parametrize(
    ("images", "differing", "outcome", "words"),
    [
        (3000, 15, "pass", "First answer is that of fp32 on 99.50 % of 3,000 images, at least"),
        (3000, 60, "fail", "at most 98.4. % with 95 % confidence, where 99 are wanted"),
        (300, 1, "undecided", "about 1,200 images like these would decide"),
    ],
    ids=["agrees", "disagrees", "too few"],
)
def test_agreement_is_asked_for_by_itself(
    verdict_on, make_accuracy, images, differing, outcome, words
):
    report = make_accuracy(images=images, labelled=0, differing=differing)
    verdict = verdict_on(report, limits=Limits(min_agreement=99), fp32=9.4, int8=4.1)
    gate = _gate(verdict, "min-agreement")
    assert gate.outcome == outcome
    assert gate.low < gate.value < gate.high
    assert re.search(words, gate.sentence)


def test_asks_for_accuracy_speed_agreement_and_signal_by_default(verdict_on, make_accuracy):
    verdict = verdict_on(make_accuracy(images=3000), fp32=9.4, int8=4.1)
    names = ["max-drop", "min-speedup", "min-agreement", "min-sqnr"]
    assert [gate.name for gate in verdict.gates] == names
    assert _gate(verdict, "min-agreement").limit == 90
    unasked = verdict_on(
        make_accuracy(images=3000), limits=Limits(min_agreement=None), fp32=9.4, int8=4.1
    )
    assert "min-agreement" not in [gate.name for gate in unasked.gates]


def test_an_accuracy_gain_of_another_model_does_not_pass(verdict_on, make_accuracy):
    report = make_accuracy(images=3000, lost=30, gained=2640)
    verdict = verdict_on(report, fp32=9.4, int8=4.1)
    assert _gate(verdict, "max-drop").outcome == "pass"
    assert (verdict.exit_status, verdict.recommended) == (3, "fp32")
    assert "first answer is that of fp32 on 11.00 % of 3,000 images" in verdict.sentence


@pytest.mark.parametrize(("sqnr_db", "exit_status"), [(9.9, 3), (10.0, 0), (None, 0)])
def test_a_third_of_error_in_the_outputs_never_passes(
    verdict_on, make_accuracy, sqnr_db, exit_status
):
    verdict = verdict_on(make_accuracy(images=3000, sqnr_db=sqnr_db), fp32=9.4, int8=4.1)
    assert verdict.exit_status == exit_status
    assert ("9.9 dB (where at least 10 dB wanted)" in verdict.sentence) == bool(exit_status)


@pytest.mark.parametrize(
    ("count", "slower", "outcome", "words"),
    [
        (1000, 3, "pass", "3 of 1,000 runs took longer than 5 ms.*: p99 is below"),
        (1000, 30, "fail", "30 of 1,000 runs took longer than 5 ms.*: p99 is above"),
        (200, 0, "undecided", "about --iterations 300 would decide"),
        (1000, 10, "undecided", "too close to the limit for any number of runs"),
    ],
    ids=["below", "above", "too few runs", "on the limit"],
)
def test_p99_is_judged_by_the_runs_beyond_the_limit(
    make_accuracy, make_latencies, count, slower, outcome, words
):
    fp32, int8 = make_latencies(fp32=9.4, int8=4.1)
    samples = (*[4.1] * (count - slower), *[6.0] * slower)
    timed = [
        dataclasses.replace(fp32, samples_ms=(9.4,) * count, iterations=count),
        dataclasses.replace(int8, samples_ms=samples, iterations=count),
    ]
    accuracy = [make_accuracy("fp32", images=3000), make_accuracy(images=3000)]
    gate = _gate(decide(accuracy, timed, Limits(max_p99_ms=5.0)), "max-p99-ms")
    assert gate.outcome == outcome
    assert re.search(words, gate.sentence)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop": -1},
        {"max_drop": float("nan")},
        {"min_speedup": 0},
        {"min_agreement": 101},
        {"max_p99_ms": 0},
        {"max_slowdown": 0.9},
    ],
)
def test_refuses_impossible_limits(limits):
    with pytest.raises(SpecError, match=f"{next(iter(limits))}: got"):
        Limits(**limits)


def test_says_that_what_it_recommends_is_as_late(verdict_on, make_accuracy):
    limits = Limits(max_p99_ms=1.0)
    verdict = verdict_on(make_accuracy(images=3000), limits=limits, fp32=9.4, int8=4.1)
    assert verdict.exit_status == 3
    assert verdict.sentence.endswith(
        "Ship FP32 instead, which is not known to keep p99 below 1 ms either."
    )


def test_one_timed_run_says_nothing_of_the_next(make_accuracy, make_latencies):
    timed = [
        dataclasses.replace(report, samples_ms=report.samples_ms[:1], iterations=1)
        for report in make_latencies(fp32=9.4, int8=4.1)
    ]
    verdict = decide([make_accuracy(images=3000)], timed)
    assert verdict.exit_status == 5
    assert "but 1 timed run says nothing of the next ones; --iterations 200" in verdict.sentence
    assert "inf" not in verdict.sentence
