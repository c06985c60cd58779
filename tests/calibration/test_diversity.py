"""Whether calibration images are enough, and different enough."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from seeded import Remembered, random_images

from edge_vit.calibration.diversity import effective_rank, say_diversity
from edge_vit.calibration.observer import observe
from edge_vit.data.images import ArraySource


@pytest.fixture(scope="module")
def diverse(vit):
    source = ArraySource(random_images(64))
    return observe(vit.model, vit.spec, source, hold_out=8, num_shaping=8)


def test_the_effective_rank_counts_directions():
    assert effective_rank(np.ones((5, 3))) == pytest.approx(1)
    assert effective_rank(np.eye(4) * [[1], [2], [3], [4]]) == pytest.approx(4)
    assert effective_rank(np.repeat(np.eye(2), 3, axis=0)) == pytest.approx(2)
    assert effective_rank(np.zeros((3, 2))) == pytest.approx(1)


def test_different_images_are_enough(diverse):
    assert say_diversity(diverse) == ()
    assert len(diverse.features) == 64


def test_copies_of_one_photograph_are_named(vit):
    progress = Remembered()
    vit.calibrate(np.repeat(random_images(1), 8, axis=0), progress=progress)
    (note,) = [note for note in progress.notes if "same" in note]
    assert note.startswith(
        "all 8 calibration images are the same one. Calibrate on images of other"
    )


def test_frames_of_one_scene_are_too_alike(vit):
    (scene,), random = random_images(1), np.random.default_rng(0)
    frames = scene + random.normal(0, 3, (24, *scene.shape))
    progress = Remembered()
    vit.calibrate(frames.clip(0, 255).astype(np.uint8), progress=progress)
    (note,) = [note for note in progress.notes if "alike" in note]
    assert "24 different calibration images are too alike" in note


def test_the_order_of_the_images_makes_no_difference(vit):
    images = random_images(12)
    there, back = (
        observe(vit.model, vit.spec, ArraySource(each)).features for each in (images, images[::-1])
    )
    np.testing.assert_array_equal(there, back)


def test_layers_that_held_out_images_reach_beyond_are_counted(diverse):
    halves = {
        name: dataclasses.replace(r, low=r.low / 2, high=r.high / 2)
        for name, r in diverse.ranges.items()
    }
    (said,) = say_diversity(dataclasses.replace(diverse, ranges=halves))
    assert said.startswith("the last 8 of 64 calibration images widen the ranges of 8 of 8 layers")
    some = dict(list(halves.items())[:2])
    assert say_diversity(dataclasses.replace(diverse, ranges={**diverse.ranges, **some})) == ()


def test_an_input_that_is_always_zero_grows_by_nothing(diverse):
    zeros = {
        n: dataclasses.replace(r, low=0 * r.low, high=0 * r.high) for n, r in diverse.ranges.items()
    }
    assert say_diversity(dataclasses.replace(diverse, ranges=zeros)) == ()
