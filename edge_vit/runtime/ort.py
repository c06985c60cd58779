"""ONNX Runtime: the backend that is everywhere, on the CPU or, by a provider, on a GPU."""

from __future__ import annotations

import ctypes
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_vit.bundle import Bundle
from edge_vit.errors import BackendError, DeviceLostError, EdgeVitError
from edge_vit.formats import find_format
from edge_vit.optional import require
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.cpu import capabilities, has_vnni
from edge_vit.runtime.options import DEFAULT_OPTIONS, Provider, SessionOptions
from edge_vit.runtime.self_test import check_session
from edge_vit.runtime.session import Array, Failures, LatencySplit, Session
from edge_vit.spec import Precision, TensorSpec

_LOG = logging.getLogger(__name__)

_NAMES: Mapping[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Option of a session: where the weights lie that are not in its graph."""
_RECORD = "session.record_ep_graph_assignment_info"
# Arithmetic on shapes, which ONNX Runtime leaves on the CPU on purpose.
_SHAPE_OPS = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Gather", "Range", "Shape", "Size", "Slice"}
    | {"Squeeze", "Unsqueeze"}
)
_LOST = re.compile(
    r"illegal memory access|unspecified launch failure|CUDA failure (?:7(?:00|02|1\d)|999|214)\b"
    r"|device-side assert|uncorrectable ECC",
    re.IGNORECASE,
)

_FATAL = 4  # log level: an error arrives as an exception, which needs no second copy on stderr
# Worker threads of an idle session would take the cores from the session whose turn it is.
_CONFIG = {"session.force_spinning_stop": "1"}
_SLOWER = ["SkipLayerNormFusion"]  # one operator that takes longer than the two it stands for
# Without VNNI, the INT8 kernels of x86 saturate in 16 bits and outputs are plainly wrong. With it
# they do not, and would only take twice as long.
_PRECISE_INT8 = "session.x64quantprecision"
# Next to the steps of INT8 the tanh form of GELU is exact (docs/cpu.md), and takes less time.
_APPROXIMATE_GELU = "optimization.enable_gelu_approximation"
_DTYPES = {"float": "float32", "double": "float64"}  # the rest are numpy's own names
_TOO_NEW = re.compile(r"IR version|opset \d+ is under development", re.IGNORECASE)
_FAILURES = Failures(
    "ONNX Runtime",
    noise=re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "),
    no_memory=re.compile(r"bad_alloc|failed to allocate memory|out of memory", re.IGNORECASE),
    advice="Export it again, or update onnxruntime",
)


def open_backend(
    bundle: Bundle, precision: Precision, options: SessionOptions, progress: Progress = SILENT
) -> OrtSession:
    """Return a session that runs the `precision` graph of `bundle`: see `choose_graph`.

    On a GPU it passed the self-test, unless `options` leave that out.
    """
    name = choose_graph(bundle, precision, is_on_gpu=options.provider != "cpu")
    model, weights = bundle.read(name), bundle.find_weights(name)
    session = OrtSession(
        model,
        precision,
        options,
        name=str(bundle.path / name),
        weights=str(weights.resolve().parent) if weights else "",
    )
    if session.is_on_gpu and options.self_test:
        try:
            with progress.step(f"testing {precision} on the golden images"):
                check_session(session, bundle, f"{name} by {options.provider}")
        except BaseException:
            session.close()
            raise
    return session


def choose_graph(bundle: Bundle, precision: Precision, *, is_on_gpu: bool = False) -> str:
    """Return the name of the file that a session runs.

    For INT8 on a CPU with VNNI that is the one in ONNX Runtime's own operators, which would
    saturate elsewhere.
    """
    return bundle.graph(precision, "ort-gpu" if is_on_gpu else "ort", capabilities())


class OrtSession(Session):
    """An ONNX graph in memory, run by ONNX Runtime; `weights` is the folder of others that it has.

    The graph alone decides how it is computed; `precision` and `name` are for figures and messages.
    """

    backend = "ort"

    def __init__(
        self,
        model: bytes,
        precision: Precision,
        options: SessionOptions = DEFAULT_OPTIONS,
        *,
        name: str = "the graph",
        weights: str = "",
    ) -> None:
        ort = require("onnxruntime", "running with ONNX Runtime")
        self.provider, self.is_on_gpu = options.provider, options.provider != "cpu"
        native = _native_options(ort, options)
        if weights:
            native.add_session_config_entry(WEIGHTS_FOLDER, weights)
        if find_format(precision).is_quantized:
            native.add_session_config_entry(_APPROXIMATE_GELU, "1")
        extra: dict[str, Any] = {"disabled_optimizers": _SLOWER}
        if self.is_on_gpu:
            check_provider(ort, options.provider)
            native.add_session_config_entry(_RECORD, "1")  # older ones ignore it
            extra = {"enable_fallback": 0}  # else it would run on the CPU and print so to stdout
        try:
            self._session: Any = ort.InferenceSession(
                model, native, providers=provider_arguments(options), **extra
            )
        except Exception as error:
            raise _load_error(error, name, f"ONNX Runtime {ort.__version__}") from error
        if self.is_on_gpu:
            check_used(ort, self._session, options.provider)
        super().__init__(
            precision=precision,
            inputs=tuple(map(_tensor_spec, self._session.get_inputs())),
            outputs=tuple(map(_tensor_spec, self._session.get_outputs())),
            threads=options.num_threads,
        )
        self._ort, self._name, self._device = ort, name, ("cuda", options.device)
        self._output_names = [spec.name for spec in self.outputs]

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        try:
            if self.is_on_gpu:
                results, self.last_split = run_bound(
                    self._ort, self._session, feeds, self._output_names, self._device
                )
                return results
            outputs = self._session.run(self._output_names, feeds)
        except Exception as error:
            lost = lost_error(_FAILURES.reason(error), self._name) if self.is_on_gpu else None
            raise lost or _FAILURES.running(error, self._name, feeds) from error
        return dict(zip(self._output_names, outputs, strict=True))

    def _close(self) -> None:
        self._session = None


def _native_options(ort: Any, options: SessionOptions) -> Any:
    native = ort.SessionOptions()
    native.intra_op_num_threads = options.num_threads
    native.inter_op_num_threads = 1
    native.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    native.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    native.log_severity_level = _FATAL
    for key, value in _CONFIG.items():
        native.add_session_config_entry(key, value)
    if not has_vnni():
        native.add_session_config_entry(_PRECISE_INT8, "1")
    return native


def _tensor_spec(tensor: Any) -> TensorSpec:
    dtype = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple("?" if dimension is None else dimension for dimension in tensor.shape)
    return TensorSpec(tensor.name, _DTYPES.get(dtype, dtype), shape)


def _load_error(error: Exception, name: str, version: str) -> BackendError:
    reason = _FAILURES.reason(error)
    if _TOO_NEW.search(reason):
        return BackendError(
            f"{name} is too new for {version}: {reason}. Run: pip install --upgrade onnxruntime"
        )
    return _FAILURES.loading(error, name, version)


def provider_arguments(options: SessionOptions) -> list[Any]:
    """Return the ``providers`` of ``InferenceSession``, with their options."""
    if options.provider == "cpu":
        return [_NAMES["cpu"]]
    settings = {"device_id": str(options.device), "use_tf32": "0"}  # fp32 is float32
    return [(_NAMES["cuda"], settings)]


def check_provider(ort: Any, provider: Provider) -> None:
    """Refuse a provider that this ONNX Runtime was built without."""
    available = ort.get_available_providers()
    if _NAMES[provider] not in available:
        raise BackendError(
            f"this ONNX Runtime {ort.__version__} has no {_NAMES[provider]}, only "
            f"{', '.join(available)}. Run: pip uninstall onnxruntime, then: "
            "pip install onnxruntime-gpu (on a Jetson, the build for its JetPack)"
        )


def check_used(ort: Any, session: Any, provider: Provider) -> None:
    """Refuse a session that ONNX Runtime moved to the CPU, whole or in part."""
    if _NAMES[provider] not in session.get_providers():
        raise BackendError(
            f"ONNX Runtime {ort.__version__} dropped {_NAMES[provider]} and would run on the CPU: "
            f"{_why_dropped(ort, provider)}. Or run there on purpose: --provider cpu"
        )
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        _LOG.info("this ONNX Runtime does not tell which nodes it leaves on the CPU")
        return
    nodes = [(part.ep_name, node) for part in ask() for node in part.get_nodes()]
    on_cpu = [
        f"{node.name or 'unnamed'} ({node.op_type})"
        for name, node in nodes
        if name == _NAMES["cpu"] and node.op_type not in _SHAPE_OPS
    ]
    if on_cpu:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} would run {len(on_cpu)} of {len(nodes)} nodes on the "
            f"CPU, as {_NAMES[provider]} does not take them: {', '.join(on_cpu[:3])}. Take another "
            "--precision, or --provider cpu"
        )


def run_bound(
    ort: Any,
    session: Any,
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    device: tuple[str, int],
) -> tuple[dict[str, Array], LatencySplit]:
    """Return the outputs of a run whose tensors lie on `device`, and where its time went."""
    binding = session.io_binding()
    start = time.perf_counter_ns()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, *device))
    for name in outputs:
        binding.bind_output(name, *device)
    copied = time.perf_counter_ns()
    session.run_with_iobinding(binding)
    computed = time.perf_counter_ns()
    arrays = [value.numpy() for value in binding.get_outputs()]
    end = time.perf_counter_ns()
    times = ((copied - start) / 1e6, (computed - copied) / 1e6, (end - computed) / 1e6)
    return dict(zip(outputs, arrays, strict=True)), LatencySplit(*times)


def lost_error(text: str, name: str) -> EdgeVitError | None:
    """Return the error of a lost GPU, where ONNX Runtime's `text` is about one."""
    if not _LOST.search(text):
        return None
    return DeviceLostError(
        f"the GPU is lost to this process while running {name}: {text}. Start it again, and look "
        "at: sudo dmesg | grep -i -e nvrm -e xid"
    )


def _why_dropped(ort: Any, provider: Provider) -> str:
    """What the provider's own library lacks, as the system's loader reports it; else the driver."""
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        library, missing, _ = str(error).partition(": cannot open shared object file")
        if missing and not library.startswith(str(folder)):
            return f"{library} is not installed or not found. See LD_LIBRARY_PATH"
    from edge_vit.runtime.cudart import open_cuda

    try:
        open_cuda()
    except EdgeVitError as error:
        return str(error)
    return "it does not say why; its CUDA, cuDNN and driver have to fit each other"
