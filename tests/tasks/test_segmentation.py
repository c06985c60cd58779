"""Masks: as predictions and pictures, read from files, measured and judged."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.images import ArraySource, open_image_source
from edge_vit.errors import ArtifactError, ImageError, SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.accuracy_report import report_of
from edge_vit.measure.gates import judge_accuracy, judge_agreement
from edge_vit.measure.partial import merge_partials
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input
from edge_vit.tasks import task_of
from edge_vit.tasks.segmentation.decoding import NOTHING
from edge_vit.tasks.segmentation.measures import (
    boundary_agreement,
    confusion,
    summarize_truth,
)
from edge_vit.tasks.segmentation.prediction import mask_png
from edge_vit.tasks.segmentation.truth import read_mask

INPUT, SIZE, GRID = (32, 48), (64, 96), (8, 12)
LABELS = ("background", "left", "right")
PREPROCESS = PreprocessSpec(INPUT, "bilinear", crop_pct=1.0, crop_mode="squash")
SPEC = ModelSpec(
    *("tiny", "hf:tiny", "segmentation", LABELS, (image_input(INPUT),)),
    (TensorSpec("logits", "float32", ("batch", 3, *GRID)),),
    PREPROCESS,
)
QUERIES = ModelSpec(
    *("tiny", "hf:tiny", "instance_segmentation", LABELS, (image_input(INPUT),)),
    (
        TensorSpec("class_logits", "float32", ("batch", 4, 4)),
        TensorSpec("mask_logits", "float32", ("batch", 4, *GRID)),
    ),
    PREPROCESS,
    threshold=0.5,
)


class Painter(FakeSession):
    """A model whose class is the column that an image's brightest channel names.

    The channels red, green and blue stand for the classes 0, 1 and 2; with `noise` cells change.
    """

    def __init__(self, spec, precision="fp32", noise=0.0):
        super().__init__(spec, precision)
        self._noise = noise

    def _run(self, feeds):
        images = feeds[self.inputs[0].name].astype(np.float32)
        rows, columns = INPUT[0] // GRID[0], INPUT[1] // GRID[1]
        cells = images.reshape(-1, GRID[0], rows, GRID[1], columns, 3).mean(axis=(2, 4))
        logits = cells.transpose(0, 3, 1, 2) / 25
        random = np.random.default_rng(int(images.sum()) % 1000)
        logits = logits + self._noise * random.standard_normal(logits.shape)
        return {"logits": logits.astype(np.float32)}


def scene(seed):
    """Return an image of the three classes in blocks, and its mask."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 3, (4, 6))
    mask = np.kron(coarse, np.ones((16, 16), int)).astype(np.uint8)
    pixels = np.where(np.arange(3) == mask[..., None], 220, 30).astype(np.uint8)
    return pixels, mask


def write(folder, count, masks="masks", offset=0):
    for name in ("images", masks):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        pixels, mask = scene(index)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask + offset).save(folder / masks / f"{index}.png")
    return folder


def evaluated(source, noise, spec=SPEC, session=Painter):
    return evaluate(session(spec), [session(spec, "int8", noise)], spec, source)[0]


def open_with_truth(folder):
    return open_image_source(folder, LABELS, truth=task_of(SPEC).truth_files(SPEC))


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


def test_the_same_model_loses_nothing(tmp_path):
    report = evaluated(open_with_truth(write(tmp_path, 30)), 0.0)
    assert report.agreement == 1
    assert report.measures["mIoU_drop"].value == 0
    assert report.measures["pixel_agreement"].value == 1
    assert report.measures["boundary_agreement"].value == 1


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


def test_masks_of_ade20k_begin_with_one(tmp_path):
    source = open_with_truth(write(tmp_path, 3, "annotations", offset=1))
    assert (source.item(0).truth.classes == scene(0)[1]).all()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "annotations" / "0.png")
    assert source.item(0).truth.ignored.all()


def test_the_folder_of_masks_tells_how_levels_are_read_not_one_above_it(tmp_path):
    source = open_with_truth(write(tmp_path / "annotations" / "v2", 1))
    assert (source.item(0).truth.classes == scene(0)[1]).all()
    assert source.notes == ()


