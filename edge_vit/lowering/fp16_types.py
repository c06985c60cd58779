"""Which operators take float16, by ONNX's own schemas."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from edge_vit.graph.walk import is_constant

_OPSET = 19
_FLOAT, _HALF = "tensor(float)", "tensor(float16)"

_TYPED_BY_ATTRIBUTE = frozenset(
    {"ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"}
    | {"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators whose output type is given by an attribute."""


@dataclass(frozen=True)
class HalfTypes:
    """What of an operator can be float16.

    Attributes:
        inputs: for each input that the schema names, whether it can; the last one may repeat.
        is_alone: for each of them, whether it has its type to itself.
        outputs: for each output, whether it can.
    """

    inputs: tuple[bool, ...]
    is_alone: tuple[bool, ...]
    outputs: tuple[bool, ...]


@functools.cache
def _half_types(op_type: str) -> HalfTypes | None:
    """Return what of `op_type` can be float16; None where no schema knows it."""
    try:
        schema = onnx.defs.get_schema(op_type, _OPSET, "")
    except onnx.defs.SchemaError:
        return None
    formals = (*schema.inputs, *schema.outputs)
    names = [formal.type_str for formal in formals]
    can = [_HALF in formal.types or _FLOAT not in formal.types for formal in formals]
    alone = tuple(names.count(formal.type_str) == 1 for formal in schema.inputs)
    count = len(schema.inputs)
    return HalfTypes(tuple(can[:count]), alone, tuple(can[count:]))


def must_stay_float(node: ir.Node) -> bool:
    """Return whether `node` cannot compute in float16, whatever its numbers are."""
    if node.op_type in _TYPED_BY_ATTRIBUTE:
        return True
    types = None if node.domain else _half_types(node.op_type)
    if types is None:
        return False
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype not in (ir.DataType.FLOAT, None):
            continue
        if not _at(types.inputs, index) and not stays_float(node, index):
            return True
    used = [v.uses() or v.is_graph_output() for v in node.outputs]
    return any(is_used and not _at(types.outputs, i) for i, is_used in enumerate(used))


def stays_float(node: ir.Node, index: int) -> bool:
    """Return whether the constant input `index` is float32 in a float16 operator too.

    So it is with the scales of Resize.
    """
    types = None if node.domain else _half_types(node.op_type)
    value = node.inputs[index]
    if types is None or value is None or not is_constant(value):
        return False
    return not _at(types.inputs, index) and _at(types.is_alone, index)


def _at(flags: tuple[bool, ...], index: int) -> bool:
    return flags[min(index, len(flags) - 1)] if flags else True
