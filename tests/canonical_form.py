"""What every graph in canonical form has, as one assertion."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper

from edge_vit.graph.sites import find_blocks

ROLES = ("qkv", "proj", "fc1", "fc2")

BLOCK = Counter(
    {
        "LayerNormalization": 2,
        "MatMul": 6,  # the four sites, scores and context
        "Add": 7,  # four biases, two residuals, one in GELU
        "Split": 1,
        "Reshape": 4,
        "Transpose": 4,
        "Softmax": 1,
        "Div": 1,  # this one and those below: GELU
        "Erf": 1,
        "Mul": 2,
    }
)
"""The operators of a pre-norm block with biases and GELU, and no others."""

EMBEDDING = {"Cast", "Sub", "Mul", "Transpose", "Conv", "Reshape", "Add", "Concat"} | {
    "Shape",  # of the class token, to be repeated for every image
    "Expand",
}
"""The operators in front of the first block, and no others."""


def assert_canonical(
    model: onnx.ModelProto,
    *,
    depth: int,
    image_size: tuple[int, int],
    output: str = "logits",
    batch: int | str = "batch",
    more: Mapping[str, int] | None = None,
) -> None:
    """Fail unless `model` keeps the graph contract and its blocks have the canonical form.

    Args:
        model: the graph.
        depth: number of blocks.
        image_size: (height, width).
        output: name of the output.
        batch: the batch dimension.
        more: operators of a block beside those of `BLOCK`; negative where there are fewer.
    """
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 19)]
    assert model.ir_version == 10
    (image,), (result,) = model.graph.input, model.graph.output
    assert _describe(image) == ("images", TensorProto.UINT8, [batch, *image_size, 3])
    name, dtype, shape = _describe(result)
    assert (name, dtype, shape[0], len(shape)) == (output, TensorProto.FLOAT, batch, 2)
    _assert_blocks(model, depth, more or {})
    _assert_no_shape_arithmetic(model)


def _describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [d.dim_value or d.dim_param for d in tensor.shape.dim]


def _assert_blocks(model: onnx.ModelProto, depth: int, more: Mapping[str, int]) -> None:
    blocks = find_blocks(ir.from_proto(model).graph)
    wanted = [[f"block{index}/{role}" for role in ROLES] for index in range(depth)]
    assert [[site.name for site in block.sites] for block in blocks] == wanted
    for site in (site for block in blocks for site in block.sites):
        assert site.linear.matmul.name == site.name
        if site.linear.add is not None:
            assert site.linear.add.name == f"{site.name}/bias"
            biases = [v for v in site.linear.add.inputs if v.const_value is not None]
            assert [tuple(bias.shape) for bias in biases] == [(1, 1, site.linear.weight.shape[1])]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert not [name for name in names if not re.match(r"(embed|block\d+|head)/", name)]
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for node in model.graph.node:
        found[node.name.partition("/")[0]][node.op_type] += 1
    block = Counter(BLOCK)
    block.update(more)
    for index in range(depth):
        assert found[f"block{index}"] == +block, f"block{index} has {found[f'block{index}']}"
    assert set(found) - {"embed", "head"} == {f"block{index}" for index in range(depth)}


def _assert_no_shape_arithmetic(model: onnx.ModelProto) -> None:
    """Shapes are constants, but for the batch of a token that is repeated for every image."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = defaultdict(list)
    for node in model.graph.node:
        for value in node.input:
            readers[value].append(node)
    embedding = {n.op_type for n in model.graph.node if n.name.startswith("embed/")}
    assert embedding <= EMBEDDING, embedding - EMBEDDING
    for node in model.graph.node:
        if node.op_type == "Reshape":
            assert (numpy_helper.to_array(weights[node.input[1]]) < 0).sum() <= 1
        if node.op_type == "Shape":
            assert node.name.startswith("embed/")
            assert {attribute.name: attribute.i for attribute in node.attribute} == {
                "start": 0,
                "end": 1,
            }
            (concat,) = readers[node.output[0]]
            assert [reader.op_type for reader in readers[concat.output[0]]] == ["Expand"]
