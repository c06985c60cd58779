"""The backends there are, and which of them `auto` takes on this machine.

Nothing is imported to find out what is installed. The fake session is not here: no bundle is to be
measured by invented numbers.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from edge_vit.errors import SpecError
from edge_vit.plugins import Registry
from edge_vit.runtime.cpu import has_vnni
from edge_vit.runtime.options import SessionOptions

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """A runtime of models."""

    module: str  # that is imported when a session is opened
    package: str  # that it needs, or one of `others`
    help: str
    is_on_cpu: bool = True
    others: tuple[str, ...] = ()
    opener: str = "open_backend"  # ``(bundle, precision, options, progress) -> Session``

    @property
    def is_installed(self) -> bool:
        """Whether a package that it needs is installed; none is imported."""
        return any(_has_package(name) for name in (self.package, *self.others))


BACKENDS: Registry[Backend] = Registry(
    "backend",
    "edge_vit.backends",
    {
        "ort": Backend("edge_vit.runtime.ort", "onnxruntime", "ONNX Runtime"),
        "openvino": Backend("edge_vit.runtime.ov", "openvino", "OpenVINO on the CPU"),
        "trt": Backend(
            "edge_vit.runtime.trt.opening",
            "tensorrt",
            "TensorRT on a Jetson or another NVIDIA GPU",
            is_on_cpu=False,
            others=("tensorrt_lean", "tensorrt_dispatch"),
            opener="open_trt",
        ),
        "rtx": Backend(
            "edge_vit.runtime.trt.opening",
            "tensorrt_rtx",
            "TensorRT-RTX on a desktop GPU",
            is_on_cpu=False,
            opener="open_rtx",
        ),
    },
)
"""By the name that users type; other distributions add theirs by entry points, which name a
`Backend`, of the group `edge_vit.backends`."""

EVERYWHERE = "ort"  # the backend of `auto` where nothing faster is installed

_DEV = Path("/dev")
_GPU_NODES = ("nvidia[0-9]*", "nvgpu", "nvhost-gpu", "dxg")
"""Files of a driver in /dev: desktop, Jetson of JetPack 6 and before, WSL."""


def resolve_backend(name: str, options: SessionOptions) -> str:
    """Return the backend that is called `name`; ``auto`` stands for what suits `options` best."""
    if name != "auto" and name not in BACKENDS:
        raise SpecError(f"backend: got {name!r}, expected one of auto, {', '.join(BACKENDS)}")
    if options.provider == "cpu":
        if name != "auto":
            return name
        chosen = choose_backend()
        if BACKENDS[chosen].is_on_cpu and has_gpu():
            _log_idle_gpu(chosen)
        return chosen
    if name not in ("auto", EVERYWHERE):
        raise SpecError(
            f"provider: got {options.provider!r}, which is one of ONNX Runtime. "
            f"Leave --provider out, or take --backend {EVERYWHERE}"
        )
    return EVERYWHERE


def runs_on_cpu(name: str, options: SessionOptions) -> bool:
    """Return whether the backend `name` needs no GPU with these `options`."""
    return BACKENDS[name].is_on_cpu and options.provider == "cpu"


def available_backends(*, cpu_only: bool = False) -> tuple[str, ...]:
    """Return the names of the backends that work on this machine, the fastest first.

    OpenVINO is ahead of ONNX Runtime where it was measured to be: on x86 with VNNI. Elsewhere it
    comes after, which has INT8 kernels of its own for ARM and exact ones for older x86.
    """
    on_gpu = ("trt", "rtx") if has_gpu() and not cpu_only else ()
    order = ("openvino", "ort") if has_vnni() else ("ort", "openvino")
    return tuple(name for name in (*on_gpu, *order) if BACKENDS[name].is_installed)


def choose_backend(*, cpu_only: bool = False) -> str:
    """Return the backend that ``auto`` stands for here."""
    return next(iter(available_backends(cpu_only=cpu_only)), EVERYWHERE)


def has_gpu() -> bool:
    """Return whether an NVIDIA driver shows a GPU; CUDA would stay loaded, so it is not called."""
    if os.name == "nt":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32/nvcuda.dll").exists()
    return any(next(_DEV.glob(pattern), None) for pattern in _GPU_NODES)


@functools.cache
def _log_idle_gpu(chosen: str) -> None:
    """Log it once, not for every session of a command."""
    _LOG.info(
        "an NVIDIA GPU is here, and no TensorRT that this Python finds: %s runs the model on the "
        "CPU. See: edgevit doctor",
        chosen,
    )


def _has_package(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a parent, or an entry of sys.modules, that is None
        return False
