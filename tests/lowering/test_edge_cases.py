"""Models and images at the edge of what calibration can tell: all the way, and still right."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import rtx
from onnx import numpy_helper
from seeded import SITES, Seeded, random_images, run_onnx, seeded_vit

from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import HalfEmulator, choose_fp32_nodes, observe_amax
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import DEFAULT_RECIPE, MIN_SCALE, RECIPES

pytestmark = pytest.mark.uncounted

IMAGES = random_images(8)
GRAY = (
    np.full((8, 32, 32, 3), 1, np.uint8)
    * np.arange(20, 220, 25, dtype=np.uint8)[:, None, None, None]
)


def changed(vit: Seeded, **changes) -> Seeded:
    """Return `vit` with constants changed: a function of the array by name, dots as __."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    left = {name.replace("__", "/").replace("_dot_", "."): f for name, f in changes.items()}
    for tensor in model.graph.initializer:
        if tensor.name in left:
            array = left.pop(tensor.name)(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert not left, "the graph has no such constants"
    return dataclasses.replace(vit, model=model)


def set_to(value: float, where):
    def change(array: np.ndarray) -> np.ndarray:
        array[where] = value
        return array

    return change


EVEN = np.s_[..., ::2]


def constant_channels(vit: Seeded) -> Seeded:
    """Half of the channels that reach fc1 are 3 for every token of every image."""
    return changed(
        vit,
        block0__LayerNormalization_2_dot_1=set_to(0, EVEN),
        block0__LayerNormalization_2_dot_2=set_to(3, EVEN),
    )


def dead_channels(vit: Seeded) -> Seeded:
    """Half of the channels that reach qkv are 0, and so are half of the columns of fc1."""
    return changed(
        vit,
        block1__LayerNormalization_dot_1=set_to(0, EVEN),
        block1__LayerNormalization_dot_2=set_to(0, EVEN),
        block0__fc1_dot_1=set_to(0, EVEN),
    )


def all_zero_activations(vit: Seeded) -> Seeded:
    """The values of block 0 are 0: so is all that reaches its proj."""
    return changed(
        vit,
        block0__qkv_dot_1=set_to(0, np.s_[:, 64:]),
        block0__qkv__bias_dot_1=set_to(0, np.s_[..., 64:]),
    )


def all_zero_weights(vit: Seeded) -> Seeded:
    """A layer that a LayerScale of 0 has switched off."""
    return changed(
        vit,
        block1__fc2_dot_1=set_to(0, np.s_[:]),
        block1__fc2__bias_dot_1=set_to(0, np.s_[:]),
    )


CASES = {
    "constant channels": (constant_channels, IMAGES),
    "dead channels": (dead_channels, IMAGES),
    "all-zero activations": (all_zero_activations, IMAGES),
    "all-zero weights": (all_zero_weights, IMAGES),
    "one image": (lambda vit: vit, IMAGES[:1]),
    "gray images": (lambda vit: vit, GRAY),
    "one gray image": (lambda vit: vit, GRAY[3:4]),
    "one image many times": (lambda vit: vit, np.repeat(IMAGES[:1], 5, axis=0)),
    "black images": (lambda vit: vit, GRAY[:2] * 0),
    "only one image fits": (lambda vit: seeded_vit(1), IMAGES),
}


@pytest.fixture(params=CASES.values(), ids=CASES, scope="module")
def case(request, vit):
    build, images = request.param
    return build(vit), images


def run_each(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return np.concatenate([run_onnx(model, image[None]) for image in images])


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


@pytest.mark.parametrize("recipe", ["fast", DEFAULT_RECIPE.name])
def test_goes_all_the_way(case, recipe):
    vit, images = case
    table = vit.calibrate(images, RECIPES[recipe])
    scales = [x for s in table.sites.values() for x in (s.activation_scale, *s.weight_scales)]
    assert min(scales) >= MIN_SCALE
    exact = run_each(vit.model, images)
    portable = write_qdq(vit.model, table)
    outputs = run_each(portable, images)
    assert np.isfinite(outputs).all()
    assert cosine(outputs, exact) > 0.99
    own = run_each(write_ort_x64(portable), images)
    np.testing.assert_allclose(own, outputs, atol=0.02 * np.abs(exact).max())
    half = write_half(
        portable, choose_fp32_nodes(vit.model, observe_amax(vit.model, vit.spec, images))
    )
    onnx.checker.check_model(half, full_check=True)
    outputs, overflowed = HalfEmulator(half).run({"images": images[:1]})
    output = next(iter(outputs.values()))
    assert not overflowed
    assert cosine(output, exact[:1]) > 0.99


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("recipe", ["fast", DEFAULT_RECIPE.name])
def test_very_few_images_are_enough_for_images_of_their_kind(vit, recipe, count):
    table = vit.calibrate(random_images(count, seed=10), RECIPES[recipe])
    unseen = random_images(24, seed=4)
    exact = run_onnx(vit.model, unseen)
    noise = run_onnx(write_qdq(vit.model, table), unseen) - exact
    assert np.square(exact).sum() > 10**2.6 * np.square(noise).sum()  # 26 dB; unwidened 10 to 27


def test_one_image_judges_no_step(vit):
    table = vit.calibrate(np.repeat(IMAGES[:1], 5, axis=0), DEFAULT_RECIPE)
    assert {step for site in table.sites.values() for step in site.steps} <= {
        "smoothing 0.5",
        "zero point",
        "compensated",
    }


@pytest.mark.skipif(not rtx.HAS_RTX, reason="tensorrt_rtx is for x86-64 Linux alone")
@pytest.mark.parametrize(
    "build", [dead_channels, all_zero_activations, all_zero_weights], ids=lambda f: f.__name__
)
def test_the_builder_takes_it(vit, build):
    edge = build(vit)
    table = edge.calibrate(IMAGES, dataclasses.replace(DEFAULT_RECIPE, min_worth=0.0))
    half = write_half(write_qdq(edge.model, table, is_symmetric=True))
    quantized = {name for name, scales in table.sites.items() if scales.is_quantized}
    assert quantized == set(SITES) - {"block1/proj", "block1/fc1", "block1/fc2"}
    assert rtx.build(half).int8_layers(SITES) == quantized
