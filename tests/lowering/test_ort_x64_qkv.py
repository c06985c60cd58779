"""Which attentions take the INT8 products of their queries, keys and values inside."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_vit.lowering.ort_x64 import DOMAIN, MAX_TOKENS, fuse_qkv

TOKENS, INNER, HEADS = 6, 12, 2


def attention(
    *,
    tokens: int | str = TOKENS,
    widths: tuple[int, int, int] = (8, 8, 8),
    scale: float = 1.0,
    num_levels: int = 1,
    is_read_twice: bool = False,
) -> onnx.ModelProto:
    """Return float32 (2, tokens, 12) -> uint8 -> three products -> attention -> ReLU.

    Args:
        tokens: a number, or a name where it is not known.
        widths: of queries, keys and values.
        scale: of the scores.
        num_levels: how many quantized copies of the input the products read.
        is_read_twice: whether the queries are an output as well.
    """
    rng, constants, nodes = np.random.default_rng(0), {}, []
    constants["step"] = np.float32(0.04)
    for index in range(num_levels):
        constants[f"zero{index}"] = np.uint8(120 + index)
        nodes.append(
            helper.make_node("QuantizeLinear", ["x", "step", f"zero{index}"], [f"levels{index}"])
        )
    for index, width in enumerate(widths):
        level = index % num_levels
        constants |= {
            f"{index}w": rng.integers(-127, 128, (INNER, width)).astype(np.int8),
            f"{index}s": rng.uniform(0.002, 0.02, width).astype(np.float32),
            f"{index}z": np.zeros(width, np.int8),
            f"{index}b": rng.standard_normal(width).astype(np.float32),
        }
        inputs = [f"levels{level}", f"{index}w", "step", f"{index}s", f"zero{level}"]
        inputs += [f"{index}z", f"{index}b"]
        nodes.append(
            helper.make_node(
                "MatMulIntegerToFloat", inputs, [f"p{index}"], f"qkv/{index}", domain=DOMAIN
            )
        )
    nodes.append(
        helper.make_node(
            "MultiHeadAttention",
            ["p0", "p1", "p2"],
            ["context"],
            domain=DOMAIN,
            num_heads=HEADS,
            scale=scale,
        )
    )
    nodes.append(helper.make_node("Relu", ["context"], ["y"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, tokens, widths[2]])]
    if is_read_twice:
        outputs.append(helper.make_tensor_value_info("p0", TensorProto.FLOAT, [2, tokens, 8]))
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, tokens, INNER])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = ir.from_proto(model)
    fuse_qkv(changed.graph)
    passes.RemoveUnusedNodesPass()(changed)
    return ir.to_proto(changed)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, TOKENS, INNER)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_is_one_operator_of_the_same_function(scale):
    before = attention(scale=scale)
    after = fused(before)
    assert operators(after) == {"QuantizeLinear": 1, "QAttention": 1, "Relu": 1}
    np.testing.assert_allclose(run(after), run(before), atol=2e-6)
    assert not np.allclose(run(attention(scale=2 * scale)), run(before), atol=1e-2)


@pytest.mark.parametrize(
    "odd",
    [
        {"widths": (8, 8, 4)},
        {"tokens": "tokens"},
        {"tokens": MAX_TOKENS + 1},
        {"num_levels": 2},
        {"is_read_twice": True},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_leaves_what_the_operator_cannot_do_or_does_slower(odd):
    model = attention(**odd)
    assert operators(fused(model)) == operators(model)


@pytest.mark.parametrize(("tokens", "is_fused"), [(MAX_TOKENS // 2, 1), (MAX_TOKENS // 2 + 1, 0)])
def test_counts_the_tokens_of_the_whole_batch_of_two(tokens, is_fused):
    assert operators(fused(attention(tokens=tokens)))["QAttention"] == is_fused


def test_leaves_a_float_product_alone():
    model = attention()
    (product,) = [node for node in model.graph.node if node.name == "qkv/1"]
    product.op_type = "Other"
    assert operators(fused(model)) == operators(model)
