"""Masks and segments are those that transformers' post-processing gives."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input
from edge_vit.tasks import task_named
from edge_vit.tasks.segmentation.decoding import (
    NOTHING,
    instances,
    painted,
    panoptic,
    semantic_map,
)

INPUT = (384, 384)  # Mask2Former's post-processing knows this one alone
SIZES = [(384, 384), (300, 500)]
EOMT_SIZE = {"shortest_edge": 384, "longest_edge": 384}
CLASSES, QUERIES = 5, 8


def spec_of(task="segmentation", outputs=None, **more):
    outputs = outputs or (TensorSpec("logits", "float32", ("batch", CLASSES, 24, 24)),)
    preprocess = PreprocessSpec(INPUT, crop_pct=1.0, crop_mode="squash")
    return ModelSpec(
        *("masks", "test:masks", task, tuple(f"thing {index}" for index in range(CLASSES))),
        *((image_input(INPUT),), outputs, preprocess),
        **more,
    )


def spec_of_queries(task, *, columns=CLASSES + 1, **more):
    outputs = (
        TensorSpec("class_logits", "float32", ("batch", QUERIES, columns)),
        TensorSpec("mask_logits", "float32", ("batch", QUERIES, 24, 24)),
    )
    return spec_of(task, outputs, **more)


@pytest.fixture(scope="module")
def logits():
    """Smooth values on a grid, whose classes lie in patches."""
    return smooth(CLASSES, seed=0)


def smooth(count, seed, side=24):
    coarse = np.random.default_rng(seed).normal(size=(count, 5, 5)).astype(np.float32)
    at = np.linspace(0, 3.999, side)
    low, rest = at.astype(int), (at % 1)[:, None]
    rows = coarse[:, low] * (1 - rest) + coarse[:, low + 1] * rest
    rest = rest[:, 0]
    found = rows[:, :, low] * (1 - rest) + rows[:, :, low + 1] * rest
    return (4 * found).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    """Class logits and masks of queries, of which most are sure and two show nothing."""
    random = np.random.default_rng(1)
    classes = random.normal(size=(QUERIES, CLASSES + 1)).astype(np.float32)
    classes[np.arange(QUERIES), random.integers(0, CLASSES, QUERIES)] += 6
    classes[:2, -1] += 12
    return {"class_logits": classes, "mask_logits": 3 * smooth(QUERIES, seed=2)}


@pytest.fixture(scope="module")
def regions(queries):
    """The same queries, whose masks hardly overlap."""
    masks = smooth(QUERIES, seed=5)
    others = [np.delete(masks, query, axis=0).max(axis=0) for query in range(QUERIES)]
    return {**queries, "mask_logits": 4 * (masks - np.stack(others))}


def as_transformers(outputs):
    import torch

    return SimpleNamespace(
        class_queries_logits=torch.from_numpy(outputs["class_logits"])[None],
        masks_queries_logits=torch.from_numpy(outputs["mask_logits"])[None],
        patch_offsets=None,
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_class_of_each_pixel_is_segformers(logits, size):
    import torch
    from transformers import SegformerImageProcessor

    outputs = SimpleNamespace(logits=torch.from_numpy(logits)[None])
    wanted = SegformerImageProcessor().post_process_semantic_segmentation(outputs, [size])[0]
    spec = spec_of()
    found = semantic_map(spec, {"logits": logits}, size, spec.preprocess)
    assert found.shape == size
    assert np.mean(found == wanted.numpy()) > 0.9999


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("processor", "share"),
    [("Mask2Former", 0.9999), ("MaskFormer", 0.96), ("Eomt", 0.9999)],
)
def test_a_class_of_each_pixel_of_queries(queries, size, processor, share):
    """MaskFormer's resizes probabilities once, from the grid: at borders others win."""
    import transformers

    maker = getattr(transformers, f"{processor}ImageProcessor")
    more = {"size": EOMT_SIZE} if processor == "Eomt" else {}
    post = maker().post_process_semantic_segmentation
    wanted = post(as_transformers(queries), target_sizes=[size], **more)[0].numpy()
    spec = spec_of_queries("segmentation")
    found = semantic_map(spec, queries, size, spec.preprocess)
    assert np.mean(found == wanted) > share


