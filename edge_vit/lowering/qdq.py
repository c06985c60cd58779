"""Writes INT8 into the graph: QuantizeLinear and DequantizeLinear around each linear layer.

Activations per tensor, weights per output channel: what TensorRT builds INT8 kernels from, and what
ONNX Runtime and OpenVINO read as well. TensorRT wants both symmetric, so that in its graph a
constant is subtracted from an activation where the others have a zero point.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import ArtifactError
from edge_vit.graph.edit import add_behind, add_constant, new_node, replace_input
from edge_vit.graph.large import Spill, to_proto
from edge_vit.graph.sites import Site, find_sites
from edge_vit.graph.walk import Array
from edge_vit.lowering.dead_tokens import drop_dead_tokens
from edge_vit.lowering.rotation import copy_as_calibrated
from edge_vit.lowering.smoothing import replace_bias, smooth_layers
from edge_vit.spec.table import KEPT_NODES, MIN_SCALE, CalibrationTable, SiteScales

QMAX = 127
"""Largest quantized value; -128 is not used, so that the range is symmetric."""


def round_scale(scale: Array | np.float64) -> npt.NDArray[np.float64]:
    """Return `scale` as float16 can hold it, and at least `MIN_SCALE`.

    Every artifact carries the rounded scale, so that the CPU quantizes as the GPU does.
    """
    return np.maximum(scale, MIN_SCALE).astype(np.float16).astype(np.float64)


def quantize_weight(weight: Array, scales: Array) -> npt.NDArray[np.int8]:
    """Return ``round(weight / scale)``, half to even, in [-127, 127], int8 (K, N)."""
    levels = np.rint(weight.astype(np.float64) / scales)
    return np.clip(levels, -QMAX, QMAX).astype(np.int8)


def write_qdq(
    model: onnx.ModelProto,
    table: CalibrationTable,
    *,
    is_symmetric: bool = False,
    rounds_weights: bool = True,
    spill: Spill | None = None,
) -> onnx.ModelProto:
    """Return a copy of `model` whose linear layers are quantized as `table` says, float32 around.

    With `is_symmetric`, for TensorRT, ``Sub`` stands in place of zero points; the levels are the
    same. Each layer has Q/DQ nodes of its own: ONNX Runtime keeps a product in float32 where
    several share one QuantizeLinear. Without `rounds_weights` the activations alone are quantized.
    The weights of a large graph go to `spill`, where they stay.
    """
    quantized = copy_as_calibrated(table, model)
    sites = {site.name: site for site in find_sites(quantized.graph)}
    _refuse_misfit(sites, table)
    smooth_layers(quantized.graph, table.sites)
    kinds = {scales.is_quantized for scales in table.sites.values()}
    if len(kinds) == 2 and drop_dead_tokens(quantized.graph):
        # What reads one token alone is not quantized: it is not to cost more for that.
        sites = {site.name: site for site in find_sites(quantized.graph)}
    for name, site in sites.items():
        if table.sites[name].is_quantized:
            levels = table.levels.get(name)
            weights = _quantize(quantized.graph, site, table.sites[name], levels, is_symmetric)
            if rounds_weights:
                replace_input(site.linear.matmul, 1, weights)
    passes.RemoveUnusedNodesPass()(quantized)
    return to_proto(quantized, spill)


def _refuse_misfit(sites: Mapping[str, Site], table: CalibrationTable) -> None:
    if table.weights_digest and not table.levels:
        raise ArtifactError(
            "the calibration table comes without its rounded weights. Run: edgevit calibrate"
        )
    widths = {name: site.linear.shape[1] for name, site in sites.items()}
    tables = {name: len(scales.weight_scales) for name, scales in table.sites.items()}
    wrong = sorted(
        name
        for name in widths.keys() | tables.keys()
        if widths.get(name) != tables.get(name)
        or (name in table.levels and table.levels[name].shape != sites[name].linear.shape)
        or max(table.sites[name].kept_channels, default=-1) >= sites[name].linear.shape[0]
    )
    if wrong:
        raise ArtifactError(
            f"the calibration table does not fit the graph: {', '.join(wrong[:3])} "
            f"{'is' if len(wrong) == 1 else 'are'} missing or of another width in one of them. "
            "Run: edgevit calibrate"
        )


def _quantize(
    graph: ir.Graph,
    site: Site,
    scales: SiteScales,
    rounded: npt.NDArray[np.int8] | None,
    is_symmetric: bool,
) -> ir.Value:
    """Quantize the input of `site`, and return its quantized weight."""
    matmul, activation = site.linear.matmul, site.linear.input
    per_channel = np.asarray(scales.weight_scales)
    if rounded is None:
        rounded = quantize_weight(site.linear.weight, per_channel)
    if scales.kept_channels:
        rounded = rounded.copy()
        rounded[list(scales.kept_channels)] = 0
        _keep_channels(graph, site, list(scales.kept_channels))
    zero_level = scales.activation_zero
    if is_symmetric and zero_level:
        centre = float(np.float16(-zero_level * scales.activation_scale))  # as the graph holds it
        constant = add_constant(graph, f"{site.name}/centre.1", np.float32(centre))
        subtract = new_node("Sub", f"{site.name}/centre", [activation, constant])
        graph.insert_before(matmul, subtract)
        activation = subtract.outputs[0]
        undone = centre * (rounded * per_channel).sum(axis=0)
        replace_bias(graph, site.linear, (site.linear.bias + undone).astype(np.float32))
        zero_level = 0

    constants = {
        "input_scale": np.float32(scales.activation_scale),
        "input_zero": np.int8(zero_level),
        "weight": rounded,
        "weight_scale": per_channel.astype(np.float32),
        "weight_zero": np.zeros(len(per_channel), np.int8),
    }
    scale, zero, levels, weight_scale, weight_zero = (
        add_constant(graph, f"{site.name}/{name}", array) for name, array in constants.items()
    )
    inputs = [activation, scale, zero]
    quantize = new_node("QuantizeLinear", f"{site.name}/quantize", inputs)
    inputs = [quantize.outputs[0], scale, zero]
    dequantize = new_node("DequantizeLinear", f"{site.name}/dequantize", inputs)
    inputs = [levels, weight_scale, weight_zero]
    weights = new_node("DequantizeLinear", f"{site.name}/weights", inputs, {"axis": 1})
    graph.insert_before(matmul, [quantize, dequantize, weights])
    matmul.replace_input_with(0, dequantize.outputs[0])
    return weights.outputs[0]


def _keep_channels(graph: ir.Graph, site: Site, channels: list[int]) -> None:
    """Add what `channels` of the input bring, in floating point, to the output of `site`."""
    linear = site.linear
    take, multiply, sum_up = (f"{site.name}/{part}" for part in KEPT_NODES)
    indices = add_constant(graph, f"{site.name}/kept", np.array(channels, np.int64))
    taken = new_node("Gather", take, [linear.input, indices], {"axis": -1})
    weight = add_constant(graph, f"{site.name}/kept_weight", linear.weight[channels])
    rest = linear.weight.copy()
    rest[channels] = 0
    replace_input(linear.matmul, 1, add_constant(graph, f"{site.name}/rest", rest))
    product = new_node("MatMul", multiply, [taken.outputs[0], weight])
    graph.insert_before(linear.matmul, [taken, product])
    add_behind(graph, linear.add or linear.matmul, product.outputs[0], sum_up)
