"""True segments of every pixel, and panoptic quality."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_masks import QUERIES, SPEC, LosesOne

from edge_vit.data.bad_images import MaxBad
from edge_vit.data.images import open_image_source
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ArtifactError, ImageError, SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.gates import judge_accuracy
from edge_vit.runtime.session import run_images
from edge_vit.tasks import task_of
from edge_vit.tasks.memo import KeptOutputs
from edge_vit.tasks.segmentation import objects
from edge_vit.tasks.segmentation.decoding import NOTHING, Segment, numbered
from edge_vit.tasks.segmentation.panoptic_quality import quality, summarize
from edge_vit.tasks.segmentation.panoptic_truth import TrueSegments

PANOPTIC = replace(QUERIES, task="panoptic_segmentation")
SIZE = (64, 96)


def true_of(numbers, indices, things=frozenset({1, 2}), crowds=None):
    numbers = np.asarray(numbers, np.int32)
    indices = np.array(indices)
    classes = np.append(NOTHING, indices).astype(np.int32)[numbers]
    crowds = crowds or [False] * len(indices)
    return TrueSegments(classes, classes == NOTHING, numbers, indices, crowds, things)


def found_of(numbers, indices):
    return np.asarray(numbers, np.int32), np.array(indices, np.int64)


ROW = [[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]]


@pytest.mark.parametrize(
    ("found", "indices", "wanted"),
    [
        (ROW, [1, 2], [[1, 1, 1.0, 1, 0, 0], [2, 1, 1.0, 1, 0, 0]]),
        # three of four pixels: the IoU is 3/4; the other of class 1 is wrong, class 2 missed
        ([[1, 1, 1, 0, 2, 2, 2, 2, 0, 0]], [1, 1], [[1, 1, 0.75, 1, 1, 0], [2, 1, 0, 0, 0, 1]]),
        # half of the union is not enough
        ([[1, 1, 0, 0, 2, 2, 2, 2, 0, 0]], [1, 2], [[1, 1, 0, 0, 1, 1], [2, 1, 1.0, 1, 0, 0]]),
        # pixels without truth count in no union
        ([[1, 1, 1, 1, 2, 2, 2, 2, 2, 2]], [1, 2], [[1, 1, 1.0, 1, 0, 0], [2, 1, 1.0, 1, 0, 0]]),
        # nor is a segment wrong that lies on them for more than a half
        ([[1, 1, 1, 1, 2, 2, 2, 3, 3, 3]], [1, 2, 2], [[1, 1, 1, 1, 0, 0], [2, 1, 0.75, 1, 0, 0]]),
        ([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3]], [1, 2, 2], [[1, 1, 1, 1, 0, 0], [2, 1, 0, 0, 2, 1]]),
    ],
)
def test_matches_by_hand(found, indices, wanted):
    assert quality(true_of(ROW, [1, 2]), found_of(found, indices)) == wanted


def test_a_crowd_is_neither_found_nor_missed():
    truth = true_of(ROW, [1, 2], crowds=[False, True])
    assert quality(truth, found_of(np.zeros_like(ROW), [])) == [[1, 1, 0, 0, 0, 1]]
    in_crowd = [[0, 0, 0, 1, 1, 1, 2, 2, 2, 2]]
    assert quality(truth, found_of(in_crowd, [2, 1])) == [[1, 1, 0, 0, 1, 1]]


def test_parts_of_a_region_are_one_segment():
    halves = [[1, 1, 2, 2, 3, 3, 3, 3, 0, 0]]
    (sky, other) = quality(true_of(ROW, [1, 2], things=frozenset({2})), found_of(halves, [1, 1, 2]))
    assert (sky, other) == ([1, 0, 1.0, 1, 0, 0], [2, 1, 1.0, 1, 0, 0])
    sky, _ = quality(true_of(ROW, [1, 2]), found_of(halves, [1, 1, 2]))
    assert sky == [1, 1, 0, 0, 2, 1]


def test_means_are_over_classes():
    first = [[1, 1, 1.5, 2, 1, 0], [4, 0, 0.6, 1, 0, 0]]
    second = [[1, 1, 0, 0, 0, 1], [2, 1, 0, 0, 1, 0]]
    found = summarize([first, second, None], [first, first, None])
    value = {name: each.value for name, each in found.items()}
    assert value["PQ"] == pytest.approx((1.5 / 3 + 0 + 0.6) / 3)
    assert value["SQ"] == pytest.approx((1.5 / 2 + 0 + 0.6) / 3)
    assert value["RQ"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert value["PQ_things"] == pytest.approx(0.25)
    assert value["PQ_stuff"] == pytest.approx(0.6)
    assert found["PQ"].reference == pytest.approx((1.5 / 2.5 + 0.6) / 2)
    assert value["PQ_drop"] == pytest.approx(found["PQ"].reference - value["PQ"])
    assert found["PQ"].low <= value["PQ"] <= found["PQ"].high
    assert summarize([None], []) == {}
    assert "PQ_things" not in summarize([[[3, 0, 1, 1, 0, 0]]], [])


def test_quality_is_that_of_torchmetrics():
    """On 8 images of 7 segments, of which some are moved, others of another class."""
    random = np.random.default_rng(0)
    records = []
    for _ in range(8):
        true, other = (np.kron(random.integers(0, 7, (5, 6)), np.ones((4, 5), int)) for _ in "ab")
        is_other = np.kron(random.random((5, 6)) < 0.2, np.ones((4, 5))) > 0
        found = np.where(is_other, other, true)
        indices = [1, 1, 2, 2, 3, 4]
        said = [1, *(i if random.random() < 0.85 else 3 - i for i in indices[:4]), 3, 4]
        records.append((true, indices, found, said))
    qualities = [
        quality(true_of(true, indices), found_of(found + 1, said))
        for true, indices, found, said in records
    ]
    values = summarize(qualities, [])
    assert [values[name].value for name in ("PQ", "SQ", "RQ")] == pytest.approx(
        TORCHMETRICS, abs=1e-6
    )


def write_panoptic(folder, count):
    """Write images of two segments each, their PNG files, and the annotation file."""
    (folder / "images").mkdir(parents=True)
    masks = folder / "panoptic_val"
    masks.mkdir()
    images, annotations = [], []
    numbers = np.zeros(SIZE, int)
    numbers[:32, :32], numbers[32:, 48:] = 5, 70_000
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8)
        pixels[:16, :16] = index
        Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg", "PNG")
        coloured = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], 2)
        Image.fromarray(coloured.astype(np.uint8)).save(masks / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.jpg", "height": 64, "width": 96})
        infos = [{"id": 5, "category_id": 8}, {"id": 70_000, "category_id": 3, "iscrowd": 0}]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": infos})
    names = [{"id": 8, "name": "left", "isthing": 1}, {"id": 3, "name": "right", "isthing": 0}]
    path = folder / "panoptic_val.json"
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": annotations}))
    return path


def open_segments(path, spec=PANOPTIC, max_bad=None):
    truth = task_of(spec).truth_files(spec)
    return open_image_source(path, spec.labels, truth=truth, max_bad=max_bad)


class Segments(LosesOne):
    sure = 12.0


def test_reads_the_segments_of_a_panoptic_file(tmp_path):
    (item,) = open_segments(write_panoptic(tmp_path, 1))
    truth = item.truth
    assert truth.indices.tolist() == [1, 2]
    assert truth.things == {1}
    assert [(truth.numbers == number).sum() for number in (0, 1, 2)] == [3584, 1024, 1536]
    assert (truth.classes[:32, :32] == 1).all()
    assert (truth.ignored == (truth.numbers == 0)).all()
    (semantic,) = open_segments(tmp_path / "panoptic_val.json", SPEC)
    assert (semantic.truth.classes == truth.classes).all()


def test_a_model_is_held_against_true_segments(tmp_path):
    source = open_segments(write_panoptic(tmp_path, 30))
    models = Segments(PANOPTIC), [Segments(PANOPTIC, "int8")]
    report = evaluate(*models, PANOPTIC, source, num_worst=0)[0]
    found = report.measures
    assert found["PQ"].reference > 0.85
    assert found["PQ_things"].value == found["PQ_things"].reference
    assert found["RQ"].value == pytest.approx((1 + 15 / 22.5) / 2)
    assert found["mIoU"].value < found["mIoU"].reference
    gate = judge_accuracy(report, 0.5)
    assert gate.sentence.startswith("PQ lost: ")
    assert (gate.outcome, gate.value) == ("fail", pytest.approx(100 * found["PQ_drop"].value))


def test_of_a_batch_one_mask_is_held_at_a_time_and_made_once(tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []

    def watched(*arguments):
        for segment in panoptic(*arguments):
            alive.add(segment)
            most.append(len(alive))
            yield segment

    panoptic = objects.panoptic
    monkeypatch.setattr(objects, "panoptic", watched)
    task, model = task_of(PANOPTIC), Segments(PANOPTIC)
    items = list(open_segments(write_panoptic(tmp_path, 4)))
    pixels = np.stack([preprocess(item.pixels, PANOPTIC.preprocess) for item in items])
    outputs = KeptOutputs(run_images(model, pixels))
    truth = [item.truth for item in items]
    judged = [m.judge(PANOPTIC, outputs, truth) for m in task.measures if m.judge]
    assert len(judged) == 2  # of segments and of classes
    assert len(most) == 4 * 2
    assert max(most) <= 2  # the next one, and that before it


def test_segments_that_overlap_have_the_number_of_the_first():
    made = (Segment(index, 0.9, np.array(mask, bool)) for index, mask in MASKS)
    numbers, classes = numbered(made, (1, 4))
    assert (numbers.tolist(), classes.tolist()) == ([[1, 1, 2, 0]], [7, 5])


MASKS = (7, [[1, 1, 0, 0]]), (5, [[0, 1, 1, 0]])


def test_segments_of_an_image_may_stand_in_several_annotations(tmp_path):
    path = write_panoptic(tmp_path, 1)
    (whole,) = open_segments(path)
    data = json.loads(path.read_text())
    (entry,) = data["annotations"]
    data["annotations"] = [{**entry, "segments_info": [info]} for info in entry["segments_info"]]
    path.write_text(json.dumps(data))
    (item,) = open_segments(path)
    assert (item.truth.numbers == whole.truth.numbers).all()
    data["annotations"][1]["file_name"] = "other.png"
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"image 0\.jpg has segments in 0\.png and other\.png"):
        open_segments(path)


def test_a_damaged_file_of_segments_is_left_out_and_named(tmp_path):
    path = write_panoptic(tmp_path, 6)
    torn = tmp_path / "panoptic_val" / "3.png"
    torn.write_bytes(torn.read_bytes()[:70])
    report = evaluate(
        *(Segments(PANOPTIC), [Segments(PANOPTIC)], PANOPTIC),
        open_segments(path, max_bad=MaxBad()),
    )[0]
    assert report.num_images == 5
    assert f"mask {torn} cannot be read" in report.notes[0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(SIZE, np.uint8), "got a picture in L, expected a PNG in RGB of segments'"),
        (np.zeros((5, 5, 3), np.uint8), "got 5 x 5 pixels, but its image has 64 x 96"),
        (np.zeros((*SIZE, 3), np.uint8), "segment 5 of the annotation file is not in the"),
        (np.full((*SIZE, 3), 9, np.uint8), "segment 5 of the annotation file is not in"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, mask, message):
    source = open_segments(write_panoptic(tmp_path, 1))
    Image.fromarray(mask).save(tmp_path / "panoptic_val" / "0.png")
    with pytest.raises(ImageError, match=message):
        source.item(0)


def test_what_is_no_panoptic_file_is_refused(tmp_path):
    path = write_panoptic(tmp_path, 2)
    with pytest.raises(SpecError, match=r"got panoptic segments, .* expected objects with"):
        open_segments(path, QUERIES)
    (tmp_path / "panoptic_val").rename(tmp_path / "elsewhere")
    with pytest.raises(ImageError, match=r"PNG files were expected in .*panoptic_val\. Put"):
        open_segments(path)


TORCHMETRICS = (0.699719747532573, 0.8346649911732246, 0.840624988079071)
"""PQ, SQ and RQ of the same segments by torchmetrics 1.9.0."""