@pytest.mark.parametrize(("offset", "found"), [(0, "33.3% of the pixels"), (1, "none")])
def test_how_masks_of_ade20k_are_read_is_said(tmp_path, offset, found):
    (note,) = open_with_truth(write(tmp_path, 1, "annotations", offset)).notes
    assert note.startswith(f"annotations: level 0, {found} in 1 masks looked at, is no class")


def test_masks_in_black_and_white_are_named(tmp_path):
    write(tmp_path, 2)
    for index in range(2):
        mask = (scene(index)[1] > 0) * np.uint8(255)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    (note,) = open_with_truth(tmp_path).notes
    assert "levels 0 and 255 alone, and 255 is left out" in note


def test_masks_of_two_levels_may_have_one_bit(tmp_path):
    source = open_with_truth(write(tmp_path, 1))
    mask = scene(0)[1] > 0
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    assert (source.item(0).truth.classes == mask).all()


def test_written_masks_of_many_classes_are_read_again(tmp_path):
    classes = np.array([[0, 254, 255, 256], [299, NOTHING, 300, 1]], np.int32)
    (tmp_path / "wide.png").write_bytes(mask_png(classes))
    truth = read_mask(tmp_path / "wide.png", classes.shape, 301, offset=0)
    assert (truth.ignored == (classes == NOTHING)).all()
    assert (truth.classes == classes)[~truth.ignored].all()
    narrow = np.minimum(classes, 254)
    (tmp_path / "narrow.png").write_bytes(mask_png(narrow))
    truth = read_mask(tmp_path / "narrow.png", classes.shape, 301, offset=0)
    assert (truth.ignored == (classes == NOTHING)).all()


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


@pytest.mark.parametrize(
    ("images", "masks", "image", "mask", "given"),
    [
        ("images", "annotations", "validation/a.jpg", "validation/a.png", "images/validation"),
        ("img_dir", "ann_dir", "val/a.png", "val/a.png", "."),
        ("img_dir", "ann_dir", "val/a.png", "val/a.png", "img_dir/val"),
        (
            *("leftImg8bit", "gtFine", "val/ulm/ulm_0_leftImg8bit.png"),
            *("val/ulm/ulm_0_gtFine_labelTrainIds.png", "leftImg8bit/val"),
        ),
    ],
)
def test_layouts_of_other_tools(tmp_path, images, masks, image, mask, given):
    pixels, classes = scene(0)
    offset = int(masks == "annotations")
    for place, array in ((images, pixels), (masks, classes + offset)):
        path = tmp_path / place / (image if place == images else mask)
        path.parent.mkdir(parents=True)
        Image.fromarray(array).save(path)
    source = open_with_truth(tmp_path / given)
    assert len(source) == 1
    assert (source.item(0).truth.classes == classes).all()
    assert open_image_source(tmp_path / given, has_truth=False).item(0).truth is None


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.full(SIZE, 3, np.uint8), ImageError, "got level 3, but the model has 3 classes"),
        (np.zeros((5, 5), np.uint8), ImageError, "got 5 x 5 pixels, but its image has 64 x 96"),
        (np.zeros((*SIZE, 3), np.uint8), ArtifactError, "got a picture in RGB, expected a PNG of"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, mask, error, message):
    source = open_with_truth(write(tmp_path, 1))
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    with pytest.raises(error, match=message):
        source.item(0)


def test_pixels_of_255_do_not_count(tmp_path):
    source = open_with_truth(write(tmp_path, 1))
    mask = scene(0)[1]
    mask[:, :48] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    truth = source.item(0).truth
    assert (truth.ignored == (mask == 255)).all()
    counted = confusion(truth.classes, scene(0)[1].astype(np.int32), truth.ignored)
    assert sum(true for *_, true in counted) == 64 * 48


def test_mean_iou_is_over_the_classes_that_are_there():
    first = [[0, 30, 40, 40], [2, 10, 20, 20]]
    second = [[0, 0, 0, 10]]
    found = summarize_truth([first, second, None], [first, second, None])
    assert found["mIoU"].value == pytest.approx((30 / 60 + 10 / 30) / 2)
    assert found["pixel_accuracy"].value == pytest.approx(40 / 70)
    assert summarize_truth([None], [])["mIoU"].value is None


