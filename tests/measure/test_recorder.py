import numpy as np
import pytest
import scipy.stats

from edge_vit.measure.recorder import find_percentiles, percentile_ranks, runs_needed


@pytest.mark.parametrize("count", [10, 100, 999, 1000, 12_345])
@pytest.mark.parametrize("percent", [50, 90, 95, 99, 99.9])
def test_ranks_equal_scipys(count, percent):
    tested = scipy.stats.quantile_test(np.arange(count), q=0, p=percent / 100)
    low, high = tested.confidence_interval(0.95)
    expected = tuple(None if np.isnan(end) else int(end) for end in (low, high))
    assert percentile_ranks(count, percent) == expected


@pytest.mark.parametrize(("percent", "count"), [(50, 200), (90, 400), (99, 3000)])
@pytest.mark.uncounted
def test_intervals_cover_at_least_95_percent_of_any_distribution(percent, count):
    random = np.random.default_rng(2)
    truth = scipy.stats.lognorm(0.7).ppf(percent / 100)
    low, high = percentile_ranks(count, percent)
    samples = np.sort(random.lognormal(0, 0.7, (3000, count)), axis=1)
    covered = np.mean((samples[:, low] <= truth) & (truth <= samples[:, high]))
    assert 0.945 <= covered <= 0.985


@pytest.mark.parametrize(("percent", "runs"), [(50, 1), (90, 100), (99, 1000), (99.9, 10_000)])
def test_a_percentile_is_said_from_ten_runs_beyond_it_on(percent, runs):
    assert runs_needed(percent) == runs


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, {50}), (99, {50}), (200, {50, 90, 95}), (999, {50, 90, 95}), (1000, {50, 90, 95, 99})],
)
def test_percentiles_of_too_few_runs_are_not_said(count, said):
    found = find_percentiles(lambda rank: float(rank), count)
    assert {p.percent for p in found if p.ms is not None} == said
    assert all(p.low_ms is p.high_ms is None for p in found if p.ms is None)


def test_percentiles_interpolate_and_lie_in_their_interval():
    samples = np.sort(np.random.default_rng(0).lognormal(1, 0.3, 20_000))
    found = find_percentiles(lambda rank: float(samples[rank]), len(samples))
    for percentile in found:
        assert percentile.ms == pytest.approx(np.percentile(samples, percentile.percent))
        assert percentile.low_ms < percentile.ms < percentile.high_ms


def test_a_small_sample_may_have_no_end():
    (median, *_) = find_percentiles(lambda rank: rank + 1.0, 3)
    assert (median.ms, median.low_ms, median.high_ms) == (2, None, None)
