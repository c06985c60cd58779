import pytest
from made_predictions import make_prediction, make_summary

from edge_vit.camera.sinks.web.figures import HISTORY, NUM_BINS, Figures, bin_of
from edge_vit.camera.values import STAGES


@pytest.mark.parametrize(
    ("value_ms", "expected"),
    [
        (-1, 0),
        (0, 0),
        (0.001, 0),
        (0.1, 0),
        (0.134, 1),
        (1, 8),
        (9.99, 15),
        (10, 16),
        (9_999, NUM_BINS - 1),
        (1e9, NUM_BINS - 1),
    ],
)
def test_bins_are_eighths_of_a_decade(value_ms, expected):
    assert bin_of(value_ms) == expected


def test_counts_every_stage_of_every_answer():
    figures = Figures(lambda: 0.0)
    for number in range(3):
        figures.add(make_prediction(number))
    bins = figures.bins()
    assert set(bins) == {"latency", *STAGES}
    assert {sum(counts) for counts in bins.values()} == {3}
    assert bins["latency"][bin_of(21)] == 3
    assert bins["infer"][bin_of(5)] == 3


def test_what_is_older_than_a_minute_is_forgotten():
    now = [0.0]
    figures = Figures(lambda: now[0])
    counts = []
    for now[0] in (0.0, 29.0, 31.0, 62.0, 100.0):
        figures.add(make_prediction(0))
        counts.append(sum(figures.bins()["latency"]))
    assert counts == [1, 2, 3, 2, 2]


def test_the_past_does_not_grow():
    figures = Figures(lambda: 0.0)
    for number in range(HISTORY + 50):
        figures.add(make_prediction(number))
        figures.sample(make_summary(recent_fps=float(number)), None)
    past = figures.past()
    assert past["fps"] == [float(number) for number in range(50, HISTORY + 50)]
    assert past["latency"] == [21.0] * HISTORY
    assert set(past["power"]) == {None}


def test_a_point_of_the_past_is_of_the_answers_since_the_last_one():
    figures = Figures(lambda: 0.0)
    figures.add(make_prediction(0))
    figures.sample(make_summary(), None)
    figures.sample(make_summary(), None)
    assert figures.past()["latency"] == [21.0, None]
