"""The class of each pixel: predictions, pictures, measures and gates."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_masks import (
    GRID,
    INPUT,
    LABELS,
    PREPROCESS,
    SIZE,
    SPEC,
    Painter,
    evaluated,
    open_with_truth,
    scene,
    write,
)

from edge_vit.data.images import ArraySource
from edge_vit.errors import SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.accuracy_report import report_of
from edge_vit.measure.gates import judge_accuracy, judge_agreement
from edge_vit.measure.partial import merge_partials
from edge_vit.report.details import drops_grid
from edge_vit.spec import ModelSpec, TensorSpec, image_input
from edge_vit.tasks import task_of
from edge_vit.tasks.segmentation import semantic
from edge_vit.tasks.segmentation.measures import (
    boundary_agreement,
    summarize_truth,
)


def test_a_prediction_is_in_the_images_own_pixels():
    pixels, mask = scene(0)
    outputs = Painter(SPEC).run(
        {"images": np.asarray(Image.fromarray(pixels).resize((48, 32)))[None]}
    )
    (found,) = task_of(SPEC).decode(SPEC, outputs, ["a.png"], [SIZE])
    assert found.classes.shape == SIZE
    assert np.mean(found.classes == mask) > 0.9
    listed = found.to_json()["predictions"]
    assert sum(entry["share"] for entry in listed) == pytest.approx(1, abs=1e-5)
    assert [entry["share"] for entry in listed] == sorted(
        (e["share"] for e in listed), reverse=True
    )
    assert {entry["label"] for entry in listed} <= set(LABELS)
    assert len(found.at_least(0.333).entries()) == 2
    json.dumps(found.record())
    stored = Image.open(io.BytesIO(found.files()["mask.png"]))
    assert stored.mode == "P"
    assert (np.asarray(stored) == found.classes).all()
    drawn = np.asarray(found.draw(Image.fromarray(pixels)))
    assert drawn.shape == (*SIZE, 3)
    assert (drawn != pixels).any()
    ground = found.classes == 0  # nothing is drawn over the background, but names
    assert np.mean((drawn == pixels).all(axis=2)[ground]) > 0.5


def test_both_masks_stand_side_by_side():
    pixels = scene(0)[0]
    images = {"images": np.asarray(Image.fromarray(pixels).resize((48, 32)))[None]}
    outputs = [Painter(SPEC, "int8", noise).run(images) for noise in (0, 0, 3)]
    picture = Image.fromarray(pixels)
    same = np.asarray(task_of(SPEC).overlay(SPEC, picture, *outputs[:2]))
    left, right = same[:, :96], same[:, -96:]
    assert (left == right).all()
    other = np.asarray(task_of(SPEC).overlay(SPEC, picture, *outputs[1:]))[:, -96:]
    white = (other == 255).all(axis=2)
    assert 0 < white.mean() < 0.5
    assert not (right == 255).all(axis=2).any()


def test_measures_with_truth(tmp_path):
    source = open_with_truth(write(tmp_path, 40))
    report = evaluated(source, 0.5)
    found = report.measures
    assert found["mIoU"].reference > 0.75
    assert found["mIoU"].low <= found["mIoU"].value <= found["mIoU"].high
    assert found["mIoU_drop"].value == pytest.approx(found["mIoU"].reference - found["mIoU"].value)
    assert 0.8 < found["pixel_accuracy"].value < 1
    gate = judge_accuracy(report, 50)
    assert (gate.outcome, gate.value) == ("pass", pytest.approx(100 * found["mIoU_drop"].value))
    assert judge_accuracy(report, -5).outcome == "fail"


def test_measures_without_truth(tmp_path):
    source = ArraySource([scene(index)[0] for index in range(40)])
    report = evaluated(source, 2.5)
    assert "mIoU" not in report.measures
    found = {name: value.value for name, value in report.measures.items()}
    assert found["pixels_lost"] == pytest.approx(1 - found["pixel_agreement"])
    assert 0.3 < found["mIoU_fp32"] < found["pixel_agreement"] < 1
    assert 0.5 < found["boundary_agreement"] < 1
    assert judge_accuracy(report, 60).outcome == "pass"
    assert judge_accuracy(report, 0.1).outcome == "fail"
    assert judge_agreement(report, 99).outcome == "fail"
    assert report.most_drop is None
    rows = dict(drops_grid([report]).rows)
    lost = report.measures["pixels_lost"]
    assert rows.pop("pixels of another class than fp32's (points)") == f"{100 * lost.value:.2f}"
    assert rows.pop("95 % interval of it") == f"{100 * lost.low:.2f} – {100 * lost.high:.2f}"
    assert not any("drop" in name for name in rows)


def test_the_same_model_loses_nothing(tmp_path):
    report = evaluated(open_with_truth(write(tmp_path, 30)), 0.0)
    assert report.agreement == 1
    assert report.measures["mIoU_drop"].value == 0
    assert report.measures["pixel_agreement"].value == 1
    assert report.measures["boundary_agreement"].value == 1


def test_a_batch_is_decoded_once_for_all_its_measures(monkeypatch):
    decoded = []
    whole = semantic.semantic_map
    monkeypatch.setattr(semantic, "semantic_map", lambda *a: decoded.append(a) or whole(*a))
    source = ArraySource([scene(index)[0] for index in range(3)])
    evaluate(Painter(SPEC), [Painter(SPEC, "int8", 0.5)], SPEC, source, num_worst=0)
    assert len(decoded) == 6
    assert vars(task_of(SPEC)) == {"measures": task_of(SPEC).measures}


def test_shards_add_up(tmp_path):
    from edge_vit.measure.accuracy import evaluate_part

    images = [scene(index)[0] for index in range(6)]
    whole = evaluated(ArraySource(images), 0.5)
    parts = []
    for index in (1, 2):
        source = ArraySource(images[(index - 1) * 3 : index * 3])
        sessions = Painter(SPEC), [Painter(SPEC, "int8", 0.5)]
        parts += evaluate_part(*sessions, SPEC, source, part=(index, 2))
    merged = report_of(merge_partials(parts))
    for name, value in whole.measures.items():
        assert merged.measures[name].value == pytest.approx(value.value, nan_ok=True)


@pytest.mark.parametrize(
    ("outputs", "activation", "message"),
    [
        ((("logits", (1, *GRID)),), "softmax", "got one class, .* Take --task dense"),
        (
            (("class_logits", (4, 2)), ("mask_logits", (4, *GRID))),
            *("softmax", "Take --task instance_segmentation"),
        ),
        (
            (("class_logits", (4, 4)), ("mask_logits", (4, *GRID))),
            *("sigmoid", "activation of tiny: got sigmoid, expected softmax"),
        ),
    ],
)
def test_what_no_class_of_each_pixel_follows_from_is_refused(outputs, activation, message):
    tensors = tuple(TensorSpec(name, "float32", ("batch", *shape)) for name, shape in outputs)
    with pytest.raises(SpecError, match=message):
        replace(SPEC, outputs=tensors, labels=(), activation=activation)


def test_mean_iou_is_over_the_classes_that_are_there():
    first = [[0, 30, 40, 40], [2, 10, 20, 20]]
    second = [[0, 0, 0, 10]]
    found = summarize_truth([first, second, None], [first, second, None])
    assert found["mIoU"].value == pytest.approx((30 / 60 + 10 / 30) / 2)
    assert found["pixel_accuracy"].value == pytest.approx(40 / 70)
    assert summarize_truth([None], []) == {}


def test_boundaries_may_be_a_little_off():
    left, right = (np.repeat([[0] * at + [1] * (40 - at)], 40, axis=0) for at in (20, 22))
    assert boundary_agreement(left, left, 1) == 1
    assert boundary_agreement(left, right, 2) == 1
    assert boundary_agreement(left, right, 1) == 0
    assert np.isnan(boundary_agreement(left * 0, left * 0, 1))


def test_a_model_of_other_outputs_is_refused():
    with pytest.raises(SpecError, match="expected logits"):
        ModelSpec(
            *("tiny", "hf:tiny", "segmentation", LABELS, (image_input(INPUT),)),
            (TensorSpec("logits", "float32", ("batch", 3)),),
            PREPROCESS,
        )
    with pytest.raises(SpecError, match="labels of tiny: got 3"):
        ModelSpec(
            *("tiny", "hf:tiny", "segmentation", LABELS, (image_input(INPUT),)),
            (TensorSpec("logits", "float32", ("batch", 4, *GRID)),),
            PREPROCESS,
        )
