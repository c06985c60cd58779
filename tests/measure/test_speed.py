import math

import numpy as np
import pytest
import scipy.stats

from edge_vit.errors import SpecError
from edge_vit.measure import speed
from edge_vit.measure.speed import (
    find_difference,
    judge_ratio,
    median_ratio_interval,
    rounds_needed,
)
from edge_vit.measure.statistics import Interval

REPETITIONS = 100


def _wander(random, count, memory, spread):
    """An autoregressive course: neighbours resemble each other, as on a machine that is shared."""
    steps = random.normal(0, spread * math.sqrt(1 - memory**2), count)
    value, course = random.normal(0, spread), []
    for step in steps:
        value = memory * value + step
        course.append(value)
    return np.array(course)


def _latencies(random, count, shared=0.0, slower=1.0):
    """What a busy machine gives: a wandering clock, a long tail, and a run in fifty that stalls."""
    logs = _wander(random, count, 0.9, 0.02) + shared
    samples = 10 * slower * np.exp(logs) * (1 + 0.01 * random.exponential(1, count))
    stalls = random.random(count) < 0.02
    samples[stalls] *= random.uniform(1.3, 3, stalls.sum())
    return samples


def _pair(seed, paired, slower):
    random = np.random.default_rng(seed)
    shared = _wander(random, 600, 0.95, 0.05) if paired else 0.0
    return _latencies(random, 600, shared, slower), _latencies(random, 600, shared)


def _found(paired, slower):
    return [
        find_difference(median_ratio_interval(*_pair(seed, paired, slower), paired=paired))
        for seed in range(REPETITIONS)
    ]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.uncounted
def test_the_same_thing_twice_is_no_difference(paired):
    assert _found(paired, 1.0).count("no difference") >= 90


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.uncounted
def test_five_percent_slower_is_found(paired):
    assert _found(paired, 1.05).count("slower") >= 90


def _spread(samples):
    return scipy.stats.iqr(samples) / 1.349  # stalls apart


def test_resampling_single_runs_would_see_differences_where_there_are_none():
    """Why stretches are resampled: here each run is taken for independent of its neighbours."""
    wrong = 0
    for seed in range(REPETITIONS):
        first, second = (np.log(x) for x in _pair(seed, False, 1.0))
        error = 1.2533 * math.hypot(_spread(first), _spread(second)) / math.sqrt(600)
        wrong += abs(np.median(first) - np.median(second)) > 1.96 * error
    assert wrong > 30


def _reopened(seed, slower, stretches=3):
    """Sessions that take turns at a place in memory that costs 6 %: see `measure_reopened`."""
    first, second = _pair(seed, True, slower)
    for number, part in enumerate(np.array_split(np.arange(600), stretches)):
        (first, second, np.ones(600))[number % 3][part] *= 1.06
    return first, second


@pytest.mark.parametrize(("slower", "word"), [(1.0, "no difference"), (1.05, "slower")])
def test_what_opening_changes_is_balanced_out_and_is_no_noise(slower, word):
    found = [
        find_difference(median_ratio_interval(*_reopened(seed, slower), stretches=3))
        for seed in range(50)
    ]
    assert found.count(word) >= 45


def test_without_the_stretches_the_places_would_be_noise():
    widths = []
    for stretches in (1, 3):
        low, high = median_ratio_interval(*_reopened(1, 1.0), stretches=stretches)
        widths.append(high - low)
    assert widths[0] > 1.3 * widths[1]


def test_holds_the_ratio_of_the_medians_and_is_repeatable():
    slow, fast = _pair(3, True, 1.3)
    low, high = median_ratio_interval(slow, fast)
    assert low < np.median(slow) / np.median(fast) < high
    assert median_ratio_interval(slow, fast) == (low, high)
    assert median_ratio_interval(fast, slow) == pytest.approx((1 / high, 1 / low))


def test_pairs_share_what_disturbs_both():
    slow, fast = _pair(5, True, 1.05)
    paired, apart = (median_ratio_interval(slow, fast, paired=p) for p in (True, False))
    assert paired.high - paired.low < (apart.high - apart.low) / 1.5


def test_runs_taken_apart_may_be_unlike_in_number():
    slow, fast = _pair(5, False, 2)
    low, high = median_ratio_interval(slow[:300], fast, paired=False)
    assert low < 2 < high


@pytest.mark.parametrize("degrees", [1, 4, 9, 30])
def test_students_quantile_equals_scipys(degrees):
    assert speed.student_quantile(0.95, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees))


def test_one_run_says_nothing():
    assert median_ratio_interval([2.0], [1.0]) == (0, math.inf)
    assert judge_ratio(median_ratio_interval([2.0], [1.0]), 1.05) == "undecided"


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((1.1, 1.2), "pass"), ((1.05, 1.2), "pass"), ((1.0, 1.2), "undecided"), ((0.9, 1.04), "fail")],
)
def test_a_ratio_is_judged_by_both_ends(interval, outcome):
    assert judge_ratio(Interval(*interval), 1.05) == outcome


@pytest.mark.parametrize(
    ("interval", "difference"),
    [
        ((1.02, 1.05), "slower"),
        ((1.005, 1.05), "no difference"),
        ((0.9, 1.1), "no difference"),
        ((0.9, 0.98), "faster"),
        ((0.9, 0.995), "no difference"),
    ],
)
def test_what_is_within_the_tolerance_is_no_difference(interval, difference):
    assert find_difference(Interval(*interval)) == difference


def test_twice_the_precision_takes_four_times_the_rounds():
    interval = Interval(math.exp(-0.02), math.exp(0.04))
    assert rounds_needed(interval, math.exp(-0.005), 200) in (800, 810)  # rounded up
    assert rounds_needed(interval, math.exp(0.01), 200) is None
    assert rounds_needed(Interval(0.0, math.inf), 1.05, 1) is None


def test_refuses_rounds_that_are_no_pairs():
    with pytest.raises(SpecError, match=r"got 2 and 1 runs, .* and as many of both"):
        median_ratio_interval([1, 2], [1])
    with pytest.raises(SpecError, match="got 0 and 1 runs"):
        median_ratio_interval([], [1], paired=False)


@pytest.mark.parametrize("stretches", [2, 3, 6])
@pytest.mark.uncounted
def test_as_many_runs_as_verify_takes_rarely_miss_the_ratio(stretches):
    """Neighbouring rounds resemble each other here: short blocks would miss it more often."""
    missed = 0
    for seed in range(REPETITIONS):
        random = np.random.default_rng(seed)
        shared = _wander(random, 200, 0.95, 0.05)
        first, second = _latencies(random, 200, shared), _latencies(random, 200, shared)
        low, high = median_ratio_interval(first, second, stretches=stretches)
        missed += not low <= 1 <= high
    assert missed <= 14
