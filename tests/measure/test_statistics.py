import functools

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from edge_vit.measure import statistics
from edge_vit.measure.statistics import (
    Interval,
    exact_bounds,
    images_needed,
    incomplete_beta,
    inverse_beta,
    mcnemar_p,
    paired_drop_bounds,
    wilson_interval,
)

COUNTS = [
    (successes, count)
    for count in (1, 2, 5, 30, 360, 1000, 10_000, 1_000_000)
    for successes in sorted({0, 1, count // 100, count // 3, count - 1, count})
    if successes <= count
]


@pytest.mark.parametrize("a", [0.5, 1, 3.7, 400, 1e5])
@pytest.mark.parametrize("b", [0.3, 1, 12, 5e4])
def test_incomplete_beta_equals_scipys(a, b):
    spread = np.sqrt(a * b / (a + b + 1)) / (a + b)
    for x in np.clip(a / (a + b) + spread * np.arange(-4, 5), 0, 1):
        expected = scipy.special.betainc(a, b, x)
        assert incomplete_beta(x, a, b) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_inverse_beta_undoes_incomplete_beta():
    for share in (1e-6, 0.05, 0.5, 0.95):
        assert incomplete_beta(inverse_beta(share, 4, 350), 4, 350) == pytest.approx(
            share, rel=1e-9
        )


@pytest.mark.parametrize(("successes", "count"), COUNTS)
def test_wilson_and_exact_bounds_equal_scipys(successes, count):
    result = scipy.stats.binomtest(successes, count)
    wilson = result.proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    exact = result.proportion_ci(0.95, method="exact")
    bounds = exact_bounds(successes, count, confidence=0.975)
    assert bounds == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("count", [1, 10, 360, 5000])
def test_zero_disagreements_leave_about_three_per_count(count):
    low, high = paired_drop_bounds(0, 0, count)
    assert high == pytest.approx(1 - 0.05 ** (1 / count), abs=1e-12)  # the exact "rule of three"
    assert low == pytest.approx(-high, abs=1e-12)


def test_drop_bounds_mirror_when_models_swap():
    low, high = paired_drop_bounds(12, 5, 800)
    assert paired_drop_bounds(5, 12, 800) == pytest.approx((-high, -low))


def test_drop_bounds_of_many_disagreements_are_those_of_the_normal_approximation():
    lost, gained, count = 4000, 3000, 100_000
    error = 1.645 * np.sqrt(lost + gained - (lost - gained) ** 2 / count) / count
    low, high = paired_drop_bounds(lost, gained, count)
    assert high == pytest.approx(0.01 + error, rel=0.01)
    assert low == pytest.approx(0.01 - error, rel=0.01)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 3000).flatmap(
        lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))
    )
)
def test_drop_bounds_hold_the_drop_and_are_never_empty(table):
    lost, gained, count = table
    if lost + gained > count:
        return
    low, high = paired_drop_bounds(lost, gained, count)
    drop = (lost - gained) / count
    assert -1 <= low <= drop <= high <= 1
    assert high - low > 0.5 / count


def _tables(count, most):
    """All (lost, gained) with at most `most` each, and the bounds of the drop for each."""
    lost, gained = (grid.ravel() for grid in np.meshgrid(np.arange(most + 1), np.arange(most + 1)))
    possible = lost + gained <= count
    lost, gained = lost[possible], gained[possible]
    bounds = np.array([paired_drop_bounds(b, c, count) for b, c in zip(lost, gained, strict=True)])
    return lost, gained, bounds


@pytest.mark.parametrize(("count", "most"), [(20, 20), (60, 26), (300, 26)])
def test_each_drop_bound_covers_at_least_95_percent(count, most, monkeypatch):
    """Coverage is summed over all tables, not simulated: what `most` cuts off counts as a miss."""
    monkeypatch.setattr(statistics, "exact_bounds", functools.cache(exact_bounds))
    lost, gained, bounds = _tables(count, most)
    covered = []
    for lost_rate in np.linspace(0.5, 8, 12) / count:
        for gained_rate in (0, 0.5 / count, 3 / count):
            probability = scipy.stats.multinomial.pmf(
                np.stack([lost, gained, count - lost - gained], axis=1),
                count,
                [lost_rate, gained_rate, 1 - lost_rate - gained_rate],
            )
            drop = lost_rate - gained_rate
            covered.append(probability[bounds[:, 1] >= drop].sum())
            covered.append(probability[bounds[:, 0] <= drop].sum())
    assert min(covered) >= 0.95
    assert np.mean(covered) < 0.995  # not bought with bounds that say nothing


def test_newcombes_method_10_would_miss_at_half_accuracy():
    """Why `paired_drop_bounds` does not use it: 100 images, 50 right in both, no disagreement."""
    count, z = 100, 1.645
    share, z2 = 0.5, z**2 / count
    half = np.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    phi = (50 * 50 - count / 2) / (50 * 50)
    upper = np.sqrt(2 * (1 - phi)) * half
    assert (
        1 - upper
    ) ** count > 0.18  # how often a drop this large shows no disagreement: not 0.05
    assert paired_drop_bounds(0, 0, count).high > 1.8 * upper


def test_images_needed_is_the_first_count_that_decides():
    def bounds(images):
        return paired_drop_bounds(images / 360, 0, images)

    needed = images_needed(bounds, limit=0.005, value=1 / 360, count=360)
    assert bounds(needed).high <= 0.005 < bounds(needed - 1).high


def test_images_needed_without_disagreement_is_the_rule_of_three():
    needed = images_needed(lambda n: paired_drop_bounds(0, 0, n), 0.005, value=0.0, count=100)
    assert needed == 598  # ln(0.05) / ln(0.995)


def test_images_needed_for_a_drop_above_the_limit_decides_by_the_lower_bound():
    def bounds(images):
        return exact_bounds(0.02 * images, images)

    needed = images_needed(bounds, limit=0.01, value=0.02, count=100)
    assert bounds(needed).low > 0.01 >= bounds(needed - 1).low


@pytest.mark.parametrize("value", [0.005, 0.0049999])
def test_no_number_of_images_decides_on_the_limit(value):
    def bounds(images):
        return Interval(value - 1 / images**0.5, value + 1 / images**0.5)

    assert images_needed(bounds, 0.005, value, count=100) is None


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 4), (12, 9), (700, 640)])
def test_mcnemar_equals_statsmodels(lost, gained):
    expected = mcnemar([[10, lost], [gained, 0]], exact=True)
    assert mcnemar_p(lost, gained) == pytest.approx(expected.pvalue, rel=1e-9)
    assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained)
