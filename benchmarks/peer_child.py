"""Quantizes one graph by one tool, alone in a process of that tool's own environment.

``peer_child.py WAY FP32.onnx CALIBRATION.npy OUT [SPEC.json]`` prints one line of JSON: seconds and
peak memory of the whole work, and the versions that did it. `peers.py` calls it.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def block_linears(source: Path) -> list[str]:
    """Return the names of the linear layers in the blocks: what edge-vit quantizes."""
    import onnx

    graph = onnx.load(source).graph
    constants = {constant.name for constant in graph.initializer}
    products = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    return [node.name for node in products if node.name.startswith("block")]


class ImageReader:
    """Calibration images one at a time, as ONNX Runtime's quantizer and ModelOpt want them."""

    def __init__(self, images: np.ndarray, name: str) -> None:
        self._images, self._name, self._position = images, name, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, or None behind the last."""
        if self._position == len(self._images):
            return None
        self._position += 1
        image = self._images[self._position - 1 : self._position]
        return {self._name: np.ascontiguousarray(image)}

    def rewind(self) -> None:
        """Begin again."""
        self._position = 0

    def set_range(self, start_index: int, end_index: int) -> None:
        """Hand out only these images; ONNX Runtime asks for parts of a large set."""
        raise NotImplementedError


def by_edge_vit(recipe: str, source: Path, images: np.ndarray, out: Path, spec: Path) -> None:
    """Calibrate and write the portable graph."""
    import onnx

    from edge_vit.calibration.calibrate import calibrate_model
    from edge_vit.data.images import ArraySource
    from edge_vit.lowering.qdq import write_qdq
    from edge_vit.spec import ModelSpec
    from edge_vit.spec.table import RECIPES
    from edge_vit.values import from_json

    facts = from_json(ModelSpec, json.loads(spec.read_text()), "spec")
    table = calibrate_model(
        source.read_bytes(), facts, ArraySource(images), RECIPES[recipe], threads=2
    )
    out.with_suffix(".json").write_bytes(table.to_bytes())
    onnx.save(write_qdq(onnx.load(source), table), out)


def by_modelopt(is_linear: bool, source: Path, images: np.ndarray, out: Path) -> None:
    """Quantize with NVIDIA ModelOpt, float32 around the INT8 parts, so that only INT8 differs.

    ``linear only`` means the layers that edge-vit quantizes, by the largest value; the default,
    entropy, cuts their ranges so short that it is far worse.
    """
    from modelopt.onnx.quantization import quantize

    linear: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul"],
        "nodes_to_quantize": block_linears(source),
        "calibration_method": "max",
    }
    quantize(
        str(source),
        "int8",
        calibration_data=images,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
        log_level="ERROR",
        **(linear if is_linear else {}),
    )


def by_onnx_runtime(kind: str, source: Path, images: np.ndarray, out: Path) -> None:
    """Quantize with ONNX Runtime's own quantizer: ``static``, ``static-linear`` or ``dynamic``."""
    from onnxruntime import quantization

    if kind == "dynamic":
        quantization.quantize_dynamic(source, out)
        return
    linear = {"nodes_to_quantize": block_linears(source)} if kind == "static-linear" else {}
    quantization.quantize_static(
        source,
        out,
        ImageReader(images, "images"),
        activation_type=quantization.QuantType.QInt8,
        per_channel=True,
        extra_options={"ActivationSymmetric": True},
        **linear,
    )


def by_nncf(source: Path, images: np.ndarray, out: Path) -> None:
    """Quantize with OpenVINO's NNCF, its preset for transformers; the result is OpenVINO's IR."""
    import nncf
    import openvino

    data = nncf.Dataset(list(images), lambda image: {"images": image[None]})
    quantized = nncf.quantize(
        openvino.convert_model(source),
        data,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
    )
    openvino.save_model(quantized, out, compress_to_fp16=False)


def main() -> None:
    way, source, calibration, out = sys.argv[1], *map(Path, sys.argv[2:5])
    images = np.load(calibration)
    start = time.perf_counter()
    if way.startswith("edge-vit "):
        by_edge_vit(way.removeprefix("edge-vit "), source, images, out, Path(sys.argv[5]))
        packages = ["onnxruntime", "onnx"]
    elif way.startswith("ModelOpt"):
        by_modelopt(way.endswith("linear only"), source, images, out)
        packages = ["nvidia-modelopt", "onnxruntime-gpu", "torch"]
    elif way.startswith("ONNX Runtime "):
        by_onnx_runtime(way.removeprefix("ONNX Runtime "), source, images, out)
        packages = ["onnxruntime", "onnx"]
    else:
        by_nncf(source, images, out)
        packages = ["nncf", "openvino"]
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line for line in status if line.startswith("VmHWM")]
    report = {
        "seconds": round(seconds, 2),
        "peak_mib": round(int(peak.split()[1]) / 1024, 1),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
