import time
from unittest import mock

import numpy as np
import pytest

from edge_vit.errors import ShapeError, SpecError
from edge_vit.measure import latency
from edge_vit.measure.latency import (
    measure_interleaved,
    measure_latency,
    measure_reopened,
)
from edge_vit.measure.recorder import summarize
from edge_vit.runtime.fake import FakeSession


class RecordingSession(FakeSession):
    """Writes down its precision and the batch of each run."""

    def __init__(self, spec, precision, log, **options):
        super().__init__(spec, precision, **options)
        self._log = log

    def _run(self, feeds):
        self._log.append((self.precision, feeds["images"].copy()))
        return super()._run(feeds)


def test_reports_the_delay_and_the_conditions(make_model):
    session = FakeSession(make_model(), "int8", delay_ms=3, threads=2)
    report = measure_latency(session, batch_size=4, warmup=1, iterations=12)
    summary = report.latency_ms
    assert 3 <= summary.min <= summary.p50 <= summary.p90 <= summary.p99 <= summary.max
    assert summary.min <= summary.mean <= summary.max
    assert report.throughput_ips == pytest.approx(4000 / summary.mean)
    assert report.iterations == len(report.samples_ms) == 12
    assert (report.backend, report.precision, report.batch_size) == ("fake", "int8", 4)
    assert (report.threads, report.warmup, report.interleaved_with) == (2, 1, ())


def test_rounds_rotate_the_order_and_share_the_batch(make_model):
    log = []
    sessions = [RecordingSession(make_model(), p, log) for p in ("fp32", "fp16", "int8")]
    reports = measure_interleaved(sessions, warmup=1, iterations=3)
    assert "".join(precision[-1] for precision, _ in log) == "268268682826"
    rounds = [log[i : i + 3] for i in range(0, 12, 3)]
    assert all((batch == turns[0][1]).all() for turns in rounds for _, batch in turns)
    assert not (rounds[0][0][1] == rounds[1][0][1]).all()
    assert [report.precision for report in reports] == ["fp32", "fp16", "int8"]
    assert reports[2].interleaved_with == ("fp32", "fp16")
    assert {len(report.samples_ms) for report in reports} == {3}


def test_each_session_gets_its_own_latency(make_model):
    sessions = [FakeSession(make_model(), p, delay_ms=d) for p, d in (("fp32", 50), ("int8", 1))]
    slow, fast = measure_interleaved(sessions, warmup=0, iterations=5)
    assert fast.latency_ms.min < 50 <= slow.latency_ms.min


def test_takes_the_given_images_round_and_round(make_model):
    images = np.arange(3, dtype=np.uint8).repeat(8 * 8 * 3).reshape(3, 8, 8, 3)
    log = []
    session = RecordingSession(make_model(), "fp32", log)
    measure_latency(session, batch_size=2, warmup=0, iterations=4, images=images)
    assert [batch[:, 0, 0, 0].tolist() for _, batch in log] == [[0, 1], [1, 2], [2, 0], [0, 1]]


def test_runs_at_least_as_long_as_asked(make_model):
    session = FakeSession(make_model(), delay_ms=2)
    start = time.perf_counter()
    report = measure_latency(session, warmup=0, iterations=1, duration_s=0.05)
    assert time.perf_counter() - start >= 0.05
    assert report.iterations <= 25


def test_summary_interpolates_between_order_statistics():
    summary = summarize([float(value) for value in range(101)])
    assert (summary.p50, summary.p90, summary.p99, summary.mean) == (50, 90, 99, 50)
    assert summarize([1.0, 2.0]).p50 == 1.5


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"warmup": -1}, {"iterations": 0}, {"duration_s": float("nan")}],
    ids=str,
)
def test_refuses_a_number_out_of_range(make_model, options):
    with pytest.raises(SpecError, match=f"{next(iter(options))}: got"):
        measure_latency(FakeSession(make_model()), **options)


def test_refuses_nothing_to_time_and_nothing_to_time_on(make_model):
    with pytest.raises(SpecError, match="sessions to time: got none"):
        measure_interleaved([])
    with pytest.raises(SpecError, match="images to time on: got none"):
        measure_latency(FakeSession(make_model()), images=np.zeros((0, 8, 8, 3), np.uint8))


def test_refuses_another_batch_size_than_the_graph_has(make_model):
    with pytest.raises(ShapeError, match=r"expected uint8 \(4, 8, 8, 3\)"):
        measure_latency(FakeSession(make_model(batch=4)), batch_size=1)


class ScriptedSession(FakeSession):
    """Slower where it was opened first of those that are open, as memory can make it."""

    open_now = now_ns = 0
    log = ""

    def __init__(self, spec, precision):
        super().__init__(spec, precision)
        self._delay_ns = 1_000_000 if ScriptedSession.open_now else 4_000_000
        ScriptedSession.log += precision[-1]
        ScriptedSession.open_now += 1

    def _run(self, feeds):
        ScriptedSession.now_ns += self._delay_ns
        return super()._run(feeds)

    def _close(self):
        ScriptedSession.open_now -= 1

    @classmethod
    def perf_counter_ns(cls):
        """Time that passes in runs alone."""
        return cls.now_ns


def test_sessions_are_opened_by_turns_so_that_none_always_lies_first(make_model):
    ScriptedSession.log = ""
    openers = [
        lambda precision=precision: ScriptedSession(make_model(), precision)
        for precision in ("fp32", "fp16", "int8")
    ]
    with mock.patch.object(latency, "time", ScriptedSession):
        reports = measure_reopened(openers, warmup=1, iterations=10)
    assert ScriptedSession.log == "268" + "682" + "826"
    assert ScriptedSession.open_now == 0
    slow = [sum(sample == 4 for sample in report.samples_ms) for report in reports]
    assert slow == [4, 3, 3]  # each was first in its share of the rounds
    assert [report.iterations for report in reports] == [10, 10, 10]
    assert [report.warmup for report in reports] == [3, 3, 3]
    assert reports[2].interleaved_with == ("fp32", "fp16")


def test_sessions_are_closed_when_one_fails(make_model):
    def fail():
        raise SpecError("no such graph")

    openers = [lambda: ScriptedSession(make_model(), "fp32"), fail]
    with pytest.raises(SpecError, match="no such graph"):
        measure_reopened(openers, iterations=4)
    assert ScriptedSession.open_now == 0


def test_fewer_rounds_than_sessions_are_not_a_problem(make_model):
    openers = [lambda: ScriptedSession(make_model(), "fp32") for _ in range(3)]
    assert [r.iterations for r in measure_reopened(openers, warmup=0, iterations=1)] == [1, 1, 1]
