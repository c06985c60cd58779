"""TensorRT for RTX without a GPU: parses a graph, shows the network it made of it, builds it.

The calls are those of TensorRT 10 and 11; `tensorrt_rtx` builds for a GPU that is not there.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection
from dataclasses import dataclass

import onnx

HAS_RTX = sys.platform == "linux" and platform.machine() == "x86_64"
"""Where the `dev` extra installs it; there, a failing import is a failing test."""

if HAS_RTX:
    import tensorrt_rtx as trt


@dataclass(frozen=True)
class Layer:
    """One layer of the parsed network: its kind and types in TensorRT's words."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """What the parser made of a graph, and the plan that the builder made of that.

    Attributes:
        layers: by name; a layer is called as the ONNX node that it came from.
        producers: name of the layer that makes each tensor.
        inputs: (name, type, shape) of each.
        outputs: (name, type, shape) of each; -1 for a dynamic dimension.
        plan_bytes: size of the plan.
        complaints: what parser and builder warned of.
    """

    layers: dict[str, Layer]
    producers: dict[str, str]
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    plan_bytes: int
    complaints: tuple[str, ...]

    def count(self, kind: str) -> int:
        return sum(layer.kind == kind for layer in self.layers.values())

    def is_int8(self, site: str) -> bool:
        """Say whether both inputs of the MatMul called `site` are dequantized INT8 numbers."""
        matmul = self.layers[site]
        assert matmul.kind == "MATRIX_MULTIPLY"
        activation, weight = (self._source(tensor) for tensor in matmul.inputs)
        return (
            self._is_dequantized(activation, "QUANTIZE")
            and self._is_dequantized(weight, "CONSTANT")
            and activation is not weight
        )

    def int8_layers(self, names: Collection[str]) -> set[str]:
        return {name for name in names if self.is_int8(name)}

    def _source(self, tensor: str) -> Layer:
        """The layer that makes `tensor`, past those that only give it leading axes of 1."""
        layer = self.layers[self.producers[tensor]]
        return self._source(layer.inputs[0]) if layer.kind == "SHUFFLE" else layer

    def _is_dequantized(self, layer: Layer, source_kind: str) -> bool:
        if layer.kind != "DEQUANTIZE":
            return False
        return layer.input_types[0] == "INT8" and self._source(layer.inputs[0]).kind == source_kind


class BuildRefusedError(Exception):
    """The parser or the builder refused the graph; holds what it said."""


def build(model: onnx.ModelProto, batches: tuple[int, int, int] = (1, 1, 8)) -> Network:
    """Return the network that TensorRT parses from `model`, once it was built, strongly typed.

    Args:
        model: the graph.
        batches: smallest, usual and largest batch of the profile, where the batch is dynamic.

    Raises:
        BuildRefusedError: the graph cannot be parsed or built.
    """
    logger = _Logger()
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise BuildRefusedError(" ".join(errors))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    if image.shape[0] == -1:
        profile.set_shape(image.name, *[(batch, *image.shape[1:]) for batch in batches])
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildRefusedError(" ".join(logger.complaints))
    return _describe(network, plan.nbytes, tuple(logger.complaints))


def _describe(network: trt.INetworkDefinition, size: int, complaints: tuple[str, ...]) -> Network:
    layers, producers = {}, {}
    for layer in map(network.get_layer, range(network.num_layers)):
        inputs = list(filter(None, map(layer.get_input, range(layer.num_inputs))))
        outputs = list(map(layer.get_output, range(layer.num_outputs)))
        assert layer.name not in layers
        layers[layer.name] = Layer(
            layer.name,
            layer.type.name,
            tuple(tensor.name for tensor in inputs),
            tuple(tensor.dtype.name for tensor in inputs),
            tuple(tensor.dtype.name for tensor in outputs),
        )
        producers |= {tensor.name: layer.name for tensor in outputs}

    def describe(tensor: trt.ITensor) -> tuple[str, str, tuple[int, ...]]:
        return tensor.name, tensor.dtype.name, tuple(tensor.shape)

    return Network(
        layers,
        producers,
        tuple(map(describe, map(network.get_input, range(network.num_inputs)))),
        tuple(map(describe, map(network.get_output, range(network.num_outputs)))),
        size,
        complaints,
    )


if HAS_RTX:

    class _Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.complaints: list[str] = []

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                self.complaints.append(message)
