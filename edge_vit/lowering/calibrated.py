"""The form of the reference graph that a table was calibrated in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.graph.channels import find_channel_source
from edge_vit.graph.constant import add_constant, new_node, replace_input
from edge_vit.graph.sites import find_blocks
from edge_vit.graph.walk import array_of
from edge_vit.lowering.rotation import rotate_as
from edge_vit.spec.table import CalibrationTable


def as_calibrated(table: CalibrationTable, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` in the form that `table` was calibrated in: rotated, scaled, or as it is."""
    rotated = rotate_as(table, model)
    return scale_hidden(rotated) if table.recipe.scales_hidden else rotated


def scale_hidden(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` that multiplies the input of each fc2 by 1, channel by channel.

    That is where smoothing can put a factor that nothing else can take, since GELU is in front. A
    layer whose input can be scaled already, such as that of a gated MLP, is left as it is.
    """
    copy = ir.from_proto(model)
    for block in find_blocks(copy.graph):
        for site in block.sites:
            matmul, value = site.linear.matmul, site.linear.input
            weight = matmul.inputs[1]
            assert weight is not None
            width = array_of(weight).shape[0]
            if site.role != "fc2" or find_channel_source(value, width) is not None:
                continue
            name = f"{site.name}/scaled"
            ones = add_constant(copy.graph, f"{name}.1", np.ones(width, np.float32))
            node = new_node("Mul", name, [value, ones])
            output = node.outputs[0]
            output.type, output.shape = value.type, value.shape
            copy.graph.insert_before(matmul, node)
            replace_input(matmul, 0, output)
    return ir.to_proto(copy)
