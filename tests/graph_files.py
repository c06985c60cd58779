"""The files of a bundle that hold a graph, by short names."""

from __future__ import annotations

from edge_vit.formats import find_format

FP32, FP16, INT8 = (find_format(name).file for name in ("fp32", "fp16", "int8"))
INT8_CPU, INT8_ORT_X64 = (
    next(v.file for v in find_format("int8").variants if v.target == target)
    for target in ("cpu", "ort-x64")
)
INT8_FILES = (INT8, INT8_CPU, INT8_ORT_X64)
HALF_PROOF = find_format("fp16").proof
ONNX_FILES = {"fp32": FP32, "fp16": FP16, "int8": INT8}
