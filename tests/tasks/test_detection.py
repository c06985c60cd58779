"""Boxes: back into the image's pixels, decoded, matched, aligned, and their measures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.images import open_image_source
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ArtifactError, ImageError, SpecError
from edge_vit.measure.comparison import Comparison
from edge_vit.measure.partial import SeenImage
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input
from edge_vit.tasks import task_of
from edge_vit.tasks.coco import read_annotations
from edge_vit.tasks.detection import Box, DetectionPrediction
from edge_vit.tasks.detection.boxes import corners, iou, suppress, to_image
from edge_vit.tasks.detection.matching import pair_queries
from edge_vit.tasks.detection.measures import records
from edge_vit.tasks.detection.truth import of_coco, read_yolo

RANDOM = np.random.default_rng(0)
QUERIES = 6


def spec_of(activation="sigmoid", threshold=0.5, labels=("cat", "dog", "cow"), **more) -> ModelSpec:
    columns = len(labels) + (activation == "softmax")
    return ModelSpec(
        name="tiny",
        source="hf:tiny",
        task="detection",
        labels=labels,
        inputs=(image_input((64, 48)),),
        outputs=(
            TensorSpec("logits", "float32", ("batch", QUERIES, columns)),
            TensorSpec("boxes", "float32", ("batch", QUERIES, 4)),
        ),
        preprocess=PreprocessSpec((64, 48), **more),
        activation=activation,
        threshold=threshold,
    )


def outputs_of(rows=1, columns=3):
    """Return logits, of which every query has one class that is found, and boxes."""
    logits = np.full((rows, QUERIES, columns), -6, np.float32)
    logits[:, np.arange(QUERIES), np.arange(QUERIES) % 3] = np.linspace(4, 1, QUERIES)
    centres = np.linspace(0.15, 0.85, QUERIES)
    boxes = np.stack([centres, centres, np.full(QUERIES, 0.12), np.full(QUERIES, 0.1)], axis=1)
    return {"logits": logits, "boxes": np.repeat(boxes[None], rows, 0).astype(np.float32)}


@pytest.mark.parametrize("crop_mode", ["squash", "border", "center"])
@pytest.mark.parametrize("size", [(200, 150), (90, 300), (64, 48)])
def test_a_box_comes_back_to_the_pixels_that_it_was_drawn_on(crop_mode, size):
    spec = PreprocessSpec((64, 48), crop_mode=crop_mode, crop_pct=1.0, interpolation="bilinear")
    height, width = size
    image = np.zeros((*size, 3), np.uint8)
    y1, y2 = round(height * 0.45), round(height * 0.6)
    x1, x2 = round(width * 0.42), round(width * 0.57)
    image[y1:y2, x1:x2] = 255
    seen = preprocess(image, spec)[:, :, 0] > 127
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    inside = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]) / [48, 64, 48, 64]
    found = to_image(inside, size, spec)[0]
    step = 1.5 * max(height / 64, width / 48, height / 48 * 0.8)  # a pixel of the input
    np.testing.assert_allclose(found, [x1, y1, x2, y2], atol=step)


def test_decode_orders_by_score_and_keeps_what_is_above_the_threshold():
    spec, outputs = spec_of(threshold=0.8, crop_mode="squash", crop_pct=1.0), outputs_of()
    (prediction,) = task_of(spec).decode(spec, outputs, ("a.jpg",), ((128, 96),))
    assert isinstance(prediction, DetectionPrediction)
    scores = [box.score for box in prediction.boxes]
    assert scores == sorted(scores, reverse=True)
    assert all(score > 0.8 for score in scores)
    assert len(scores) == 5
    first = prediction.to_json()["predictions"][0]
    assert (first["index"], first["label"]) == (0, "cat")
    np.testing.assert_allclose(first["box"], corners(outputs["boxes"][0, 0]) * [96, 128, 96, 128])
    (less,) = task_of(spec).decode(spec, outputs, sizes=((128, 96),), top=2)
    assert less.to_json()["predictions"] == prediction.to_json()["predictions"][:2]
    assert prediction.headline == "2 × cat, 2 × dog, 1 × cow"


def test_softmax_leaves_the_no_object_column_out():
    spec, outputs = spec_of("softmax", 0.5), outputs_of(columns=4)
    outputs["logits"][0, 0, 3] = 9
    (prediction,) = task_of(spec).decode(spec, outputs)
    assert {box.index for box in prediction.boxes} <= {0, 1, 2}
    assert len(prediction.boxes) == QUERIES - 1


def test_the_order_of_the_queries_says_nothing():
    spec, outputs = spec_of(), outputs_of(2)
    order = RANDOM.permutation(QUERIES)
    moved = {name: values[:, order] for name, values in outputs.items()}
    task = task_of(spec)
    assert task.same(spec, outputs, moved).all()
    assert task.error(spec, outputs, moved).tolist() == [0, 0]
    assert task.deviation(spec, outputs, moved) == 0
    assert task.divergence(spec, outputs, moved) == pytest.approx([0, 0], abs=1e-9)


def test_what_no_threshold_shows_is_no_error():
    spec, outputs = spec_of(), outputs_of()
    outputs["logits"][0, 3:] = -6
    other = {name: values.copy() for name, values in outputs.items()}
    other["logits"][0, 3:] = -5
    other["boxes"][0, 3:] += 0.3
    task = task_of(spec)
    assert task.error(spec, outputs, other).tolist() == [0]
    other["logits"][0, 5, 1] = 3  # now it shows
    assert task.error(spec, outputs, other)[0] > 0.01
    assert not task.same(spec, outputs, other).any()


def test_measures_against_the_reference():
    spec, outputs = spec_of(), outputs_of()
    other = {name: values.copy() for name, values in outputs.items()}
    other["boxes"][0, 0, 2] /= 2
    other["logits"][0, 1] = -6
    other["logits"][0, 2:] += 0.1
    of = {measure.name: measure.compare for measure in task_of(spec).measures}
    assert of["matched_boxes"](spec, outputs, other) == pytest.approx([5 / 6])
    assert of["mean_iou"](spec, outputs, other) == pytest.approx([(0.5 + 4) / 5])
    assert of["score_drift"](spec, outputs, other)[0] > 0
    nothing = {**outputs, "logits": np.full_like(outputs["logits"], -9)}
    assert np.isnan(of["matched_boxes"](spec, nothing, outputs)).all()
    assert of["matched_boxes"](spec, outputs, nothing).tolist() == [0]
    assert np.isnan(of["added_boxes"](spec, outputs, nothing)).all()


def test_iou_and_suppression():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [0, 0, 2, 2.2], [5, 5, 4, 4]], float)
    assert iou(boxes, boxes)[0].tolist() == pytest.approx([1, 1 / 3, 4 / 4.4, 0])
    assert suppress(boxes, np.array([0, 0, 0, 0]), 0.5) == [0, 1, 3]
    assert suppress(boxes, np.array([0, 0, 1, 0]), 0.5) == [0, 1, 2, 3]


def test_a_model_with_nms_keeps_the_best_of_boxes_that_overlap():
    outputs = outputs_of()
    outputs["logits"][:, 3] = [3, -6, -6]  # as the first query, and where that one is
    outputs["boxes"][:, 3] = outputs["boxes"][:, 0] + 0.002
    spec = spec_of()
    both = task_of(spec).decode(spec, outputs, top=9)[0].boxes
    fewer = task_of(spec).decode(dataclasses.replace(spec, nms=0.5), outputs, top=9)[0].boxes
    assert [box for box in both if box not in fewer] == [
        box for box in both if box.index == 0 and box.score == pytest.approx(1 / (1 + np.exp(-3)))
    ]
    assert len(fewer) == len(both) - 1


def test_refuses_a_model_without_boxes():
    with pytest.raises(SpecError, match=r"expected logits .* and boxes \(batch, queries, 4\)"):
        ModelSpec(
            "x", "hf:x", "detection", (), (image_input((8, 8)),),
            (TensorSpec("logits", "float32", ("batch", 4)),), PreprocessSpec((8, 8)),
        )  # fmt: skip


def test_draws_boxes_on_a_copy():
    image_module = pytest.importorskip("PIL.Image")
    picture = image_module.new("RGB", (80, 60))
    prediction = DetectionPrediction("a", (Box(1, "dog", 0.9, (10.0, 20.0, 50.0, 55.0)),))
    drawn = task_of(spec_of()).draw(picture, prediction)
    assert np.asarray(picture).max() == 0
    changed = np.asarray(drawn).any(axis=2)
    assert changed[55, 10:50].all()
    assert not changed[40, 20:40].any()


def test_the_worst_image_shows_the_boxes_of_both_precisions():
    spec, outputs = spec_of(crop_mode="squash", crop_pct=1.0), outputs_of()
    moved = {**outputs, "boxes": outputs["boxes"] + np.float32([0.1, 0, 0, 0])}
    image = SeenImage(0, "a.png", np.zeros((64, 48, 3), np.uint8), None, "d")
    comparison = Comparison(spec, (), 1)
    comparison.add(image, outputs, moved)
    (kept,) = comparison.worst
    assert not kept.shown.agrees
    assert len(kept.shown.reference) == 3
    picture = Image.open(io.BytesIO(base64.b64decode(kept.shown.thumbnail_png)))
    assert picture.size == (192, 256)
    pixels = np.asarray(picture)
    for own, colour in ((outputs, (240, 228, 66)), (moved, (204, 0, 153))):
        x1, y1, _, y2 = (corners(own["boxes"][0, 5]) * [192, 256, 192, 256]).astype(int)
        edge = pixels[y1 + 6 : y2 - 6, x1]
        assert (edge == colour).all(axis=1).mean() > 0.5


COCO = {
    "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 60}],
    "categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 5, 20, 10], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 8, 8], "area": 50, "iscrowd": 1},
    ],
}


@pytest.fixture
def coco(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    (tmp_path / "images").mkdir()
    image_module.new("RGB", (60, 40), "white").save(tmp_path / "images" / "a.png")
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps(COCO))
    return path


def test_reads_coco_annotations_by_the_models_names(coco):
    source = open_image_source(coco, ("cat", "dog", "cow"))
    (item,) = source
    assert item.truth.classes.tolist() == [0, 1]
    assert item.truth.boxes.tolist() == [[10, 5, 30, 15], [0, 0, 8, 8]]
    assert item.truth.areas.tolist() == [200, 50]
    assert item.truth.crowds.tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "elk"}]}, SpecError, "'elk'"),
        ({"annotations": [{"image_id": 8}]}, ArtifactError, "no COCO annotation file"),
        ({"images": []}, ArtifactError, "annotation 1 has image_id 7, which the file does not"),
        ({"categories": [{"id": 3, "name": "dog"}]}, ArtifactError, "1 has category_id 9, which"),
        ({"annotations": [], "images": []}, ImageError, "lists no images"),
    ],
)
def test_refuses_annotations_that_cannot_be_meant(coco, change, error, message):
    coco.write_text(json.dumps({**COCO, **change}))
    with pytest.raises(error, match=message):
        open_image_source(coco, ("cat", "dog", "cow"))


def test_categories_that_no_annotation_has_are_left_aside_and_case_does_not_count(coco):
    categories = [{"id": 0, "name": "animals"}, {"id": 3, "name": "DOG"}, {"id": 9, "name": "Cat"}]
    images = [{"id": 7, "file_name": "a.png"}]
    coco.write_text(json.dumps({**COCO, "categories": categories, "images": images}))
    (item,) = open_image_source(coco, ("cat", "dog", "cow"))
    assert item.truth.classes.tolist() == [0, 1]
    assert item.truth.size == (40, 60)


def test_ids_beyond_the_classes_of_a_model_without_names_are_refused(coco):
    with pytest.raises(SpecError, match="got category id 9, but the model has 5 classes"):
        open_image_source(coco, num_classes=5)
    (item,) = open_image_source(coco, num_classes=10)
    assert item.truth.classes.tolist() == [9, 3]


def test_an_image_that_is_missing_is_one_bad_image(coco):
    first = {"id": 6, "file_name": "0.png", "height": 40, "width": 60}
    coco.write_text(json.dumps({**COCO, "images": [first, *COCO["images"]]}))
    source = open_image_source(coco, ("cat", "dog"))
    assert len(source) == 2
    with pytest.raises(ImageError, match=r"0\.png does not exist"):
        source.item(0)
    assert source.item(1).truth.classes.tolist() == [0, 1]


def test_refuses_images_of_another_size_than_annotated(coco):
    images = [{**COCO["images"][0], "width": 61}]
    coco.write_text(json.dumps({**COCO, "images": images}))
    with pytest.raises(ImageError, match="says 40 x 61: what it says does not fit"):
        list(open_image_source(coco, ("cat", "dog")))


def test_reads_a_yolo_folder(coco):
    root = coco.parent
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.25\n\n")
    (item,) = open_image_source(root, ("cat", "dog"))
    assert item.truth.boxes.tolist() == [[15, 15, 45, 25]]
    assert item.truth.classes.tolist() == [1]
    (root / "labels" / "a.txt").write_text("2 0.5 0.5 0.5 0.25")
    with pytest.raises(ImageError, match=r"a\.txt:1: got class 2, but the model has 2 classes"):
        list(open_image_source(root, ("cat", "dog")))


@pytest.mark.parametrize(
    "names",
    [
        "[dog, 'Cat']",
        "{0: dog, 1: cat}",
        "\n  - dog\n- cat",
        '\n  0: dog  # first\n  1: "cat"\nnc: 2',
    ],
)
def test_classes_of_a_yolo_folder_are_matched_by_their_names(coco, names):
    root = coco.parent
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.25\n0 0.5 0.5 0.5 0.25")
    (root / "data.yaml").write_text(f"nc: 2\nnames: {names}\n")
    (item,) = open_image_source(root, ("cat", "dog"))
    assert item.truth.classes.tolist() == [0, 1]
    (root / "data.yaml").write_text("names: [dog, elk]")
    with pytest.raises(SpecError, match="category 'elk' is none of the model's classes"):
        open_image_source(root, ("cat", "dog"))


@pytest.mark.parametrize("line", ["1 2 3", "0.5 0.1 0.1 0.1 0.1", "0 1.2 0.1 0.1 0.1", "cat 1"])
def test_refuses_other_lines_of_yolo(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(line)
    with pytest.raises(ImageError, match=r"a\.txt:1: got .* expected: class cx cy w h"):
        read_yolo(path, (10, 10))
    assert len(read_yolo(tmp_path / "none.txt", (10, 10)).boxes) == 0


def test_average_precision_of_the_truth_itself_is_1(coco):
    pytest.importorskip("faster_coco_eval", reason="edge-vit[detection] is not installed")
    from edge_vit.tasks.detection.average_precision import coco_numbers, summarize_ap

    truth = read_annotations(coco, ("cat", "dog", "cow"), "bbox", of_coco)["a.png"].read((40, 60))
    spec, outputs = spec_of(crop_mode="squash", crop_pct=1.0), outputs_of(2)
    outputs["logits"][:, 0] = [8, -8, -8]
    outputs["boxes"][:, 0] = [20 / 60, 10 / 40, 20 / 60, 10 / 40]
    outputs["logits"][:, 1:] = -8
    found = records(spec, outputs, [truth, None])
    assert found[1] is None
    numbers = coco_numbers(found[:1])
    assert numbers["AP"] == pytest.approx(1)
    assert numbers["APl"] is None
    worse = records(spec, {**outputs, "boxes": outputs["boxes"] * 0.9}, [truth, None])
    value = summarize_ap(worse, found)["AP"]
    assert value.value < 1
    assert value.reference == pytest.approx(1)
    assert summarize_ap([None], [None]) == {}


def test_average_precision_lost_is_that_of_both_models_on_the_same_images():
    pytest.importorskip("faster_coco_eval", reason="edge-vit[detection] is not installed")
    from edge_vit.tasks.detection.average_precision import AP_DROP, summarize_ap

    def record(x):
        box = [10.0, 10.0, 30.0, 30.0]
        found = [0, 0.9, 10.0 + x, 10.0, 30.0 + x, 30.0]
        return {"size": [60, 60], "dt": [found], "gt": [[0, *box, 400.0, 0]]}

    right = [record(0) for _ in range(40)]
    same = summarize_ap(list(right), list(right))[AP_DROP]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    half = [record(25 * (index % 2)) for index in range(40)]  # no overlap in every second image
    lost = summarize_ap(half, list(right))[AP_DROP]
    assert lost.value == pytest.approx(0.5, abs=0.3)
    assert 0.1 < lost.low < lost.value < lost.high
    gained = summarize_ap(right, half)[AP_DROP]
    assert gained.value == pytest.approx(-lost.value)
    assert gained.high < 0
    assert AP_DROP not in summarize_ap(right, [])


def test_nothing_shown_is_undecided():
    from edge_vit.measure.accuracy_report import nothing_shown

    class Subject:
        task = "detection"
        reference = "fp32 ort"

    (finding,) = nothing_shown(Subject, {"agreement": None})
    assert (finding.name, finding.outcome) == ("nothing-shown", "undecided")
    assert not list(nothing_shown(Subject, {"matched_boxes": None}))


def test_parity_compares_queries_whatever_their_order_and_lets_one_in_fifty_be_another():
    random = np.random.default_rng(0)
    logits, boxes = random.normal(size=(2, 100, 5)), random.uniform(size=(2, 100, 4))
    order = random.permutation(100)
    theirs = [logits[:, order] + 1e-6, boxes[:, order]]
    theirs[0][1, 7] += 3  # two queries of the second image were chosen otherwise
    theirs[1][1, 8] += 3
    for output, wanted in zip(pair_queries([logits, boxes], theirs), (logits, boxes), strict=True):
        np.testing.assert_allclose(output, wanted, atol=2e-6)
    theirs[0][1, 9] += 3
    paired, _ = pair_queries([logits, boxes], theirs)
    assert np.abs(paired - logits).max() > 0.5
    wrong = logits + random.normal(size=logits.shape) * 0.1
    paired, _ = pair_queries([logits, boxes], [wrong, boxes])
    assert np.abs(paired - logits).max() > 0.1
