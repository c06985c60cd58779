"""Which products of a graph a runtime computes in INT8, read from what it made of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
from layers import weight_scales

from edge_vit.graph.sites import find_sites
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.ort import _SLOWER, _native_options
from edge_vit.runtime.ov import OpenVinoSession
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec.table import CalibrationTable, Recipe, SiteScales

_INT8 = (
    *("MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul"),
    "QAttention",  # queries, keys and values; its other products are in float
)
_FLOAT = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulNBits")


@dataclass(frozen=True)
class Products:
    """The matrix products of a graph, by the place in their name, such as ``block0/fc1``."""

    int8: frozenset[str]
    floating: frozenset[str]


def quantize_blindly(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the portable graph of `model` with scales that no image was asked for."""
    scales = {
        site.name: SiteScales("int8", "", 0.05, tuple(weight_scales(site.linear.weight)), 1, 1)
        for site in find_sites(ir.from_proto(model).graph)
    }
    return write_qdq(model, CalibrationTable(Recipe(), "", scales, ()))


def onnx_runtime_products(model: onnx.ModelProto, folder: Path) -> Products:
    """Return what ONNX Runtime's optimised graph computes how, opened as a session opens it."""
    path = folder / "optimised.onnx"
    options = _native_options(onnxruntime, SessionOptions(1))
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_SLOWER,
    )
    nodes = onnx.load(path).graph.node
    return Products(
        frozenset(_place(node.name) for node in nodes if node.op_type in _INT8),
        frozenset(_place(node.name) for node in nodes if node.op_type in _FLOAT),
    )


def openvino_products(model: onnx.ModelProto) -> Products:
    """Return what OpenVINO computes how, by the kernel that it chose for each product."""
    int8, floating = set(), set()
    with OpenVinoSession(model.SerializeToString(), "int8", SessionOptions(1)) as session:
        for node in session._single.model.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            if facts["layerType"].value.startswith(("FullyConnected", "MatMul")):
                is_int8 = facts["primitiveType"].value.lower().endswith(("_i8", "_u8"))
                (int8 if is_int8 else floating).add(_place(node.friendly_name))
    return Products(frozenset(int8), frozenset(floating))


def _place(name: str) -> str:
    return "/".join(name.split("/")[:2])
