"""FP16 between two casts: strongly typed, the same interface, the same answers."""

from __future__ import annotations

import collections
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from seeded import SITES, Seeded, random_images, run_onnx

from edge_vit.errors import SpecError
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.qdq import write_qdq

FLOAT, HALF, INT8, INT64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.INT64,
)
PREPROCESSING = ("embed/Cast", "embed/Sub", "embed/Mul", "embed/Transpose")


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every value, inferred anew by onnx, and of every constant."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {t.name: t.data_type for t in inferred.initializer}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / norms


@pytest.fixture(scope="session")
def int8(vit, table) -> onnx.ModelProto:
    return write_qdq(vit.model, table)


@pytest.fixture(params=["fp16", "int8"])
def half(request, vit, int8) -> onnx.ModelProto:
    return write_half(vit.model if request.param == "fp16" else int8)


def test_everything_between_the_casts_is_float16(half):
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    expected_floats = {"logits"}  # float32 from here on, and up to there
    for n in half.graph.node:
        if n.name in PREPROCESSING:
            expected_floats |= {*n.output, *n.input} - {"images"}
    produced = {name for n in half.graph.node for name in (*n.input, *n.output) if name}
    assert set(types) >= produced
    assert {name for name in produced if types[name] == FLOAT} == expected_floats
    assert {types[name] for name in produced} <= {FLOAT, HALF, INT8, INT64, TensorProto.UINT8}


def test_one_cast_in_and_one_cast_out(vit, half):
    def casts(model):
        return {
            n.name: next(a.i for a in n.attribute if a.name == "to")
            for n in model.graph.node
            if n.op_type == "Cast"
        }

    assert casts(half) == {
        **casts(vit.model),
        "embed/to_half": HALF,
        "head/to_float": FLOAT,
    }


def test_declared_types_are_the_inferred_ones(half):
    types = types_of(half)
    declared = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    assert declared
    assert declared == {name: types[name] for name in declared}


def test_interface_is_unchanged(vit, half):
    assert list(half.graph.input) == list(vit.model.graph.input)
    assert list(half.graph.output) == list(vit.model.graph.output)
    assert half.opset_import == vit.model.opset_import
    assert half.ir_version == vit.model.ir_version


def test_nodes_are_the_same_but_for_the_casts(vit, int8):
    for model in (vit.model, int8):
        nodes = [(n.name, n.op_type) for n in write_half(model).graph.node]
        kept = [n for n in nodes if n[0] not in ("embed/to_half", "head/to_float")]
        assert kept == [(n.name, n.op_type) for n in model.graph.node]


def test_layer_norm_stays_one_operator(vit, half):
    before, after = (
        collections.Counter(n.op_type for n in m.graph.node) for m in (vit.model, half)
    )
    assert before["LayerNormalization"] == after["LayerNormalization"] == 2 * 2 + 1
    types = types_of(half)
    for n in half.graph.node:
        if n.op_type == "LayerNormalization":
            assert {types[name] for name in n.input} == {HALF}
            assert not [a for a in n.attribute if a.name == "stash_type" and a.i != FLOAT]


def test_qdq_is_int8_with_the_very_same_scales(int8):
    half = write_half(int8)
    types, numbers, before = types_of(half), constants(half), constants(int8)
    quantizers = [n for n in half.graph.node if n.op_type == "QuantizeLinear"]
    dequantizers = [n for n in half.graph.node if n.op_type == "DequantizeLinear"]
    assert (len(quantizers), len(dequantizers)) == (len(SITES), 2 * len(SITES))
    for n in quantizers:
        assert [types[name] for name in (*n.input, *n.output)] == [HALF, HALF, INT8, INT8]
    for n in dequantizers:
        assert [types[name] for name in (*n.input, *n.output)] == [INT8, HALF, INT8, HALF]
    original = {n.name: n for n in int8.graph.node}
    for n in (*quantizers, *dequantizers):
        scale, zero = numbers[n.input[1]], numbers[n.input[2]]
        assert np.array_equal(scale.astype(np.float32), before[original[n.name].input[1]])
        assert not zero.any()
        if n.input[0] in before:
            assert np.array_equal(numbers[n.input[0]], before[n.input[0]])


def test_nothing_is_left_that_nobody_reads(half):
    read = {name for n in half.graph.node for name in n.input}
    assert {t.name for t in half.graph.initializer} <= read


def test_weights_take_half_the_space(vit):
    def num_bytes(model):
        return sum(value.nbytes for value in constants(model).values() if value.size > 64)

    assert num_bytes(write_half(vit.model)) == pytest.approx(num_bytes(vit.model) / 2, rel=0.01)


def test_answers_are_those_of_fp32(either_vit):
    images = random_images(either_vit.spec.static_batch or 24, seed=5)
    reference = run_onnx(either_vit.model, images)
    output = run_onnx(write_half(either_vit.model), images)
    assert cosines(reference, output).min() > 0.9999
    assert cosines(reference, np.roll(output, 1, axis=0)).max() < 0.999  # images do differ


def test_int8_answers_are_those_of_the_portable_graph(int8):
    images = random_images(24, seed=5)
    assert cosines(run_onnx(int8, images), run_onnx(write_half(int8), images)).min() > 0.995


def test_leaves_the_model_as_it_was(int8):
    before = int8.SerializeToString()
    write_half(int8)
    assert int8.SerializeToString() == before