@pytest.mark.parametrize(
    ("processor", "size", "more"),
    [
        ("Mask2Former", SIZES[0], {}),
        ("Mask2Former", SIZES[1], {}),
        ("Eomt", (500, 500), {"size": EOMT_SIZE}),
    ],
)
def test_objects_are_transformers(queries, processor, size, more):
    """Mask2Former's brings masks of the input to the image by the nearest pixel."""
    import transformers

    post = getattr(transformers, f"{processor}ImageProcessor")().post_process_instance_segmentation
    wanted = post(as_transformers(queries), target_sizes=[size], threshold=0.5, **more)[0]
    spec = spec_of_queries("instance_segmentation", threshold=0.5)
    found = instances(spec, queries, size, spec.preprocess)
    assert len(found) >= 3
    theirs = sorted(wanted["segments_info"], key=lambda each: -each["score"])
    assert [each.index for each in found] == [each["label_id"] for each in theirs]
    assert np.allclose([s.score for s in found], [s["score"] for s in theirs], atol=5e-3)


@pytest.mark.parametrize("size", SIZES)
def test_objects_of_rf_detr(size):
    import torch
    from transformers import RfDetrImageProcessor

    random = np.random.default_rng(3)
    outputs = {
        "class_logits": random.normal(-1, 2, (QUERIES, CLASSES)).astype(np.float32),
        "mask_logits": smooth(QUERIES, seed=4),
    }
    given = SimpleNamespace(
        logits=torch.from_numpy(outputs["class_logits"])[None],
        pred_masks=torch.from_numpy(outputs["mask_logits"])[None],
    )
    post = RfDetrImageProcessor().post_process_instance_segmentation
    (wanted,) = post(given, threshold=0.5, target_sizes=[size], return_binary_maps=True)
    spec = spec_of_queries(
        "instance_segmentation", columns=CLASSES, threshold=0.5, activation="sigmoid"
    )
    found = instances(spec, outputs, size, spec.preprocess)
    assert len(found) >= 3
    assert [each.index for each in found] == [s["label_id"] for s in wanted["segments_info"]]
    for each, mask in zip(found, wanted["segmentation"].numpy(), strict=True):
        assert np.mean(each.mask == mask) > 0.99


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("processor", "share"), [("Mask2Former", 0.999), ("MaskFormer", 0.985)])
def test_regions_and_objects_are_transformers(regions, size, processor, share):
    """Theirs weighs masks by their scores before they count what is left of each."""
    import transformers

    post = getattr(transformers, f"{processor}ImageProcessor")().post_process_panoptic_segmentation
    given = as_transformers(regions)
    wanted = post(given, target_sizes=[size], threshold=0.5, label_ids_to_fuse=set())[0]
    spec = spec_of_queries("panoptic_segmentation", threshold=0.5)
    found = list(panoptic(spec, regions, size, spec.preprocess))
    assert len(found) >= 2
    assert {s.index for s in found} >= {s["label_id"] for s in wanted["segments_info"]}
    by_id = {s["id"]: s["label_id"] for s in wanted["segments_info"]}
    theirs = np.vectorize(lambda number: by_id.get(number, NOTHING))(wanted["segmentation"].numpy())
    ours = painted(found, size)
    both = (ours != NOTHING) & (theirs != NOTHING)
    assert both.mean() > 0.3
    assert np.mean(ours[both] == theirs[both]) > share


def test_what_a_crop_left_out_is_nothing(logits):
    from dataclasses import replace

    spec = spec_of()
    cropped = replace(spec.preprocess, crop_mode="center")
    found = semantic_map(spec, {"logits": logits}, (200, 400), cropped)
    assert (found[:, :99] == NOTHING).all()
    assert (found[:, 101:299] != NOTHING).all()


def test_of_no_query_above_the_threshold_nothing_is_left(queries):
    spec = spec_of_queries("panoptic_segmentation", threshold=0.9999)
    assert list(panoptic(spec, queries, (40, 40), spec.preprocess)) == []
    task = task_named("panoptic_segmentation")
    outputs = {name: rows[None] for name, rows in queries.items()}
    (prediction,) = task.decode(spec, outputs, sizes=[(40, 40)])
    assert prediction.headline == "no segment"
    assert prediction.to_json()["predictions"] == []
