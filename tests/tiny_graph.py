"""A graph that keeps the graph contract, small enough to check by hand, and a bundle of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from graph_files import FP32, INT8, INT8_CPU
from onnx import TensorProto, helper, numpy_helper

from edge_vit.bundle import GOLDEN, Bundle, Golden, draft_bundle
from edge_vit.spec import ModelSpec, PreprocessSpec, TaskName, image_input, task_output

SIZE, CLASSES = 8, 5
TOKENS, WIDTH, HIDDEN = 8, 24, 16  # a token is one row of pixels


def tiny_spec(batch: int | None = None, task: TaskName = "classification") -> ModelSpec:
    """Return the spec of `tiny_onnx`; `batch` is its fixed batch size."""
    labels = ("ant", "bee", "cat", "dog", "eel") if task == "classification" else ()
    return ModelSpec(
        name="tiny",
        source="test:tiny",
        task=task,
        labels=labels,
        inputs=(image_input((SIZE, SIZE), batch),),
        outputs=(task_output(task, CLASSES, batch),),
        preprocess=PreprocessSpec((SIZE, SIZE), crop_pct=1.0),
    )


def tiny_weights() -> dict[str, np.ndarray]:
    """Return the weights: a linear layer on tokens, whose INT8 copy is exact, and a head."""
    rng = np.random.default_rng(0)
    levels = rng.integers(-127, 128, (WIDTH, HIDDEN)).astype(np.int8)
    levels[:, ::2] = 127  # with white pixels, the largest sums that INT8 can make
    scales = rng.uniform(0.005, 0.01, HIDDEN).astype(np.float32)
    return {
        "levels": levels,
        "scales": scales,
        "weight": levels * scales,
        "bias": rng.standard_normal((1, 1, HIDDEN), dtype=np.float32),
        "head": rng.standard_normal((HIDDEN, CLASSES), dtype=np.float32),
    }


def tiny_outputs(images: np.ndarray) -> np.ndarray:
    """Return what the float32 graph says of uint8 (count, 8, 8, 3) `images`, in numpy."""
    weights = tiny_weights()
    tokens = images.reshape(-1, TOKENS, WIDTH).astype(np.float32) / 255
    return (tokens @ weights["weight"] + weights["bias"]).mean(axis=1) @ weights["head"]


def tiny_onnx(
    batch: int | None = None, *, task: TaskName = "classification", quantized: bool = False
) -> bytes:
    """Return the graph: Cast, Div, Reshape to tokens, linear, mean over tokens, head.

    Args:
        batch: fixed batch size; None for a dynamic one.
        task: names the output.
        quantized: whether the linear layer is INT8 (Q/DQ), as `calibration` places it.
    """
    weights = tiny_weights()
    constants = {
        "white": np.float32(255),
        "token_shape": np.array([0, TOKENS, WIDTH]),
        "bias": weights["bias"],
        "head": weights["head"],
        "tokens_axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "white"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "token_shape"], ["tokens"]),
    ]
    if quantized:
        constants |= {
            "x_scale": np.float32(1 / 127),
            "x_zero": np.int8(0),
            "w_levels": weights["levels"],
            "w_scale": weights["scales"],
            "w_zero": np.zeros(HIDDEN, np.int8),
        }
        nodes += [
            helper.make_node("QuantizeLinear", ["tokens", "x_scale", "x_zero"], ["x_q"]),
            helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["w_levels", "w_scale", "w_zero"], ["w"], axis=1),
        ]
    else:
        constants["w"] = weights["weight"]
    output = task_output(task, CLASSES, batch)
    nodes += [
        helper.make_node("MatMul", ["x" if quantized else "tokens", "w"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden", "tokens_axis"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], [output.name]),
    ]
    return serialize_checked(nodes, constants, tiny_spec(batch, task))


def serialize_checked(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray | np.generic], spec: ModelSpec
) -> bytes:
    """Return the graph of `nodes` from the one input of `spec` to its one output."""
    (image,), (output,) = spec.inputs, spec.outputs
    graph = helper.make_graph(
        nodes,
        spec.name,
        [helper.make_tensor_value_info(image.name, TensorProto.UINT8, image.shape)],
        [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, output.shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def tiny_images(count: int = 4, seed: int = 0) -> np.ndarray:
    """Return `count` random images, uint8 (count, 8, 8, 3)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def tiny_bundle(path: Path, batch: int | None = None, task: TaskName = "classification") -> Bundle:
    """Write and open a bundle with the fp32 graph and both INT8 graphs."""
    quantized = tiny_onnx(batch, task=task, quantized=True)
    with draft_bundle(path, tiny_spec(batch, task)) as bundle:
        bundle = bundle.add({FP32: tiny_onnx(batch, task=task)}, made_by={"test": "1"})
        bundle.add({INT8: quantized, INT8_CPU: quantized}, parents=(FP32,))
    return Bundle.open(path)


def golden_bundle(path: Path, batch: int | None = None) -> Bundle:
    """Write and open `tiny_bundle` with golden images, as an export writes them."""
    images = tiny_images(5)
    golden = Golden(images, tiny_outputs(images))
    return tiny_bundle(path, batch).add({GOLDEN: golden.to_bytes()}, parents=(FP32,))
