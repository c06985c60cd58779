"""Maps in sinks: over the frame, in words below it, and as a coarse map in records."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
from made_predictions import make_prediction
from PIL import Image

from edge_vit.camera.sinks.drawing import draw_prediction
from edge_vit.camera.sinks.json_lines import json_line
from edge_vit.camera.sinks.web.pictures import Pictures
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.maps.prediction import MapPrediction

SIZE = (48, 64)
INPUT = PreprocessSpec((24, 24), crop_mode="squash", crop_pct=1.0)


def make_map():
    """Return a frame in whose right half the map is high."""
    values = np.zeros((1, 12, 12), np.float32)
    values[..., 6:] = 2
    found = MapPrediction("frame 0", "depth", values, SIZE, INPUT)
    return dataclasses.replace(make_prediction(size=SIZE), raw=found)


def halves(picture):
    pixels = np.asarray(picture, int)[:20]
    return pixels[:, :28].mean((0, 1)), pixels[:, 36:].mean((0, 1))


def test_a_frame_shows_the_map_over_it_and_its_range_below():
    prediction = make_map()
    dark, bright = halves(draw_prediction(prediction))
    assert bright[1] > dark[1] + 60  # viridis goes from violet to yellow
    bar = np.asarray(draw_prediction(prediction), int)[-8:]
    assert np.ptp(bar) > 100  # written upon


def test_the_dashboard_s_picture_shows_the_map():
    pictures, prediction = Pictures(), make_map()
    pictures.add(prediction)
    jpeg = pictures.snapshot((prediction.frame.source, False))
    dark, bright = halves(Image.open(io.BytesIO(jpeg)))
    assert bright[1] > dark[1] + 60


def test_a_record_has_a_coarse_map():
    record = json.loads(json_line(make_map()))
    assert record["answers"] == []
    found = record["map"]
    assert (found["low"], found["high"], found["mean"]) == (0, 2, 1)
    assert np.array_equal(np.array(found["coarse"]) > 1, np.indices((12, 12))[1] > 5)
