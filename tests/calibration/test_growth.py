"""Whether calibration images are enough."""

from __future__ import annotations

import dataclasses

import numpy as np
from seeded import random_images

from edge_vit.calibration.growth import say_growth
from edge_vit.calibration.observer import observe
from edge_vit.data.images import ArraySource


def test_images_that_reach_no_farther_than_the_others_are_enough(vit):
    seen = observe(vit.model, vit.spec, ArraySource(random_images(64)), hold_out=8)
    assert say_growth(seen) == ""


def test_layers_that_held_out_images_reach_beyond_are_counted(vit):
    seen = observe(vit.model, vit.spec, ArraySource(random_images(64)), hold_out=8)
    halves = {
        name: dataclasses.replace(r, low=r.low / 2, high=r.high / 2)
        for name, r in seen.ranges.items()
    }
    said = say_growth(dataclasses.replace(seen, ranges=halves))
    assert said.startswith("8 images held out reach more than 10% beyond")
    assert "in 8 of 8 layers" in said
    some = dict(list(halves.items())[:2])
    assert say_growth(dataclasses.replace(seen, ranges={**seen.ranges, **some})) == ""


def test_an_input_that_is_always_zero_grows_by_nothing(vit):
    seen = observe(vit.model, vit.spec, ArraySource(random_images(8)), hold_out=2)
    zeros = {
        n: dataclasses.replace(r, low=0 * r.low, high=0 * r.high) for n, r in seen.ranges.items()
    }
    assert say_growth(dataclasses.replace(seen, ranges=zeros)) == ""
    assert np.isfinite([stats.amax for stats in seen.stats.values()]).all()
