"""OpenVINO on the CPU: the fastest way on x86; no other file speaks its words."""

from __future__ import annotations

import re
import threading
from typing import Any

from edge_vit.bundle import INT8_CPU, ONNX_FILES, Bundle
from edge_vit.errors import BackendError
from edge_vit.optional import require
from edge_vit.runtime.cpu import has_vnni
from edge_vit.runtime.session import DEFAULT_OPTIONS, Array, Session, SessionOptions
from edge_vit.spec import Precision, TensorSpec

_PROPERTIES = {
    "PERFORMANCE_HINT": "LATENCY",
    # Processors with AMX or AVX512-BF16 would compute in bfloat16 unasked: 8 bits of mantissa, and
    # a reference that is none. What is not INT8 stays float32.
    "INFERENCE_PRECISION_HINT": "f32",
}
# Without VNNI the INT8 kernels of x86 saturate in 16 bits. Left as Q/DQ in float32 they are exact.
_NO_INT8_KERNELS = {"LP_TRANSFORMS_MODE": "NO"}
_WHERE = re.compile(r"Exception from \S+:\d+:\s*")


def open_backend(bundle: Bundle, precision: Precision, options: SessionOptions) -> OpenVinoSession:
    """Return a session that runs the `precision` graph of `bundle`, for INT8 the portable one.

    Raises:
        ArtifactError: the graph is missing, truncated or edited.
        BackendError: OpenVINO cannot load it.
        MissingDependencyError: openvino is not installed.
    """
    name = INT8_CPU if precision == "int8" else ONNX_FILES[precision]
    return OpenVinoSession(bundle.read(name), precision, options, name=str(bundle.path / name))


class OpenVinoSession(Session):
    """An ONNX graph in memory, run by OpenVINO on the CPU.

    Runs at the same time have a request each, and take turns on the same threads.

    Args:
        model: the ONNX file's bytes.
        precision: what the caller calls it; the graph alone decides how it is computed, and its
            float16 parts compute in float32.
        options: threads.
        name: of the graph, for messages.

    Raises:
        BackendError: OpenVINO cannot load the graph.
        MissingDependencyError: openvino is not installed.
    """

    backend = "openvino"

    def __init__(
        self,
        model: bytes,
        precision: Precision,
        options: SessionOptions = DEFAULT_OPTIONS,
        *,
        name: str = "the graph",
    ) -> None:
        openvino = require("openvino", "running with OpenVINO")
        try:
            core = openvino.Core()
            self._compiled: Any = core.compile_model(
                core.read_model(model), "CPU", _properties(options)
            )
        except Exception as error:
            raise _load_error(error, name, f"OpenVINO {openvino.get_version()}") from error
        super().__init__(
            precision=precision,
            inputs=tuple(map(_tensor_spec, self._compiled.inputs)),
            outputs=tuple(map(_tensor_spec, self._compiled.outputs)),
            threads=options.num_threads,
        )
        self._name = name
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            outputs = request.infer(feeds, share_inputs=True, share_outputs=False)
        except Exception as error:
            raise _run_error(error, self._name, feeds) from error
        with self._lock:
            self._idle.append(request)
        return {spec.name: outputs[index] for index, spec in enumerate(self.outputs)}

    def _close(self) -> None:
        self._idle.clear()
        self._compiled = None


def _properties(options: SessionOptions) -> dict[str, Any]:
    kernels = {} if has_vnni() else _NO_INT8_KERNELS
    return {**_PROPERTIES, **kernels, "INFERENCE_NUM_THREADS": options.num_threads}


def _tensor_spec(port: Any) -> TensorSpec:
    """What a tensor of the graph is; OpenVINO forgets what its dynamic axis is called."""
    shape = tuple(
        (size.get_length() if size.is_static else "batch" if axis == 0 else "?")
        for axis, size in enumerate(port.partial_shape)
    )
    return TensorSpec(port.get_any_name(), port.element_type.to_dtype().name, shape)


def _load_error(error: Exception, name: str, version: str) -> BackendError:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return BackendError(f"{version} ran out of memory while loading {name}. Free some memory")
    return BackendError(
        f"{version} cannot load {name}: {_reason(error)}. Export it again, or use --backend ort"
    )


def _run_error(error: Exception, name: str, feeds: dict[str, Array]) -> BackendError:
    shapes = ", ".join(f"{key!r} {array.shape}" for key, array in feeds.items())
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return BackendError(
            f"OpenVINO ran out of memory while running {name} on {shapes}. Use a smaller batch"
        )
    return BackendError(f"OpenVINO failed to run {name} on {shapes}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """What OpenVINO says, on one line, without the places in its own source."""
    return " ".join(_WHERE.sub("", str(error)).split()).rstrip(".")
