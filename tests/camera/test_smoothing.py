import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "sinks"))
from made_predictions import SPEC, make_prediction
from small_models import make_model

from edge_vit.camera.smoothing import LONGEST_GAP_S, ConfidenceFloor, Smoothing
from edge_vit.errors import SpecError
from edge_vit.tasks.numerics import softmax

CAT, DOG = (4.0, 0.0, 0.0, 0.0), (0.0, 4.0, 0.0, 0.0)


def first(step, *frames):
    """Return the first smoothed answer of the last of `frames`."""
    for frame in frames:
        prediction = step(frame)
    return prediction.smoothed.classes[0]


def test_ema_is_the_textbook_mean_of_the_scores():
    step = Smoothing("ema", 3, SPEC, top=4)
    logits = [CAT, DOG, DOG, (1.0, 2.0, 3.0, 4.0)]
    wanted = softmax(np.array(logits[0]))
    for number, one in enumerate(logits):
        smoothed = step(make_prediction(number, one)).smoothed
        wanted = wanted + 0.5 * (softmax(np.array(one)) - wanted)
    found = {prediction.index: prediction.score for prediction in smoothed.classes}
    assert [found[i] for i in range(4)] == pytest.approx(wanted.tolist())
    assert sum(found.values()) == pytest.approx(1)


def test_one_odd_frame_does_not_change_the_answer():
    for kind in ("ema", "majority"):
        frames = [make_prediction(number, CAT) for number in range(5)]
        assert first(Smoothing(kind, 5, SPEC), *frames, make_prediction(5, DOG)).label == "cat"


def test_a_lasting_change_does():
    for kind in ("ema", "majority"):
        frames = [make_prediction(number, CAT if number < 5 else DOG) for number in range(12)]
        assert first(Smoothing(kind, 5, SPEC), *frames).label == "dog"


def test_majority_scores_are_shares_of_the_last_frames():
    step = Smoothing("majority", 4, SPEC)
    frames = [make_prediction(number, (CAT, CAT, DOG, CAT, DOG)[number]) for number in range(5)]
    for frame in frames:
        predictions = step(frame).smoothed.classes
    assert [(prediction.label, prediction.score) for prediction in predictions] == [
        ("dog", 0.5),
        ("cat", 0.5),
    ]


def test_of_equal_shares_the_newest_comes_first():
    step = Smoothing("majority", 2, SPEC)
    assert first(step, make_prediction(0, DOG), make_prediction(1, CAT)).label == "cat"


def test_the_raw_answer_stays_as_it_was():
    step = Smoothing("ema", 5, SPEC)
    step(make_prediction(0, CAT))
    raw = make_prediction(1, DOG)
    prediction = step(raw)
    assert prediction.raw is raw.raw
    assert prediction.outputs is raw.outputs


def test_sources_are_smoothed_apart():
    step = Smoothing("ema", 9, SPEC)
    first(step, *(make_prediction(number, CAT, source="a") for number in range(9)))
    assert first(step, make_prediction(9, DOG, source="b")).index == 1
    assert first(step, make_prediction(9, DOG, source="a")).index == 0


@pytest.mark.parametrize("later_ms", [LONGEST_GAP_S * 1000 + 1, -500], ids=["gap", "back"])
def test_begins_anew_after_a_gap_or_a_jump_back(later_ms):
    for kind in ("ema", "majority"):
        step = Smoothing(kind, 9, SPEC)
        before = [make_prediction(number, CAT, at_ms=1000 + number) for number in range(9)]
        assert first(step, *before, make_prediction(9, DOG, at_ms=1008 + later_ms)).index == 1


def test_memory_does_not_grow_with_frames():
    step = Smoothing("majority", 3, SPEC)
    for number in range(100):
        step(make_prediction(number, CAT))
    (history,) = step._histories.values()
    assert len(history.newest) == 3


def test_what_cannot_be_averaged_is_refused():
    spec = make_model("features", 2)
    with pytest.raises(SpecError, match=r"--smooth ema:3: .* gives features, which cannot"):
        Smoothing("ema", 3, spec)
    with pytest.raises(SpecError, match="gives features, which have no probability"):
        ConfidenceFloor(0.9, spec)


def test_the_floor_is_held_against_probabilities_that_had_their_softmax_already():
    spec = dataclasses.replace(SPEC, activation="none")
    sure = make_prediction(0, (0.96, 0.02, 0.01, 0.01), spec=spec)
    assert sure.raw.classes[0].score == pytest.approx(0.96)
    assert ConfidenceFloor(0.9, spec)(sure).is_confident
    smoothed = Smoothing("ema", 4, spec)(sure).smoothed
    assert smoothed.classes[0].score == pytest.approx(0.96)


def test_labels_are_smoothed_one_by_one():
    spec = make_model("multi_label", labels=("a", "b", "c", "d"))
    frames = [(9, -9, -9, -9), (9, 9, -9, -9), (9, -9, -9, -9), (-9, -9, -9, 9)]
    predictions = [make_prediction(number, row, spec=spec) for number, row in enumerate(frames)]
    majority, ema = Smoothing("majority", 4, spec), Smoothing("ema", 4, spec)
    for prediction in predictions:
        by_votes, by_mean = majority(prediction).smoothed, ema(prediction).smoothed
    assert [label.label for label in by_votes.labels_on] == ["a"]
    assert [(a.label, a.score) for a in by_votes.classes] == [("a", 0.75), ("d", 0.25), ("b", 0.25)]
    assert {label.label for label in by_mean.labels_on} == {"a"}


def test_scores_are_averaged_and_not_voted_on():
    spec = make_model("regression", 1, labels=("age",))
    step = Smoothing("ema", 1, spec)
    step(make_prediction(0, (10.0,), spec=spec))
    assert step(make_prediction(1, (30.0,), spec=spec)).smoothed.scores[0].value == 30
    step = Smoothing("ema", 3, spec)
    step(make_prediction(0, (10.0,), spec=spec))
    assert step(make_prediction(1, (30.0,), spec=spec)).smoothed.scores[0].value == 20
    with pytest.raises(SpecError, match="Take --smooth ema:3"):
        Smoothing("majority", 3, spec)


def test_gives_as_many_answers_as_asked_for():
    for kind in ("ema", "majority"):
        step = Smoothing(kind, 4, SPEC, top=1)
        step(make_prediction(0, CAT))
        assert len(step(make_prediction(1, DOG)).smoothed.classes) == 1


def test_a_floor_marks_what_is_below_it():
    sure, unsure = make_prediction(0, CAT), make_prediction(1, (0.1, 0.0, 0.0, 0.0))
    floor = ConfidenceFloor(0.5, SPEC)
    assert floor(sure).is_confident
    assert not floor(unsure).is_confident
    assert floor(unsure).raw is unsure.raw


def test_the_floor_is_held_against_the_smoothed_score():
    step, floor = Smoothing("ema", 9, SPEC), ConfidenceFloor(0.8, SPEC)
    assert floor(step(make_prediction(0, CAT))).is_confident
    assert not floor(
        step(make_prediction(1, DOG))
    ).is_confident  # sure of itself, but it is one frame


@pytest.mark.parametrize(
    "make",
    [
        lambda: Smoothing("ema", 0, SPEC),
        lambda: Smoothing("ema", 3, SPEC, top=0),
        lambda: ConfidenceFloor(-0.1, SPEC),
        lambda: ConfidenceFloor(float("nan"), SPEC),
        lambda: ConfidenceFloor(1.1, SPEC),
    ],
)
def test_refuses_what_cannot_be(make):
    with pytest.raises(SpecError):
        make()