def with_constant(model: onnx.ModelProto, name: str, index: int, value: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (tensor,) = [t for t in changed.graph.initializer if t.name == name]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[index] = value
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return changed


TOO_LARGE = {
    "above": (70_000.0, "7e+04"),
    "below": (-70_000.0, "7e+04"),
    "infinite": (np.inf, "inf"),
    "just rounds to infinity": (65_520.0, "6.55e+04"),
}


@pytest.mark.parametrize(("value", "shown"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_refuses_a_weight_that_float16_cannot_hold(vit, value, shown):
    broken = with_constant(vit.model, "block1/fc1.1", 5, value)
    message = f"block1/fc1.1 holds {shown}, float16 ends at 65504: this model cannot run in FP16"
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        write_half(broken)


def test_the_largest_float16_is_allowed(vit):
    half = write_half(with_constant(vit.model, "block1/fc1.1", 5, -65_504.0))
    assert constants(half)["block1/fc1.1/half"].min() == -65_504


def rewire(vit: Seeded, nodes: list[onnx.NodeProto], numbers: dict[str, object]) -> onnx.ModelProto:
    """Return the graph with other nodes between ``images`` and the patch embedding."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    rest = [n for n in model.graph.node if n.name not in PREPROCESSING]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()
    )
    del model.graph.value_info[:]
    return model


def make(op_type: str, *names: str, **attributes) -> onnx.NodeProto:
    *inputs, output = names
    return onnx.helper.make_node(op_type, inputs, [output], name=f"pre/{output}", **attributes)


def test_inner_casts_to_float_become_casts_to_float16(vit):
    """Libraries that run their softmax in float32 leave such a cast behind."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    (softmax,) = [n for n in model.graph.node if n.name == "block0/softmax"]
    cast = onnx.helper.make_node("Cast", [softmax.input[0]], ["wide"], name="wide", to=FLOAT)
    softmax.input[0] = "wide"
    model.graph.node.insert([n.name for n in model.graph.node].index("block0/softmax"), cast)
    half = write_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert types_of(half)["wide"] == HALF


NORMALISED = "embed/Transpose:0"
MEAN, STD = np.float32([123, 116, 103]), np.float32([58, 57, 57])
CONTRACTS = {
    "cast, transpose, divide, subtract": (
        [
            make("Cast", "images", "a", to=FLOAT),
            make("Transpose", "a", "b", perm=(0, 3, 1, 2)),
            make("Sub", "b", "mean", "c"),
            make("Div", "c", "std", NORMALISED),
        ],
        {"mean": MEAN.reshape(3, 1, 1), "std": STD.reshape(3, 1, 1)},
    ),
    "transposed while still integers": (
        [
            make("Transpose", "images", "a", perm=(0, 3, 1, 2)),
            make("Cast", "a", "b", to=FLOAT),
            make("Div", "b", "white", "c"),
            make("Sub", "c", "mean", NORMALISED),
        ],
        {"white": np.float32(255), "mean": np.float32(0.5)},
    ),
    "constant before the pixels": (
        [
            make("Cast", "images", "a", to=FLOAT),
            make("Mul", "factor", "a", "b"),
            make("Add", "shift", "b", "c"),
            make("Transpose", "c", NORMALISED, perm=(0, 3, 1, 2)),
        ],
        {"factor": 1 / STD, "shift": -MEAN / STD},
    ),
    "blue first": (
        [
            make("Cast", "images", "a", to=FLOAT),
            make("Sub", "a", "mean", "b"),
            make("Mul", "b", "factor", "c"),
            make("Gather", "c", "bgr", "d", axis=3),
            make("Transpose", "d", NORMALISED, perm=(0, 3, 1, 2)),
        ],
        {"mean": MEAN, "factor": 1 / STD, "bgr": np.array([2, 1, 0])},
    ),
    "a cast and nothing else": (
        [
            make("Cast", "images", "a", to=FLOAT),
            make("Transpose", "a", NORMALISED, perm=(0, 3, 1, 2)),
        ],
        {},
    ),
}


@pytest.mark.parametrize(("nodes", "numbers"), CONTRACTS.values(), ids=CONTRACTS)
def test_follows_other_preprocessing(vit, nodes, numbers):
    model = rewire(vit, nodes, numbers)
    half = write_half(model)
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    (cast,) = [n for n in half.graph.node if n.name == "embed/to_half"]
    assert (types[cast.input[0]], types[cast.output[0]]) == (FLOAT, HALF)
    blocks = [n.output[0] for n in half.graph.node if n.name.startswith("block")]
    assert {types[name] for name in blocks} == {HALF}
    images = random_images(6)
    assert cosines(run_onnx(model, images), run_onnx(half, images)).min() > 0.9999


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min], ids=["-inf", "lowest"])
def test_a_mask_goes_as_low_as_float16_can(hidden):
    mask = numpy_helper.from_array(np.array([0.0, hidden], np.float32), "mask")
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Relu", ["pixels"], ["scores"]),
        onnx.helper.make_node("Add", ["scores", "mask"], ["masked"]),
        onnx.helper.make_node("Softmax", ["masked"], ["logits"]),
    ]
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", 2])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])
    graph = onnx.helper.make_graph(nodes, "masked", [images], [logits], [mask])
    opset = [onnx.helper.make_opsetid("", 19)]
    half = write_half(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))
    assert run_onnx(half, np.array([[7, 200]], np.uint8)).tolist() == [[1.0, 0.0]]
