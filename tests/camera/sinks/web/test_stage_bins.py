import pytest
from made_predictions import make_prediction

from edge_vit.camera.sinks.web.dashboard import NUM_BINS, StageBins, bin_of
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
    bins = StageBins(lambda: 0.0)
    for number in range(3):
        bins.add(make_prediction(number).frame.stamps)
    counts = bins.counts()
    assert set(counts) == {"latency", *STAGES}
    assert {sum(counts) for counts in counts.values()} == {3}
    assert counts["latency"][bin_of(21)] == 3
    assert counts["infer"][bin_of(5)] == 3


def test_what_is_older_than_a_minute_is_forgotten():
    now = [0.0]
    bins = StageBins(lambda: now[0])
    counts = []
    for now[0] in (0.0, 29.0, 31.0, 62.0, 100.0):
        bins.add(make_prediction(0).frame.stamps)
        counts.append(sum(bins.counts()["latency"]))
    assert counts == [1, 2, 3, 2, 2]
