"""ONNX Runtime's providers, and a check that they are used: it drops one silently."""

from __future__ import annotations

import ctypes
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_vit.errors import BackendError, DeviceLostError, EdgeVitError
from edge_vit.formats import all_formats, find_format
from edge_vit.runtime.options import Provider, SessionOptions
from edge_vit.runtime.session import Array, LatencySplit
from edge_vit.spec import Precision

_LOG = logging.getLogger(__name__)

_NAMES: Mapping[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
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


def provider_arguments(precision: Precision, options: SessionOptions) -> list[Any]:
    """Return the ``providers`` of ``InferenceSession``, with their options."""
    device = {"device_id": str(options.device)}
    cuda = (_NAMES["cuda"], device | {"use_tf32": "0"})  # fp32 is float32
    if options.provider == "cuda":
        return [cuda]
    if options.provider == "tensorrt":
        own = find_format(precision).provider_flags
        known = dict.fromkeys(flag for each in all_formats() for flag in each.provider_flags)
        flags = {flag: str(flag in own) for flag in known}
        return [(_NAMES["tensorrt"], device | flags), cuda]
    return [_NAMES["cpu"]]


def check_provider(ort: Any, provider: Provider) -> None:
    """Refuse a provider that this ONNX Runtime was built without."""
    available = ort.get_available_providers()
    if _NAMES[provider] not in available:
        raise BackendError(
            f"this ONNX Runtime {ort.__version__} has no {_NAMES[provider]}, only "
            f"{', '.join(available)}. Run: pip uninstall onnxruntime, then: "
            "pip install onnxruntime-gpu (on a Jetson, the build for its JetPack)"
        )


def record_nodes(native: Any) -> None:
    """Let ONNX Runtime record where each node runs; older ones ignore it."""
    native.add_session_config_entry(_RECORD, "1")


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
