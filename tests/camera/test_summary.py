from __future__ import annotations

import pytest

from edge_vit.camera.summary import LoopMetrics, percentiles_of
from edge_vit.camera.values import Stamps
from edge_vit.measure.histogram import HistogramCounter

SECOND, MS = 10**9, 10**6


def answer_at(meter, ns, latency_ms=10, clock="driver", source="a"):
    meter.add(source, Stamps(ns - latency_ms * MS, *[ns] * 6, clock=clock))


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (0, []),
        (1, ["p50"]),
        (10, ["p50", "p90"]),
        (999, ["p50", "p90"]),
        (1000, ["p50", "p90", "p99"]),
        (10_000, ["p50", "p90", "p99", "p999"]),
    ],
)
def test_a_percentile_is_said_only_where_enough_was_seen(count, known):
    counter = HistogramCounter()
    for _ in range(count):
        counter.add_ms(5.0)
    found = percentiles_of(counter.histogram())
    assert [name for name in ("p50", "p90", "p99", "p999") if getattr(found, name)] == known
    assert found.count == count
    assert found.max == (pytest.approx(5, rel=0.01) if count else None)


def test_the_recent_rate_is_that_of_the_last_whole_seconds():
    meter = LoopMetrics(100 * SECOND)
    for second in range(20):
        for number in range(10 if second < 10 else 30):
            answer_at(meter, (100 + second) * SECOND + number * 10 * MS)
    assert meter.recent_fps(120 * SECOND) == 30
    assert meter.fps(120 * SECOND) == pytest.approx((10 * 10 + 10 * 30) / 20)
    assert meter.recent_fps(125 * SECOND) == pytest.approx(0, abs=1e-9)


def test_intervals_are_those_within_a_source():
    meter = LoopMetrics(0)
    for number in range(5):
        answer_at(meter, number * SECOND, source="a")
        answer_at(meter, number * SECOND + MS, source="b")
    interval = meter.percentiles()["interval"]
    assert interval.count == 8
    assert interval.p50 == pytest.approx(1000, rel=0.01)


def test_names_the_clocks():
    meter = LoopMetrics(0)
    answer_at(meter, SECOND, clock="driver")
    answer_at(meter, SECOND, clock="arrival")
    assert meter.clocks == ("arrival", "driver")
