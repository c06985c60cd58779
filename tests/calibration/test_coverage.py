from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from seeded import SITES, random_images

from edge_vit.calibration.coverage import Overshoot, find_overshoots, say_overshoots, say_unlike
from edge_vit.data.perceptual import signature, signature_text

IMAGES = random_images(24)


@pytest.fixture(scope="module")
def wide_table(vit):
    return vit.calibrate(IMAGES)


def test_the_images_of_the_calibration_are_covered(vit, wide_table):
    counted = []
    found = find_overshoots(vit.model, vit.spec, wide_table, IMAGES, advance=counted.append)
    assert found == ()
    assert sum(counted) == 24


def test_images_of_the_same_kind_are_covered(vit, wide_table):
    assert find_overshoots(vit.model, vit.spec, wide_table, random_images(8, seed=5)) == ()


def test_says_how_far_the_others_reach(vit, wide_table):
    sites = {
        name: dataclasses.replace(site, activation_amax=site.activation_amax / (1 + index / 4))
        for index, (name, site) in enumerate(wide_table.sites.items())
    }
    table = dataclasses.replace(wide_table, sites=sites)
    found = find_overshoots(vit.model, vit.spec, table, IMAGES)
    assert {overshoot.site for overshoot in found} == set(SITES[2:])
    for overshoot in found:
        assert overshoot.ratio == pytest.approx(1 + SITES.index(overshoot.site) / 4, rel=1e-4)
        assert 1 <= overshoot.num_images <= 24
    assert [o.ratio for o in found] == sorted((o.ratio for o in found), reverse=True)
    assert found[0].num_images > found[-1].num_images


def test_looks_at_int8_layers_alone(vit, static_vit, wide_table):
    narrow = {
        name: dataclasses.replace(site, activation_amax=site.activation_amax / 10)
        for name, site in wide_table.sites.items()
    }
    narrow["block0/qkv"] = dataclasses.replace(narrow["block0/qkv"], precision="fp16")
    table = dataclasses.replace(wide_table, sites=narrow)
    for seeded in (vit, static_vit):
        found = find_overshoots(seeded.model, seeded.spec, table, IMAGES[:3])
        assert {overshoot.site for overshoot in found} == set(SITES) - {"block0/qkv"}


def test_a_layer_that_saw_nothing_but_zeros(vit, wide_table):
    dead = {**wide_table.sites}
    dead["block1/fc2"] = dataclasses.replace(dead["block1/fc2"], activation_amax=0.0)
    table = dataclasses.replace(wide_table, sites=dead)
    (overshoot,) = find_overshoots(vit.model, vit.spec, table, IMAGES[:2])
    assert overshoot == Overshoot("block1/fc2", np.inf, 2)


def test_the_sentence():
    assert say_overshoots((), 32) == ()
    worst = Overshoot("block3/fc2", 3.1, 5)
    assert say_overshoots((worst,), 32) == (
        "Images leave the calibrated ranges, where INT8 clips: block3/fc2 reaches 3.10 times what "
        "calibration saw, in 5 of 32 images looked at. Run: edgevit calibrate, with images like "
        "these",
    )
    (sentence,) = say_overshoots((worst, worst, worst), 32)
    assert "looked at; so do 2 other layers. Run" in sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: images, ()),
        (lambda images: images * 0.1, ("darker", "lower in contrast", "less colourful")),
        (lambda images: np.clip(images + 120.0, 0, 255), ("brighter",)),
        (lambda images: images.mean(axis=-1, keepdims=True).repeat(3, -1), ("less colourful",)),
        (lambda images: np.where(images > 127, 255, 0), ("higher in contrast", "more colourful")),
    ],
    ids=["same kind", "night", "glare", "infrared", "posterized"],
)
def test_images_that_look_otherwise_are_reported(change, said):
    calibrated = [signature_text(signature(image)) for image in IMAGES]
    others = change(random_images(16, seed=5).astype(np.float64)).astype(np.uint8)
    notes = say_unlike(calibrated, [signature(image) for image in others])
    for word in said:
        assert sum(f"images looked at are {word} than all those" in note for note in notes) == 1
    assert bool(notes) == bool(said)
    assert say_unlike(calibrated[:7], [signature(image) for image in others]) == ()