def test_boundaries_may_be_a_little_off():
    left, right = (np.repeat([[0] * at + [1] * (40 - at)], 40, axis=0) for at in (20, 22))
    assert boundary_agreement(left, left, 1) == 1
    assert boundary_agreement(left, right, 2) == 1
    assert boundary_agreement(left, right, 1) == 0
    assert np.isnan(boundary_agreement(left * 0, left * 0, 1))


def queries_for(boxes, *, sure=6.0):
    """Return outputs of one image with a query for each (class, top, left, bottom, right)."""
    classes = np.zeros((1, 4, 4), np.float32)
    classes[..., -1] = 8
    masks = np.full((1, 4, *GRID), -6, np.float32)
    for query, (index, top, left, bottom, right) in enumerate(boxes):
        classes[0, query] = [sure * (column == index) for column in range(4)]
        masks[0, query, top:bottom, left:right] = 6
    return {"class_logits": classes, "mask_logits": masks}


def test_objects_have_score_box_and_mask():
    outputs = queries_for([(1, 0, 0, 4, 4), (2, 4, 6, 8, 12)])
    (found,) = task_of(QUERIES).decode(QUERIES, outputs, ["a.png"], [SIZE])
    assert [entry["label"] for entry in found.entries()] == ["right", "left"]
    first = found.entries()[1]
    assert first["box"] == pytest.approx([0, 0, 32, 32], abs=5)
    assert 0.9 < first["score"] < 1
    assert first["share"] == pytest.approx(1 / 6, abs=0.05)
    assert (found.classes[:24, :24] == 1).all()
    numbers = np.asarray(Image.open(io.BytesIO(found.files()["segments.png"])))
    assert set(np.unique(numbers)) == {0, 1, 2}
    assert np.asarray(found.draw(Image.new("RGB", SIZE[::-1]))).any()
    assert found.headline == "1 × right, 1 × left"


def test_segments_are_matched_and_judged():
    class Objects(FakeSession):
        def _run(self, feeds):
            count = len(feeds["images"])
            moved = int(self.precision == "int8")
            made = queries_for([(1, 0, 0, 4, 4 + moved), (2, 4, 6, 8, 12)])
            lost = queries_for([(1, 0, 0, 4, 4)])
            rows = [lost if moved and row % 2 else made for row in range(count)]
            return {name: np.concatenate([row[name] for row in rows]) for name in made}

    source = ArraySource([scene(index)[0] for index in range(30)])
    sessions = Objects(QUERIES), [Objects(QUERIES, "int8")]
    (report,) = evaluate(*sessions, QUERIES, source, batch_size=2)
    found = {name: value.value for name, value in report.measures.items()}
    assert found["matched_segments"] == pytest.approx(0.75)
    assert found["added_segments"] == 0
    assert 0.7 < found["mean_mask_iou"] < 1
    assert report.agreement == pytest.approx(0.5)


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


def test_masks_as_supervision_takes_them(monkeypatch):
    import sys
    from types import ModuleType

    module = ModuleType("supervision")
    module.Detections = lambda **fields: fields
    monkeypatch.setitem(sys.modules, "supervision", module)
    outputs = queries_for([(1, 0, 0, 4, 4), (2, 4, 6, 8, 12)])
    (objects,) = task_of(QUERIES).decode(QUERIES, outputs, ["a.png"], [SIZE])
    found = objects.to_supervision()
    assert found["mask"].shape == (2, *SIZE)
    assert found["class_id"].tolist() == [2, 1]
    assert found["xyxy"].tolist() == [entry["box"] for entry in objects.entries()]
    images = {"images": np.asarray(Image.fromarray(scene(0)[0]).resize((48, 32)))[None]}
    (classes,) = task_of(SPEC).decode(SPEC, Painter(SPEC).run(images), ["a.png"], [SIZE])
    found = classes.to_supervision()
    assert found["mask"].sum() == SIZE[0] * SIZE[1]
    assert found["confidence"] is None
