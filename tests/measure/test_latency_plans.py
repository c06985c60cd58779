"""Scenarios on a scripted clock: what is slept, what is counted, and what is said of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
from small_models import make_model

from edge_vit.errors import ShapeError, SpecError
from edge_vit.measure import latency, recorder
from edge_vit.measure.latency import Plan, time_session
from edge_vit.measure.recorder import Recorder, find_warnings, stage_of
from edge_vit.measure.results import LatencyReport, Stage
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import LatencySplit
from edge_vit.values import from_json, to_json

MS = 1_000_000


class Clock:
    """Time that only passes when somebody works or sleeps."""

    def __init__(self):
        self.now = 0
        self.slept = []

    def perf_counter_ns(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)


class ScriptedSession(FakeSession):
    """Takes as long as the script says, run by run; the last entry goes on for ever."""

    def __init__(self, clock, script_ms, split=None, **options):
        super().__init__(options.pop("spec", make_model()), **options)
        self._clock, self._script, self.batches = clock, list(script_ms), []
        self._split = split

    def _run(self, feeds):
        self._clock.now += round(MS * self._script[min(len(self.batches), len(self._script) - 1)])
        self.batches.append(len(feeds["images"]))
        self.last_split = self._split
        return super()._run(feeds)


def _time(script_ms, *plan, **options):
    clock = Clock()
    session = ScriptedSession(clock, script_ms, **options)
    with mock.patch.object(latency, "time", clock):
        return time_session(session, Plan(*plan)), session, clock


def test_saturated_runs_without_a_pause():
    report, session, clock = _time([50, 4, 6, 5], "saturated", None, 3, 0.0, 1)
    assert report.samples_ms == (4, 6, 5)
    assert (report.iterations, report.warmup, session.batches) == (3, 1, [1] * 4)
    assert report.throughput_ips == pytest.approx(200)
    assert clock.slept == []
    assert report.label == "one run after another, as fast as they go"


def test_paced_waits_for_the_next_frame_and_lets_missed_ones_go():
    report, _, clock = _time([4, 25, 4, 4], "paced", None, 4, 0.0, 0, 100)
    # Frames come every 10 ms. After the run from 10 to 35 that of 30 waits; that of 20 is lost.
    assert clock.slept == pytest.approx([0.006, 0.001])
    assert report.samples_ms == (4, 25, 4, 4)
    assert report.interval_ms == 10
    assert report.label == "one run every 10 ms, idle in between, as with a camera"
    assert report.throughput_ips == pytest.approx(4 / 0.044)


def test_runs_for_as_long_as_asked():
    report, _, _ = _time([10], "saturated", None, None, 0.25, 5)
    assert report.iterations == 25
    report, _, _ = _time([10], "saturated", None, 40, 0.25, 5)
    assert report.iterations == 40


def test_the_batch_is_that_of_the_graph_where_none_is_asked():
    report, session, _ = _time([4], "saturated", None, 2, 0.0, 0, spec=make_model(batch=4))
    assert (report.batch_size, session.batches) == (4, [4, 4])
    assert Plan().num_iterations == 200


def test_the_meter_runs_while_runs_are_timed():
    clock, log = Clock(), []
    session = ScriptedSession(clock, [1])

    @contextlib.contextmanager
    def meter():
        log.append(len(session.batches))
        yield
        log.append(len(session.batches))

    time_session(session, Plan(iterations=5, warmup=2), meter=meter())
    assert log == [2, 7]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"iterations": 0}, "iterations: got 0"),
        ({"duration_s": float("inf")}, "duration_s: got inf"),
        ({"warmup": -1}, "warmup: got -1"),
        ({"fps": 0}, "fps: got 0, expected more than 0 runs per second"),
        ({"scenario": "offline"}, "scenario: got offline, expected saturated or paced"),
    ],
    ids=str,
)
def test_refuses_an_impossible_plan(plan, message):
    with pytest.raises(SpecError, match=message):
        Plan(**plan)


def test_refuses_another_batch_than_the_graph_has():
    with pytest.raises(ShapeError, match=r"expected uint8 \(4, 8, 8, 3\)"):
        time_session(FakeSession(make_model(batch=4)), Plan(batch_size=2))


def test_percentiles_come_with_intervals_and_only_where_runs_suffice():
    report, _, _ = _time([5, *np.linspace(4, 6, 1000)], "saturated", None, 1000, 0.0, 0)
    by_percent = {p.percent: p for p in report.percentiles}
    assert by_percent[99].ms == pytest.approx(np.percentile(report.samples_ms, 99))
    assert by_percent[99].low_ms < by_percent[99].ms < by_percent[99].high_ms
    assert by_percent[99.9].ms is None
    assert report.histogram.count == 1000
    assert report.variation == pytest.approx(np.std(report.samples_ms, ddof=1) / 5, rel=1e-3)
    assert from_json(LatencyReport, json.loads(json.dumps(to_json(report)))) == report


def test_memory_is_bounded_and_the_histogram_goes_on(monkeypatch):
    script = np.random.default_rng(0).lognormal(1, 0.3, 3000)
    whole, _, _ = _time(script, "saturated", None, 3000, 0.0, 0)
    monkeypatch.setattr(recorder, "MAX_SAMPLES", 100)
    report, _, _ = _time(script, "saturated", None, 3000, 0.0, 0)
    assert report.samples_ms == whole.samples_ms[:100]
    assert report.histogram == whole.histogram
    assert report.iterations == 3000
    assert report.variation == whole.variation
    assert report.latency_ms.mean == pytest.approx(whole.latency_ms.mean)
    for bounded, exact in zip(report.percentiles[:-1], whole.percentiles[:-1], strict=True):
        assert bounded.ms == pytest.approx(exact.ms, rel=0.01)
        assert bounded.high_ms == pytest.approx(exact.high_ms, rel=0.01)


def test_stages_are_those_of_the_session():
    split = LatencySplit(0.25, 3.0, 0.5)
    report, _, _ = _time([4], "saturated", None, 5, 0.0, 0, split=split)
    assert {stage.name: stage.p50_ms for stage in report.stages} == {
        "host-to-device": 0.25, "GPU": 3.0, "device-to-host": 0.5, "run": 4.0
    }  # fmt: skip
    assert report.warnings == ()


def _stages(to_device, gpu, to_host, run):
    names = ("host-to-device", "GPU", "device-to-host", "run")
    return [
        Stage(n, ms, ms, ms) for n, ms in zip(names, (to_device, gpu, to_host, run), strict=True)
    ]


@pytest.mark.parametrize(
    ("stages", "variation", "expected"),
    [
        (_stages(0.1, 3, 0.1, 3.5), 0.02, []),
        (_stages(0.1, 1, 0.1, 2.1), 0.02, ["launch-bound"]),
        (_stages(0.1, 1, 0.1, 1.9), 0.02, []),
        (_stages(0.6, 1, 0.4, 2.1), None, ["transfer-bound"]),
        (_stages(0.1, 3, 0.1, 3.5), 0.026, ["unsteady"]),
        ([stage_of("run", [1.0])], 0.5, ["unsteady"]),
    ],
    ids=["none", "launch", "almost launch", "transfer", "unsteady", "on a CPU"],
)
def test_warns_as_trtexec_does(stages, variation, expected):
    found = find_warnings(stages, variation, is_on_gpu=len(stages) > 1)
    assert [warning.name for warning in found] == expected
    assert all(warning.sentence.endswith(".") for warning in found)


def test_says_what_ran_where():
    class OnGpu(FakeSession):
        is_on_gpu, uses_graph, provider = True, True, "cuda"

    counted = Recorder()
    counted.add(5 * MS)
    environment = dataclasses.replace(_time([1])[0].environment)
    report = counted.report(OnGpu(make_model()), batch_size=1, warmup=0, environment=environment)
    assert (report.is_on_gpu, report.cuda_graph, report.provider) == (True, True, "cuda")
    assert report.variation is None
