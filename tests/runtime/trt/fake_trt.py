"""TensorRT packages that are not there: the names of each version, and enough life to be called.

The names come from the sources of the Python bindings, tags v10.3.0, v10.16 and v11.1, and from
the wheel of RTX 1.7.1 (`names.json`). A name that a version lacks is not there; one that TensorRT
11 removed fails the test when anybody touches it, whatever the version, and even by `hasattr`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

NAMES: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("names.json").read_text())
_HAS = {
    "10.3": ("kept", "gone in 11.1"),
    "10.16": ("kept", "gone in 11.1", "new in 10.16"),
    "11.0": ("kept", "new in 10.16", "new in 11.1"),
    "11.4": ("kept", "new in 10.16", "new in 11.1"),
    "rtx": ("kept", "new in 10.16", "new in 11.1", "only in rtx"),
}
ENUMS = ("BuilderFlag", "ComputeCapability", "CudaGraphStrategy", "DataType", "LayerType")
ENUMS += ("DynamicShapesKernelSpecializationStrategy", "HardwareCompatibilityLevel")
ENUMS += ("LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag")
ENUMS += ("ProfilingVerbosity", "TensorIOMode")
VERSIONS = {"10.3": "10.3.0", "10.16": "10.16.2", "11.0": "11.0.0", "11.4": "11.4.1"}
VERSIONS |= {"rtx": "1.7.1.116"}


def names(version: str, kind: str) -> set[str]:
    """Return what the class `kind` has in `version`; nothing where there is no such class."""
    groups = NAMES.get(kind, {})
    found = {name for group in _HAS[version] for name in groups.get(group, "").split()}
    return found - (set(groups.get("lacking in rtx", "").split()) if version == "rtx" else set())


def _check(kind: str, allowed: set[str], name: str) -> None:
    if name.startswith("_") or name in ("name", "value"):
        return
    if name in NAMES[kind].get("gone in 11.1", "").split():
        pytest.fail(f"{kind}.{name} is touched, which TensorRT 11 removed")
    if name not in allowed:
        raise AttributeError(f"{kind} has no {name} here")


class _Strict(type):
    """The type of a fake class: it looks at each name before it gives it."""

    def __getattribute__(cls, name: str) -> Any:
        if not name.startswith("_"):
            _check(cls._kind, cls._allowed, name)
        return super().__getattribute__(name)


def strict(version: str, kind: str, life: type = object) -> Any:
    """Return the class `kind` of `version`, whose behaviour is that of `life`."""
    allowed = names(version, kind)

    def get(self: Any, name: str) -> Any:
        _check(kind, allowed, name)
        return object.__getattribute__(self, name)

    def set_(self: Any, name: str, value: Any) -> None:
        _check(kind, allowed, name)
        object.__setattr__(self, name, value)

    body = {"__getattribute__": get, "__setattr__": set_, "_kind": kind, "_allowed": allowed}
    body |= {name: None for name in allowed if not hasattr(life, name)}
    return _Strict(kind, (life,), body)


class Word(int):
    """A member of an enum, as pybind11 makes them."""

    name: str


def enum(version: str, kind: str) -> Any:
    made = strict(version, kind)
    for value, name in enumerate(sorted(names(version, kind))):
        word = Word(value)
        word.name = name
        setattr(made, name, word)
    return made


def fake_trt(version: str, **habits: Any) -> Any:
    """Return a fake package.

    Args:
        version: one of `VERSIONS`.
        **habits: ``refuses_graph``, ``refuses_plan``, ``says`` (what the builder complains of, and
            fails), ``takes_cache`` (called for each timing cache), ``dtype`` of the engine's
            output, ``layers`` (name and precision of each matrix product of the network),
            ``inspected`` (what the inspector says).
    """
    trt = SimpleNamespace(__name__="tensorrt_rtx" if version == "rtx" else "tensorrt")
    trt.__version__ = VERSIONS[version]
    trt.calls = []  # (method, arguments) as they came
    for kind in NAMES:
        if not names(version, kind) or kind in ("Severity", "ILogger", "IProgressMonitor"):
            continue
        setattr(trt, kind, enum(version, kind) if kind in ENUMS else strict(version, kind))
    # These two are made to be subclassed, and take whatever a subclass adds.
    trt.ILogger = type("ILogger", (), {"Severity": Severity})
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    _give_life(trt, version, habits)
    return trt


class Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def _tensor(trt: Any, version: str, name: str, word: str, shape: tuple[int, ...]) -> Any:
    tensor = strict(version, "ITensor")()
    tensor.name, tensor.shape, tensor.dtype = name, shape, getattr(trt.DataType, word)
    return tensor


def _product(trt: Any, version: str, name: str, precision: str) -> list[Any]:
    """Return the layers of one matrix product, its inputs dequantized where it is ``int8``."""
    word = "FLOAT" if precision == "fp32" else "HALF"
    shapes = {"x": (-1, 17, 32), "w": (1, 32, 64), "y": (-1, 17, 64)}
    x, w, y = (_tensor(trt, version, f"{name}.{key}", word, s) for key, s in shapes.items())
    layers = [("MATRIX_MULTIPLY", name, (x, w), y)]
    if precision == "int8":
        for tensor in (x, w):
            numbers = _tensor(trt, version, f"{tensor.name}.q", "INT8", tensor.shape)
            layers.insert(0, ("DEQUANTIZE", f"{tensor.name}.dq", (numbers,), tensor))
    return [_layer(trt, version, *layer) for layer in layers]


def _layer(trt: Any, version: str, kind: str, name: str, inputs: tuple, output: Any) -> Any:
    layer = strict(version, "ILayer")()
    layer.name, layer.type = name, getattr(trt.LayerType, kind)
    layer.num_inputs, layer.num_outputs = len(inputs), 1
    layer.get_input, layer.get_output = inputs.__getitem__, lambda index: output
    return layer


def _give_life(trt: Any, version: str, habits: dict[str, Any]) -> None:
    image = _tensor(trt, version, "images", "UINT8", (-1, 8, 8, 3))
    logits = _tensor(trt, version, "logits", habits.get("dtype", "FLOAT"), (-1, 10))
    tensors = {"images": image, "logits": logits}
    record = trt.calls.append

    class Layer:
        name, num_inputs, num_outputs = "head", 2, 1
        type = trt.LayerType.MATRIX_MULTIPLY

        def get_input(self, index):
            return image if index == 0 else None  # an optional input that is not given

        def get_output(self, index):
            return logits

    layers = [strict(version, "ILayer", Layer)()]
    layers += [
        layer
        for name, precision in habits.get("layers", ())
        for layer in _product(trt, version, name, precision)
    ]

    class Network:
        num_inputs, num_outputs, num_layers = 1, 1, len(layers)

        def get_input(self, index):
            return image

        def get_output(self, index):
            return logits

        def get_layer(self, index):
            return layers[index]

    class Error:
        def desc(self):
            return "Assertion failed: no such operator.\n"

        def node_name(self):
            return "block0/fc1"

        def node_operator(self):
            return "Gelu"

    class Parser:
        num_errors = 1

        def __init__(self, network, logger):
            self._network = network

        def parse(self, model):
            record(("parse", bytes(model)))
            return not habits.get("refuses_graph")

        def get_error(self, index):
            return strict(version, "ParserError", Error)()

    class Profile:
        def set_shape(self, name, least, usual, most):
            record(("set_shape", name, least, usual, most))

    class Cache:
        def serialize(self):
            return memoryview(b"timed")

    class Config:
        def clear_flag(self, flag):
            record(("clear_flag", flag.name))

        def set_memory_pool_limit(self, pool, size):
            record(("limit", pool.name, size))

        def add_optimization_profile(self, profile):
            return 0

        def create_timing_cache(self, data):
            record(("create_timing_cache", data))
            return strict(version, "ITimingCache", Cache)()

        def set_timing_cache(self, cache, ignore_mismatch):
            return habits.get("takes_cache", lambda: True)()

        def get_timing_cache(self):
            return strict(version, "ITimingCache", Cache)()

        def set_compute_capability(self, capability, index):
            record(("target", capability.name, index))
            return True

    class Builder:
        def __init__(self, logger):
            self._logger = logger

        def create_network(self, flags):
            record(("create_network", flags))
            return strict(version, "INetworkDefinition", Network)()

        def create_builder_config(self):
            return strict(version, "IBuilderConfig", Config)()

        def create_optimization_profile(self):
            return strict(version, "IOptimizationProfile", Profile)()

        def build_serialized_network(self, network, config):
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building engine", step):
                    return None
            monitor.phase_finish("Building engine")
            for severity, words in habits.get("says", ()):
                self._logger.log(severity, words)
            fails = any(severity <= Severity.ERROR for severity, _ in habits.get("says", ()))
            return None if fails else memoryview(b"plan")

    class Context:
        def set_input_shape(self, name, shape):
            return name == "images" and shape[0] <= 8

        def set_tensor_address(self, name, address):
            return name in tensors

        def infer_shapes(self):
            return ["images"]

        def get_tensor_shape(self, name):
            return (1, 10)

        def execute_async_v3(self, stream):
            record(("execute", stream))
            return True

    class Inspector:
        def get_engine_information(self, kind):
            assert kind is trt.LayerInformationFormat.JSON
            return habits.get("inspected", '{"Layers": []}')

    class RuntimeConfig:
        def create_runtime_cache(self):
            return strict(version, "IRuntimeCache", RuntimeCache)()

        def set_runtime_cache(self, cache):
            record(("set_runtime_cache",))

    class RuntimeCache:
        def deserialize(self, data):
            record(("kernels", data))

        def serialize(self):
            return memoryview(b"kernels")

    class Engine:
        num_io_tensors, num_optimization_profiles, device_memory_size_v2 = 2, 1, 4096

        def get_tensor_name(self, index):
            return list(tensors)[index]

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name == "images" else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return tensors[name].dtype

        def get_tensor_shape(self, name):
            return tensors[name].shape

        def get_tensor_profile_shape(self, name, index):
            return [(1, 8, 8, 3), (1, 8, 8, 3), (8, 8, 8, 3)]

        def create_execution_context(self, *config):
            record(("create_execution_context", *config))
            return strict(version, "IExecutionContext", Context)()

        def create_runtime_config(self):
            return strict(version, "IRuntimeConfig", RuntimeConfig)()

        def create_engine_inspector(self):
            return strict(version, "EngineInspector", Inspector)()

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, plan):
            if habits.get("refuses_plan"):
                self._logger.log(Severity.ERROR, "[x.cpp::f::1] Error Code 1: Serialization (bad)")
                return None
            return strict(version, "ICudaEngine", Engine)()

    for kind, life in (("Builder", Builder), ("OnnxParser", Parser), ("Runtime", Runtime)):
        setattr(trt, kind, strict(version, kind, life))
