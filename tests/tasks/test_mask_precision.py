"""True objects with masks: COCO's polygons and run lengths, and average precision of masks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_masks import QUERIES, LosesOne

from edge_vit.data.bad_images import MaxBad
from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError, SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.gates import judge_accuracy
from edge_vit.tasks import task_of
from edge_vit.tasks.coco import Categories
from edge_vit.tasks.detection.average_precision import NAMES, coco_numbers
from edge_vit.tasks.segmentation import mask_precision
from edge_vit.tasks.segmentation.decoding import Segment
from edge_vit.tasks.segmentation.object_truth import decompress, of_coco

pytest.importorskip("faster_coco_eval", reason="edge-vit[detection] is not installed")

SIZE = (64, 96)
CATEGORIES = Categories({1: 0, 2: 1, 7: 2}, None)
MASK = np.zeros(SIZE, bool)
MASK[10:30, 20:60] = True
POLYGON = [20, 10, 60, 10, 60, 30, 20, 30]
COMPRESSED = "ZX1d0\\1" + 77 * "0" + "fW2"


def runs_of(mask):
    """Return the run lengths of `mask`, down its columns, the first of what is not in it."""
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    ends = [*np.flatnonzero(np.diff(flat)).tolist(), mask.size]
    return {"size": list(mask.shape), "counts": np.diff([0, *ends]).tolist()}


def read(*segmentations, **more):
    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    entries = [{"id": 5, "category_id": 2, "segmentation": each, **more} for each in segmentations]
    return of_coco(image, entries, CATEGORIES).read(SIZE)


def masks_of(truth):
    tools = mask_precision.mask_tools()
    return [tools.decode(mask).astype(bool) for mask in truth.masks]


def test_polygons_and_run_lengths_are_the_same_mask():
    truth = read([POLYGON], runs_of(MASK), {"size": list(SIZE), "counts": COMPRESSED})
    assert truth.classes == [1, 1, 1]
    assert truth.areas == [800, 800, 800]
    assert truth.crowds == [False] * 3
    for found in masks_of(truth):
        assert (found == MASK).all()


def test_parts_of_an_object_are_one_mask_and_its_own_area_counts():
    truth = read([POLYGON, [0, 0, 8, 0, 8, 8, 0, 8]], area=123.5, iscrowd=1)
    (found,) = masks_of(truth)
    assert found.sum() == 800 + 64
    assert truth.areas == [123.5]
    assert truth.crowds == [True]


@pytest.mark.parametrize(
    "damaged",
    [
        [[1, 1, 5]],
        [[1, 1, 5, 5]],
        [[1, 1, 5, 5, float("nan"), 3]],
        [[1, 1, 5, 5, 1e5, 3]],  # many times the image
        [],
        {"size": list(SIZE), "counts": [5, 10]},
        {"size": [9, 9], "counts": runs_of(MASK)["counts"]},
        {"size": list(SIZE), "counts": COMPRESSED[:9]},
        {"size": list(SIZE), "counts": "~~~"},
        {"counts": [1]},
        7,
    ],
)
def test_a_damaged_mask_is_named(damaged):
    with pytest.raises(ImageError, match=r"^a\.png: segmentation of annotation 5: got .* expected"):
        read(damaged)


def test_run_lengths_are_differences_from_the_third_on():
    assert decompress("05203") == [0, 5, 2, 5, 5]
    with pytest.raises(ValueError, match="cut off"):
        decompress("")


def scenes(count=12):
    """Return true objects of each image as COCO has them, and found segments, from one seed."""
    random = np.random.default_rng(7)
    true, found = [], []
    for _ in range(count):
        entries, segments = [], []
        for _ in range(random.integers(0, 6)):
            top, left = random.integers(0, SIZE[0] - 8), random.integers(0, SIZE[1] - 8)
            high, wide = random.integers(6, 48, 2)
            mask = np.zeros(SIZE, bool)
            mask[top : top + high, left : left + wide] = True
            category, is_crowd = int(random.choice([1, 2, 7])), int(random.random() < 0.15)
            entries.append(
                {
                    "category_id": category,
                    "segmentation": runs_of(mask),
                    "area": int(mask.sum()),
                    "iscrowd": is_crowd,
                }
            )
            for _ in range(random.integers(0, 3)):
                shift = tuple(random.integers(-4, 5, 2).tolist())
                index = CATEGORIES.classes[category] if random.random() < 0.8 else 0
                moved = np.roll(mask, shift, (0, 1))
                segments.append(Segment(index, round(float(random.random()), 6), moved))
        true.append(entries)
        found.append(segments)
    return true, found


def test_average_precision_is_that_of_pycocotools(monkeypatch):
    true, found = scenes()
    left = iter(found)
    monkeypatch.setattr(mask_precision, "each_instance", lambda *arguments: next(left))
    image = {"file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    truth = [of_coco(image, entries, CATEGORIES).read(SIZE) for entries in true]
    outputs = dict.fromkeys((output.name for output in QUERIES.outputs), np.zeros(len(truth)))
    records = json.loads(json.dumps(mask_precision.records(QUERIES, outputs, truth)))
    numbers = coco_numbers(records)
    found = [-1 if numbers[name] is None else numbers[name] for name in NAMES]
    assert found == pytest.approx(PYCOCOTOOLS, abs=1e-9)


def write_annotations(folder, count):
    """Write images with two objects each, and the annotation file of those objects."""
    (folder / "images").mkdir()
    boxes = {3: (0, 0, 32, 32), 9: (48, 32, 96, 64)}  # left, right: of category, in pixels
    images, annotations = [], []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
        pixels[:16, :16] = number
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
        for category, (x, y, x2, y2) in boxes.items():
            polygon = [x, y, x2, y, x2, y2, x, y2]
            entry = {"id": len(annotations), "image_id": number, "category_id": category}
            annotations.append({**entry, "segmentation": [polygon]})
    names = [{"id": 3, "name": "left"}, {"id": 9, "name": "right"}]
    path = folder / "instances_val.json"
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": annotations}))
    return path


def open_objects(path, max_bad=None):
    truth = task_of(QUERIES).truth_files(QUERIES)
    return open_image_source(path, QUERIES.labels, truth=truth, max_bad=max_bad)


def test_a_model_is_held_against_true_masks(tmp_path):
    source = open_objects(write_annotations(tmp_path, 30))
    models = LosesOne(QUERIES), [LosesOne(QUERIES, "int8")]
    report = evaluate(*models, QUERIES, source, num_worst=0)[0]
    found = report.measures
    assert found["mask_AP"].reference > 0.8
    assert found["mask_AR1"].reference == pytest.approx(found["mask_AR1"].value + 0.2, abs=0.1)
    drop = found["mask_AP_drop"]
    assert drop.value == pytest.approx(found["mask_AP"].reference - found["mask_AP"].value)
    assert 0.1 < drop.low < drop.value < drop.high < 0.5
    gate = judge_accuracy(report, 0.5)
    assert gate.outcome == "fail"
    assert gate.sentence.startswith("Mask AP lost: ")
    assert "mIoU" not in found  # what lies between the objects is not known


def test_damaged_annotations_count_as_bad_images(tmp_path):
    path = write_annotations(tmp_path, 5)
    data = json.loads(path.read_text())
    data["annotations"][4]["segmentation"] = [[1, 2]]
    path.write_text(json.dumps(data))
    source = open_objects(path, MaxBad())
    report = evaluate(LosesOne(QUERIES), [LosesOne(QUERIES)], QUERIES, source)[0]
    assert report.num_images == 4
    assert (
        "left out: 2.png: segmentation of annotation 4: got a polygon [1.0, 2.0]" in report.notes[0]
    )
    del data["annotations"][4]["segmentation"]
    path.write_text(json.dumps({**data, "annotations": data["annotations"]}))
    with pytest.raises(SpecError, match="expected objects with masks: it has no 'segmentation'"):
        open_objects(path)


def test_objects_are_no_segments_of_every_pixel(tmp_path):
    spec = replace(QUERIES, task="panoptic_segmentation")
    path = write_annotations(tmp_path, 1)
    truth = task_of(spec).truth_files(spec)
    with pytest.raises(SpecError, match="0: got objects with masks, expected panoptic segments"):
        open_image_source(path, spec.labels, truth=truth)


PYCOCOTOOLS = [
    *(0.10698509411380698, 0.3685368536853685, 0.020839226779820835, 0.10926854773389426),
    *(0.15148514851485145, -1, 0.1451190476190476, 0.21773809523809523, 0.21773809523809523),
    *(0.21101851851851847, 0.15, -1),
]
"""COCO's twelve numbers for `scenes` by pycocotools 2.0.11, iouType segm."""
