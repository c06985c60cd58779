import json

import numpy as np
import pytest

from edge_vit.errors import SpecError
from edge_vit.measure.histogram import Histogram, HistogramCounter
from edge_vit.values import from_json, to_json


def histogram_of(samples_ms):
    counter = HistogramCounter()
    for sample in samples_ms:
        counter.add_ms(sample)
    return counter.histogram()


@pytest.mark.uncounted
def test_percentiles_of_a_million_samples_are_within_one_percent():
    samples = np.random.default_rng(0).lognormal(1.5, 0.8, 1_000_000)
    samples[::1000] *= 40  # stragglers
    histogram = histogram_of(samples.tolist())
    for percent in (0, 1, 50, 90, 99, 99.9, 99.99, 100):
        exact = float(np.percentile(samples, percent))
        assert histogram.percentile_ms(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.mean_ms == pytest.approx(float(samples.mean()), rel=1e-6)


def test_memory_is_bounded_whatever_comes():
    counter = HistogramCounter()
    for exponent in np.linspace(-9, 12, 5000):
        counter.add_ms(10**exponent)
    histogram = counter.histogram()
    assert len(histogram.counts) <= 2400
    assert histogram.count == 5000
    assert (histogram.min_ns, histogram.max_ns) == (0, 10**18)
    assert histogram.percentile_ms(100) <= 1e12


def test_one_latency_is_every_percentile():
    histogram = histogram_of([4.2])
    assert {histogram.percentile_ms(p) for p in (0, 50, 99.9, 100)} == {4.2}


def test_a_latency_below_zero_counts_as_none():
    counter = HistogramCounter()
    counter.add(-5)
    assert (counter.histogram().min_ns, counter.histogram().mean_ms) == (0, 0)


def test_survives_json():
    histogram = histogram_of([0.5, 3, 3.01, 700])
    assert from_json(Histogram, json.loads(json.dumps(to_json(histogram)))) == histogram


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: Histogram().percentile_ms(50), "got no latency"),
        (lambda: Histogram().mean_ms, "got no latency"),
        (lambda: histogram_of([1]).percentile_ms(101), "percent: got 101, expected 0 to 100"),
        (lambda: histogram_of([1]).value_ms(1), "rank: got 1, expected 0 to 0"),
    ],
)
def test_refuses_what_it_cannot_say(ask, message):
    with pytest.raises(SpecError, match=message):
        ask()
