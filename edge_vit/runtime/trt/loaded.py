"""Running with TensorRT: a plan in memory, and contexts to run it; tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_vit.errors import BackendError
from edge_vit.runtime.trt.listeners import Complaints
from edge_vit.runtime.trt.network import OutOfMemoryError, Shape, ShapeRange

_DTYPES: Mapping[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's words to numpy's; the other types have no numpy of their own."""


@dataclass(frozen=True)
class EngineTensor:
    """One input or output of an engine."""

    name: str
    is_input: bool
    dtype: str
    shape: Shape  # -1 is a dynamic dimension
    profile: ShapeRange | None = None  # of an input with one: what the engine was built for


class Context:
    """An execution context: shapes, addresses, then `enqueue`. Used by one thread at a time.

    Made by `LoadedEngine.create_context`, which it keeps alive. Addresses are device pointers,
    streams are CUDA's own handles, both as integers.
    """

    def __init__(
        self, engine: LoadedEngine, native: Any, complaints: Complaints, cache: Any
    ) -> None:
        self._engine = engine
        self._native = native
        self._complaints = complaints
        self._cache = cache

    def choose_profile(self, stream: int) -> None:
        """Take the engine's one optimization profile; shapes come afterwards."""
        is_taken = self._native.set_optimization_profile_async(0, stream)
        self._check(is_taken, "its optimization profile")

    def set_shape(self, name: str, shape: Shape) -> None:
        """Set the shape of the input `name` in the runs to come."""
        self._check(self._native.set_input_shape(name, shape), f"the shape {shape} of {name!r}")

    def set_address(self, name: str, address: int) -> None:
        """Set the address of the tensor `name`; the memory stays the caller's."""
        self._check(self._native.set_tensor_address(name, address), f"an address of {name!r}")

    def missing(self) -> tuple[str, ...]:
        """Return the inputs whose shape or address is not set yet."""
        return tuple(self._native.infer_shapes())

    def shape_of(self, name: str) -> Shape:
        """Return the shape of `name` for the input shapes that are set."""
        return tuple(self._native.get_tensor_shape(name))

    def enqueue(self, stream: int) -> bool:
        """Put one run on `stream` and return at once; False where TensorRT refuses: see `reason`.

        It refuses in the middle of a graph capture that it cannot serve.
        """
        return bool(self._native.execute_async_v3(stream))

    @property
    def reason(self) -> str:
        """Why the last call failed, in TensorRT's words."""
        return self._complaints.reason

    def runtime_cache(self) -> bytes | None:
        """Return the kernels that were compiled for this context so far; None where not kept."""
        serialized = None if self._cache is None else self._cache.serialize()
        return None if serialized is None else bytes(serialized)

    def close(self) -> None:
        """Free what it holds; its runs have to be over."""
        self._native = None
        self._cache = None

    def _check(self, is_taken: bool, what: str) -> None:
        if not is_taken:
            raise BackendError(f"TensorRT refuses {what}: {self._complaints.reason}")


class LoadedEngine:
    """An engine in memory, with its inputs and outputs by name. Made by `TrtApi.load`."""

    def __init__(
        self, trt: Any, logger: Any, runtime: Any, native: Any, complaints: Complaints
    ) -> None:
        self._trt = trt
        self._logger = logger  # both have to outlive the engine
        self._runtime = runtime
        self._native = native
        self._complaints = complaints
        names = [native.get_tensor_name(index) for index in range(native.num_io_tensors)]
        self.tensors: Mapping[str, EngineTensor] = {name: self._tensor(name) for name in names}

    def create_context(
        self, *, captures_graphs: bool = False, runtime_cache: bytes | None = None
    ) -> Context:
        """Return a new context; the arguments are for RTX alone.

        It puts runs into CUDA graphs by itself where it `captures_graphs`. `runtime_cache` is that
        of an earlier `Context`; empty for a new cache, None for none.
        """
        self._complaints.clear()
        config, cache = self._runtime_config(captures_graphs, runtime_cache)
        native = self._native.create_execution_context(*([] if config is None else [config]))
        if native is None:
            raise OutOfMemoryError(f"no context for this engine: {self._complaints.reason}")
        return Context(self, native, self._complaints, cache)

    def inspect(self) -> str | None:
        """Return the inspector's JSON of all layers; None where this package has no inspector."""
        if not hasattr(self._trt, "EngineInspector"):
            return None
        inspector = self._native.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free what it holds; its contexts have to be closed."""
        self._native = None
        self._runtime = None

    def _runtime_config(
        self, captures_graphs: bool, runtime_cache: bytes | None
    ) -> tuple[Any, Any]:
        """RTX's configuration of a context and its kernel cache; (None, None) elsewhere."""
        kind = getattr(self._trt, "IRuntimeConfig", None)
        if not hasattr(kind, "cuda_graph_strategy"):
            return None, None
        config = self._native.create_runtime_config()
        if captures_graphs:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Lazily compiled kernels would make the first seconds of every measurement slow.
        strategy = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        if runtime_cache is None or not hasattr(kind, "create_runtime_cache"):
            return config, None
        cache = config.create_runtime_cache()
        if runtime_cache:
            cache.deserialize(runtime_cache)
        config.set_runtime_cache(cache)
        return config, cache

    def _tensor(self, name: str) -> EngineTensor:
        native = self._native
        is_input = native.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        word = native.get_tensor_dtype(name).name
        if word not in _DTYPES:
            raise BackendError(
                f"tensor {name!r} of the engine is {word}, expected one of {', '.join(_DTYPES)}"
            )
        shape: Shape = tuple(native.get_tensor_shape(name))
        profile = None
        if is_input and -1 in shape:
            profile = ShapeRange(*map(tuple, native.get_tensor_profile_shape(name, 0)))
        return EngineTensor(name, is_input, _DTYPES[word], shape, profile)
