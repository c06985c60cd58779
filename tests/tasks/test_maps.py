"""Maps: in an image's own pixels, as pictures, as predictions, and compared."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from edge_vit.data.images import ArraySource
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.gates import judge_accuracy
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input
from edge_vit.tasks import task_of
from edge_vit.tasks.maps.numerics import correlation, principal_colours
from edge_vit.tasks.maps.pictures import colours, from_png16, to_png16
from edge_vit.tasks.maps.placement import Placed, to_image
from edge_vit.tasks.maps.prediction import MapPrediction

RANDOM = np.random.default_rng(0)
INPUT = (28, 42)


def spec_of(*shape: int) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        source="onnx:tiny.onnx",
        task="dense",
        labels=(),
        inputs=(image_input(INPUT),),
        outputs=(TensorSpec("heat", "float32", ("batch", *shape)),),
        preprocess=PreprocessSpec(INPUT, crop_mode="squash", crop_pct=1.0),
    )


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(90, 70), (14, 11), (28, 42)])
def test_a_map_of_a_resized_image_is_resized_as_by_torch(kernel, size):
    values = RANDOM.standard_normal((3, 7, 11)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(values)[None], size, mode=kernel, align_corners=False)
    spec = PreprocessSpec(INPUT, crop_mode="squash", crop_pct=1.0)
    np.testing.assert_allclose(to_image(values, size, spec, kernel), wanted[0], atol=1e-5)
    strips = list(Placed((7, 11), size, spec, kernel).strips(values))
    np.testing.assert_allclose(np.concatenate([s for _, s in strips], 1), wanted[0], atol=1e-5)


def test_strips_keep_memory_small(monkeypatch):
    monkeypatch.setattr("edge_vit.tasks.maps.placement._MAX_VALUES", 3 * 70 * 20)
    values = RANDOM.standard_normal((3, 7, 11)).astype(np.float32)
    placed = Placed((7, 11), (90, 70), None)
    strips = list(placed.strips(values))
    assert [(rows.start, rows.stop) for rows, _ in strips] == [
        *((start, start + 20) for start in (0, 20, 40, 60)),
        (80, 90),
    ]
    assert np.array_equal(np.concatenate([s for _, s in strips], 1), placed.whole(values))


@pytest.mark.parametrize("crop_mode", ["squash", "border", "center"])
@pytest.mark.parametrize("size", [(200, 150), (90, 300)])
def test_a_map_lies_where_its_image_lay(crop_mode, size):
    """The model here gives back the brightness that it sees: a bright square stays in place."""
    picture = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 2 - 10, size[1] // 2 - 20
    picture[top : top + 40, left : left + 50] = 255
    spec = PreprocessSpec((96, 96), crop_mode=crop_mode, crop_pct=1.0)
    seen = preprocess(picture, spec)[..., 0].astype(np.float32) / 255
    found = to_image(seen, size, spec)
    known = np.isfinite(found)
    error = np.abs(found - picture[..., 0] / 255)[known]
    assert error.mean() < 0.02  # edges alone are blurred
    assert known.all() == (crop_mode != "center")
    if crop_mode == "center":
        side = min(size)
        assert abs(int(known.sum()) - side * side) <= 2 * side


def test_nearest_keeps_every_value():
    labels = RANDOM.integers(0, 9, (7, 7)).astype(np.float32)
    found = to_image(labels, (21, 35), None, "nearest")
    assert np.array_equal(found, labels.repeat(3, 0).repeat(5, 1))


@pytest.mark.parametrize("has_gap", [False, True])
def test_a_png_keeps_values_to_16_bits(has_gap):
    values = RANDOM.uniform(-3, 5, (20, 30)).astype(np.float32)
    if has_gap:
        values[3:5] = np.nan
    data = to_png16(values)
    assert Image.open(io.BytesIO(data)).mode.startswith("I;16")
    np.testing.assert_allclose(from_png16(data), values, atol=8 / 65534)


def test_colours_rise_with_the_value():
    found = colours(np.linspace(0, 1, 5)).astype(int)
    assert found[0].tolist() == [68, 1, 84] and found[-1].tolist() == [253, 231, 37]
    assert (np.diff(found @ [299, 587, 114]) > 0).all()


def test_correlation_is_pearsons_and_centres_each_channel():
    a, b = RANDOM.standard_normal((2, 1, 6, 5))
    assert correlation(a, b)[0] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlation(a, 3 * a + 7)[0] == pytest.approx(1)
    level = np.stack([np.zeros((6, 5)), np.full((6, 5), 1000.0)])
    two, other = (level + RANDOM.standard_normal((2, 6, 5)) for _ in range(2))
    assert abs(correlation(two[None], other[None])[0]) < 0.6  # a common level is no likeness
    flat = np.ones((1, 6, 5))
    assert correlation(flat, flat)[0] == 1 and correlation(flat, a)[0] == 0


def test_features_are_shown_by_what_differs_most():
    values = np.zeros((4, 6, 6), np.float32)
    values[2, :3] = 5
    values[0, :, :2] = 1
    directions = principal_colours(values)
    assert np.abs(directions[:, 0]).argmax() == 2 and np.abs(directions[:, 1]).argmax() == 0


def test_a_prediction_has_pictures_files_and_a_record():
    spec = spec_of(14, 21)
    outputs = {"heat": RANDOM.uniform(size=(1, 14, 21)).astype(np.float32)}
    (found,) = task_of(spec).decode(spec, outputs, ["a.jpg"], [(56, 84)])
    assert isinstance(found, MapPrediction)
    files = found.files()
    assert set(files) == {"heat.png", "heat.colours.png"}
    shown = np.asarray(Image.open(io.BytesIO(files["heat.colours.png"])), int)
    brightest = np.unravel_index(found.whole().argmax(), (56, 84))
    assert shown[brightest][1] > 180 > shown[brightest][2]  # green to yellow
    assert from_png16(files["heat.png"]) == pytest.approx(found.whole(), abs=1e-4)
    record = json.loads(json.dumps(found.record()))["map"]
    assert record["shape"] == [1, 14, 21] and np.shape(record["coarse"]) == (14, 16)
    assert np.mean(record["coarse"]) == pytest.approx(outputs["heat"].mean(), abs=0.02)
    picture = found.draw(Image.new("RGB", (84, 56)))
    assert picture.size == (84, 56) and np.ptp(np.asarray(picture)) > 100


def test_several_channels_are_kept_as_they_are():
    spec = spec_of(5, 4, 6)
    assert spec.num_outputs == 5
    outputs = {"heat": RANDOM.standard_normal((1, 5, 4, 6)).astype(np.float32)}
    (found,) = task_of(spec).decode(spec, outputs)
    kept = np.load(io.BytesIO(found.files()["heat.npy"]))
    assert np.array_equal(kept, outputs["heat"][0])
    assert found.whole().shape == (5, *INPUT)
    assert np.ptp(np.asarray(found.draw(Image.new("RGB", (60, 40))))) > 100


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5)])
def test_anything_else_is_no_map(shape):
    with pytest.raises(SpecError, match="expected a map"):
        spec_of(*shape)


@pytest.mark.parametrize(("noise", "outcome"), [(0.02, "pass"), (0.5, "fail")])
def test_an_evaluation_measures_maps_and_judges_them(noise, outcome):
    spec = spec_of(14, 21)
    images = RANDOM.integers(0, 256, (40, *INPUT, 3), dtype=np.uint8)
    sessions = FakeSession(spec), FakeSession(spec, "int8", noise=noise)
    (report,) = evaluate(sessions[0], [sessions[1]], spec, ArraySource(images))
    measures = report.measures
    assert set(measures) == {
        *("agreement", "mae", "correlation", "correlation_worst", "correlation_lost"),
    }
    expected = 1 / np.sqrt(1 + noise**2)
    assert measures["correlation"].value == pytest.approx(expected, abs=0.01)
    assert measures["correlation_worst"].value < measures["correlation"].value
    assert measures["mae"].value == pytest.approx(noise * np.sqrt(2 / np.pi), rel=0.1)
    assert judge_accuracy(report, 0.5).outcome == outcome
    # Beside the image both maps in one picture, and nothing else is kept of them
    picture = Image.open(io.BytesIO(base64.b64decode(report.worst[0].thumbnail_png)))
    assert picture.width > 3 * picture.height
