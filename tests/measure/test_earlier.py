"""The guard against regressions: like conditions give a ratio, unlike ones say what differs."""

import dataclasses

import numpy as np
import pytest

from edge_vit.measure.earlier import differences, judge_earlier, latency_conditions
from edge_vit.measure.limits import Limits
from edge_vit.measure.results import VerifyReport


@pytest.fixture
def make_earlier(make_model):
    def make(accuracy, latency):
        return VerifyReport(
            bundle="old.edgevit",
            bundle_digest="0" * 64,
            created="2026-01-01T00:00:00+00:00",
            model=make_model(),
            verdict=None,
            accuracy=accuracy,
            latency=latency,
            notes=(),
            environment=latency[0].environment if latency else None,
        )

    return make


def noisy(report, factor=1.0, seed=0, spread=0.02):
    samples = np.random.default_rng(seed).normal(10.0, 10 * spread, 400) * factor
    summary = dataclasses.replace(report.latency_ms, p50=float(np.median(samples)))
    return dataclasses.replace(
        report, samples_ms=tuple(samples.tolist()), latency_ms=summary, iterations=400
    )


@pytest.mark.parametrize(
    ("factor", "outcome", "words"),
    [
        (1.0, "pass", "1.05 allowed"),
        (1.2, "fail", "slower: 1.2"),
        (0.5, "pass", "faster: 0.5"),
        (1.05, "undecided", "decide."),
    ],
    ids=["the same", "slower", "faster", "on the limit"],
)
def test_speed_is_held_against_the_earlier_report(
    make_accuracy, make_latencies, make_earlier, factor, outcome, words
):
    (then,) = make_latencies(int8=10.0)
    earlier = make_earlier((make_accuracy(),), (noisy(then),))
    speed, _ = judge_earlier(make_accuracy(), noisy(then, factor, seed=1), earlier, Limits())
    assert (speed.name, speed.outcome) == ("baseline-speed", outcome)
    assert words in speed.sentence
    assert speed.low < speed.value < speed.high


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threads": 8}, "threads 2, not 8"),
        ({"batch_size": 4}, "batch size 1, not 4"),
        ({"cuda_graph": True}, "cuda graph none, not yes"),
        ({"device": "Orin"}, "device CPU, not Orin"),
        ({"packages": {"onnxruntime": "1.20"}}, "onnxruntime unknown, not 1.20"),
        ({"power_mode": "15W"}, "power mode none, not 15W"),
        ({"clocks_locked": True}, "clocks locked none, not yes"),
    ],
)
def test_unlike_conditions_are_named_and_decide_nothing(
    make_accuracy, make_latencies, make_earlier, changes, words
):
    (now,) = make_latencies(int8=10.0)
    machine = {k: v for k, v in changes.items() if hasattr(now.environment, k)}
    of_run = {k: v for k, v in changes.items() if k not in machine}
    environment = dataclasses.replace(now.environment, **machine)
    then = dataclasses.replace(now, environment=environment, **of_run)
    earlier = make_earlier((make_accuracy(),), (then,))
    speed, accuracy = judge_earlier(make_accuracy(), now, earlier, Limits())
    assert (speed.outcome, speed.value) == ("undecided", None)
    assert speed.sentence == f"Latency cannot be held against the earlier report: {words}."
    assert accuracy.outcome == "pass"


@pytest.mark.parametrize(
    ("now", "outcome", "words"),
    [
        ({}, "pass", "the same answers, to the last digit"),
        ({"lost": 11, "gained": 6, "sqnr_db": 24.0}, "pass", "0.00 points lost"),
        ({"lost": 311, "top1": 0.4}, "fail", "10.00 points of accuracy lost"),
        ({"data_digest": "f" * 64}, "undecided", "images ffffffffffff, not 000000000000"),
    ],
    ids=["the same", "other answers", "worse", "other images"],
)
def test_accuracy_is_held_against_the_earlier_report(
    make_accuracy, make_latencies, make_earlier, now, outcome, words
):
    (latency,) = make_latencies(int8=10.0)
    same = {"images": 3000, "lost": 11, "gained": 6, "top1": 0.5, "reference_top1": 0.502}
    earlier = make_earlier((make_accuracy(**same),), (latency,))
    _, gate = judge_earlier(make_accuracy(**{**same, **now}), latency, earlier, Limits())
    assert (gate.name, gate.outcome) == ("baseline-accuracy", outcome)
    assert words in gate.sentence


def test_without_labels_agreement_is_held_against_it(make_accuracy, make_latencies, make_earlier):
    (latency,) = make_latencies(int8=10.0)
    same = {"images": 30_000, "labelled": 0}
    earlier = make_earlier((make_accuracy(**same, differing=3),), (latency,))
    now = make_accuracy(**same, differing=9)
    _, gate = judge_earlier(now, latency, earlier, Limits())
    assert gate.outcome == "pass"
    assert "0.02 points lost" in gate.sentence


def test_what_the_earlier_report_lacks_is_said(make_accuracy, make_latencies, make_earlier):
    (latency,) = make_latencies(int8=10.0)
    gates = judge_earlier(make_accuracy(), latency, make_earlier((), ()), Limits())
    assert [gate.outcome for gate in gates] == ["undecided", "undecided"]
    assert "has no latency of int8 on ort" in gates[0].sentence


def test_what_took_no_part_may_differ(make_latencies):
    (report,) = make_latencies(int8=10.0)
    packages = {"openvino": "1", "timm": "2", "tensorrt": "3"}
    other = dataclasses.replace(
        report.environment, packages=packages, driver="570", memory_gib=1.0, python="3.10.9"
    )
    environment = dataclasses.replace(report.environment, python="3.10.12")
    report = dataclasses.replace(report, environment=environment, timed_on="noise")
    changed = dataclasses.replace(report, environment=other, timed_on="val")
    assert differences(latency_conditions(report), latency_conditions(changed)) == ()
    on_gpu = [dataclasses.replace(r, is_on_gpu=True) for r in (report, changed)]
    assert differences(*map(latency_conditions, on_gpu)) == ("driver 570, not none",)
