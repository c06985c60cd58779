import dataclasses
import json

import numpy as np
from made_predictions import SPEC, make_prediction
from small_models import make_model

from edge_vit.camera.sinks.drawing import draw_prediction
from edge_vit.camera.sinks.json_lines import iso_time, json_line, prediction_record
from edge_vit.camera.smoothing import Smoothing
from edge_vit.tasks.detection.prediction import Box, DetectionPrediction


def test_says_what_was_seen_where_when_and_how_late():
    record = json.loads(json_line(make_prediction(7)))
    assert (record["source"], record["number"], record["clock"]) == ("test://", 7, "driver")
    assert record["captured"] == "2023-11-14T22:13:20.700Z"
    assert (record["width"], record["height"]) == (64, 48)
    assert (record["latency_ms"], record["age_ms"]) == (21, 10)
    assert sum(record["stage_ms"].values()) == record["latency_ms"]
    assert [prediction["label"] for prediction in record["answers"]] == [
        "cat",
        "dog",
        'say "owl"\nloudly',
    ]
    assert "smoothed" not in record
    assert "features" not in record


def test_a_line_is_one_line_whatever_the_label():
    line = json_line(make_prediction(0, (0, 0, 9, 1)))
    assert line.count(b"\n") == 1
    assert json.loads(line)["answers"][0]["label"] == 'say "owl"\nloudly'
    assert "Füchsin 🦊" in json_line(make_prediction(0, (0, 0, 0, 9))).decode()


def test_raw_scores_stand_beside_smoothed_ones():
    step = Smoothing("ema", 9, SPEC)
    step(make_prediction(0, (9, 0, 0, 0)))
    record = prediction_record(step(make_prediction(1, (0, 9, 0, 0))))
    assert record["answers"][0]["label"] == "dog"
    assert record["smoothed"][0]["index"] == 0


def test_features_are_said_as_they_are():
    record = prediction_record(make_prediction(0, features=(0.5, -1.0)))
    assert (record["answers"], record["features"]) == ([], [0.5, -1.0])
    assert make_prediction(0, features=(0.5,)).raw.headline is None


def test_labels_and_scores_are_said_as_what_they_are():
    tags = make_model("multi_label", labels=("a", "b", "c", "d"))
    on = make_prediction(0, (-1, 3, 2, -2), spec=tags)
    record = prediction_record(on)
    assert record["labels_on"] == ["b", "c"]
    assert len(record["answers"]) == 3
    assert on.raw.headline == "b  95%, c  88%"
    assert make_prediction(0, (-1, -3, -2, -2), spec=tags).raw.headline == "no label"
    ages = make_model("regression", 1, labels=("age",))
    prediction = make_prediction(0, (31.25,), spec=ages)
    record = prediction_record(prediction)
    assert (record["answers"], record["scores"]) == (
        [],
        [{"index": 0, "label": "age", "value": 31.25}],
    )
    assert prediction.raw.headline == "age 31.25"
    unnamed = make_model("regression", 1)
    assert make_prediction(0, (31.25,), spec=unnamed).raw.headline == "score 0 31.25"
    smoothed = prediction_record(Smoothing("ema", 2, ages)(prediction))
    assert smoothed["smoothed_scores"] == record["scores"]


def test_broken_text_does_not_stop_a_line():
    assert json_line(make_prediction(0, source="owl\udce9")).startswith(b'{"source":"owl\\\\xe9",')


def test_wall_time_is_utc():
    assert iso_time(0) == "1970-01-01T00:00:00.000Z"


def test_the_record_does_not_hold_the_pixels():
    big = make_prediction(0, size=(1080, 1920))
    assert len(json_line(big)) < 1500
    assert isinstance(big.frame.pixels, np.ndarray)


def test_boxes_are_drawn_into_the_frame():
    prediction = make_prediction(0, size=(120, 160))
    box = Box(1, "cat", 0.9, (20.0, 30.0, 80.0, 70.0))
    shown = dataclasses.replace(prediction, raw=DetectionPrediction("frame 0", (box,)))
    drawn, frame = np.asarray(draw_prediction(shown)), prediction.frame.pixels
    assert (drawn[50, 20] != frame[50, 20]).any()  # the left edge
    assert (drawn[50, 50] == frame[50, 50]).all()  # nothing inside
