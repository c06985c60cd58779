"""ViTs that float16 overflows: which nodes stay in float32, and that it then holds."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import pytest
import rtx
from onnx import numpy_helper
from seeded import SITES, Seeded, random_images, run_onnx

from edge_vit.calibration.half import write_half
from edge_vit.calibration.half_ranges import choose_fp32_nodes, emulate_half, observe_amax
from edge_vit.calibration.qdq import write_qdq
from edge_vit.table import RECIPES

IMAGES = random_images(6)


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def edited(vit: Seeded, change) -> Seeded:
    """Return `vit` with `change`, which maps a constant's name and numbers to other numbers."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, array), tensor.name))
    return dataclasses.replace(vit, model=model)


def with_residual(vit: Seeded, size: float) -> Seeded:
    """Two biases lift one channel of the residual stream of block 0 to `size`."""

    def change(name, array):
        if name in ("block0/proj/bias.1", "block0/fc2/bias.1"):
            array = array.copy()
            array[..., 3] = size / 2
        return array

    return edited(vit, change)


def with_logits(vit: Seeded) -> Seeded:
    """Every token of block 1 attends to the class token, whose score is far above 65,504."""

    def change(name, array):
        array = array.copy()
        if name == "embed/Add.1":
            array[0, 0, 5] += 30  # the class token alone is large in channel 5,
        if name == "block1/qkv.1":
            array[5, 32] = 150  # which makes the first key channel of the first head,
        if name == "block1/qkv/bias.1":
            array[..., 0] = 150  # which every query asks for
        return array

    return edited(vit, change)


def test_an_ordinary_model_keeps_no_node_in_float32(vit):
    amax = observe_amax(vit.model, vit.spec, IMAGES)
    assert choose_fp32_nodes(vit.model, amax) == {}
    output, overflowed = emulate_half(write_half(vit.model), {"images": IMAGES})
    assert not overflowed
    assert cosine(output, run_onnx(vit.model, IMAGES)) > 0.9999


def test_amax_is_that_of_the_values(vit):
    amax = observe_amax(vit.model, vit.spec, IMAGES)
    assert amax["logits"] == pytest.approx(np.abs(run_onnx(vit.model, IMAGES)).max(), rel=1e-4)
    assert amax["embed/Cast:0"] == IMAGES.max()
    assert amax["block0/softmax:0"] <= 1


def test_a_residual_stream_of_five_thousand_is_left_in_float16(vit):
    large = with_residual(vit, 5_000.0)
    amax = observe_amax(large.model, large.spec, IMAGES)
    assert amax["block0/Add_3:0"] > 4_990
    assert choose_fp32_nodes(large.model, amax) == {}
    output, overflowed = emulate_half(write_half(large.model), {"images": IMAGES})
    assert not overflowed
    assert cosine(output, run_onnx(large.model, IMAGES)) > 0.999


def residual_of_100_000(vit):
    return with_residual(vit, 100_000.0)


@pytest.mark.parametrize(
    ("build", "overflows"),
    [(residual_of_100_000, "block0/Add_3"), (with_logits, "block1/scores")],
    ids=["residual", "logits"],
)
def test_what_overflows_stays_in_float32_and_nothing_else(vit, build, overflows):
    large = build(vit)
    exact = run_onnx(large.model, IMAGES)
    blanket, overflowed = emulate_half(write_half(large.model), {"images": IMAGES})
    assert overflows in overflowed
    assert not cosine(blanket, exact) > 0.999  # NaN is not above it either

    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    assert overflows in chosen
    assert re.fullmatch(r"reaches \d[\d,]+, float16 ends at 65,504", chosen[overflows])
    half = write_half(large.model, chosen)
    onnx.checker.check_model(half, full_check=True)
    output, overflowed = emulate_half(half, {"images": IMAGES})
    assert not overflowed
    assert cosine(output, exact) > 0.999
    assert len(chosen) < len(large.model.graph.node) / 3


@pytest.mark.parametrize("build", [residual_of_100_000, with_logits], ids=["residual", "logits"])
def test_int8_layers_stay_int8_beside_float32(vit, build):
    large = build(vit)
    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    portable = write_qdq(large.model, large.calibrate(IMAGES, RECIPES["fast"]))
    half = write_half(portable, chosen)
    onnx.checker.check_model(half, full_check=True)
    makers = {name: node for node in half.graph.node for name in node.output}
    for name in SITES:
        (site,) = [n for n in half.graph.node if n.name == name]
        assert [makers[i].op_type for i in site.input] == ["DequantizeLinear"] * 2
    output, overflowed = emulate_half(half, {"images": IMAGES})
    assert not overflowed
    assert cosine(output, run_onnx(portable, IMAGES)) > 0.999


def test_casts_stand_at_the_borders_alone(vit):
    large = with_logits(vit)
    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    half = write_half(large.model, chosen)
    makers = {name: node for node in half.graph.node for name in node.output}
    casts = [n for n in half.graph.node if n.op_type == "Cast"]
    assert len(casts) > 3
    assert not [n for n in casts if n.input[0] in makers and makers[n.input[0]].op_type == "Cast"]


def test_a_constant_that_float16_loses_keeps_its_node(vit):
    tiny = edited(vit, lambda name, array: array * 1e-9 if name == "block0/Mul_2.1" else array)
    chosen = choose_fp32_nodes(tiny.model, observe_amax(tiny.model, tiny.spec, IMAGES))
    assert chosen["block0/Mul_2"].endswith("holds 5e-10, which float16 takes for 0")


def test_rounding_happens_at_every_node(vit):
    """A float16 run that kept float32 between nodes would be closer to float32 than this."""
    exact = run_onnx(vit.model, IMAGES)
    emulated, _ = emulate_half(write_half(vit.model), {"images": IMAGES})
    error = np.abs(emulated - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 1e-2
    assert np.array_equal(emulated, emulated.astype(np.float16).astype(np.float32))


@pytest.mark.skipif(
    not rtx.HAS_RTX, reason="tensorrt_rtx comes with the dev extra on x86-64 Linux alone"
)
@pytest.mark.parametrize("build", [residual_of_100_000, with_logits], ids=["residual", "logits"])
def test_tensorrt_builds_graphs_of_both_types(vit, build):
    large = build(vit)
    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    portable = write_qdq(large.model, large.calibrate(IMAGES, RECIPES["fast"]))
    assert rtx.build(write_half(large.model, chosen)).plan_bytes
    assert rtx.build(write_half(portable, chosen)).int8_layers(SITES) == set(SITES)
