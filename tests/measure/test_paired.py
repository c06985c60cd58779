import numpy as np
import pytest
import scipy.optimize
from statsmodels.stats.contingency_tables import mcnemar

from edge_vit.measure.paired import bootstrap_interval, mcnemar_p, tango_interval

TABLES = [
    (0, 0, 50),
    (1, 0, 50),
    (0, 4, 30),
    (12, 9, 44),
    (150, 86, 1600),
    (3, 3, 5000),
    (700, 640, 50_000),
]


@pytest.mark.parametrize(("lost", "gained", "count"), TABLES)
def test_mcnemar_equals_statsmodels(lost, gained, count):
    expected = mcnemar([[count - lost - gained, lost], [gained, 0]], exact=True)
    assert mcnemar_p(lost, gained) == pytest.approx(expected.pvalue, rel=1e-9)
    assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained)


def _score(lost, gained, count, drop):
    """Tango's score by its definition: the likelihood is maximised under the drop by scipy."""
    least, most = max(0.0, -drop), (1 - drop) / 2

    def unlikely(share):
        terms = (
            (lost, share + drop),
            (gained, share),
            (count - lost - gained, 1 - 2 * share - drop),
        )
        return -sum(times * np.log(max(part, 1e-300)) for times, part in terms if times)

    share = scipy.optimize.minimize_scalar(
        unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-14}
    ).x
    variance = count * (2 * share + drop - drop**2)
    return (lost - gained - count * drop) / np.sqrt(variance)


@pytest.mark.parametrize(("lost", "gained", "count"), TABLES[3:])
def test_the_score_at_the_ends_of_tangos_interval_is_the_normal_quantile(lost, gained, count):
    low, high = tango_interval(lost, gained, count)
    assert low < (lost - gained) / count < high
    assert _score(lost, gained, count, low) == pytest.approx(1.96, abs=1e-3)
    assert _score(lost, gained, count, high) == pytest.approx(-1.96, abs=1e-3)


@pytest.mark.parametrize(("lost", "gained", "count"), TABLES)
def test_tangos_interval_mirrors_and_is_within_all_drops(lost, gained, count):
    low, high = tango_interval(lost, gained, count)
    assert -1 <= low <= (lost - gained) / count <= high <= 1
    assert tango_interval(gained, lost, count) == pytest.approx((-high, -low), abs=1e-9)


def test_without_disagreement_tango_is_the_score_interval_of_no_success():
    z2 = 1.959964**2
    assert tango_interval(0, 0, 50).high == pytest.approx(z2 / (50 + z2), abs=1e-6)


def _coverage(interval, count, lost_rate, gained_rate, repetitions):
    random = np.random.default_rng(5)
    shares = [lost_rate, gained_rate, 1 - lost_rate - gained_rate]
    covered = 0
    for lost, gained, _ in random.multinomial(count, shares, repetitions).tolist():
        low, high = interval(lost, gained, count)
        covered += low <= lost_rate - gained_rate <= high
    return covered / repetitions


@pytest.mark.parametrize(
    ("count", "lost_rate", "gained_rate"),
    [(1000, 0.05, 0.03), (2000, 0.03, 0.03), (5000, 0.012, 0.008)],
)
@pytest.mark.parametrize("interval", [bootstrap_interval, tango_interval])
def test_95_percent_intervals_cover_93_to_97_percent(interval, count, lost_rate, gained_rate):
    assert 0.93 <= _coverage(interval, count, lost_rate, gained_rate, 2000) <= 0.97


def test_the_bootstrap_is_blind_where_nothing_differs_and_tango_is_not():
    assert bootstrap_interval(0, 0, 300) == (0, 0)
    assert tango_interval(0, 0, 300).high > 0.012
