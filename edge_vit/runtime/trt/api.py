"""The only file that imports TensorRT: any of its four packages, from 10.3 on, behind one adapter.

What a version can do is found by looking for the feature, never by its number. No name is touched
that a supported version lacks, and none that TensorRT 11 removed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal

from edge_vit.errors import BackendError, MissingDependencyError
from edge_vit.optional import require
from edge_vit.runtime.trt.listeners import Complaints, make_logger
from edge_vit.runtime.trt.loaded import LoadedEngine
from edge_vit.runtime.trt.network import ParsedNetwork, parse_network

TrtBackend = Literal["trt", "rtx"]

_PURPOSE = "running TensorRT engines"
_PACKAGES: Mapping[TrtBackend, Mapping[str, Callable[[], ModuleType]]] = {
    "trt": {
        "tensorrt": lambda: require("tensorrt", _PURPOSE),
        "tensorrt_lean": lambda: require("tensorrt_lean", _PURPOSE),
        "tensorrt_dispatch": lambda: require("tensorrt_dispatch", _PURPOSE),
    },
    "rtx": {"tensorrt_rtx": lambda: require("tensorrt_rtx", _PURPOSE)},
}
"""By backend, the packages that serve it, fullest first."""

_TARGET = re.compile(r"SM(\d+)")


class TrtApi:
    """One TensorRT package, such as ``tensorrt_lean``, ready to build or to run.

    It can build with a builder and a parser, which the lean and dispatch runtimes lack. `targets`
    are the compute capabilities that it builds for without having that GPU, such as ``sm_86``. A
    timing cache makes the next build quicker; RTX would only be forced to have a GPU by it. RTX
    alone keeps kernels that it compiled, and makes CUDA graphs by itself.
    """

    def __init__(self, backend: TrtBackend, module: Any) -> None:
        self.backend: TrtBackend = backend
        self.package: str = module.__name__
        self.version: str = module.__version__
        config = getattr(module, "IBuilderConfig", None)
        runtime_config = getattr(module, "IRuntimeConfig", None)
        has_targets = hasattr(config, "set_compute_capability")
        known = dir(module.ComputeCapability) if has_targets else ()
        digits = sorted((m[1] for m in map(_TARGET.fullmatch, known) if m), key=int)
        self.targets = tuple(f"sm_{number}" for number in digits)
        self.can_build = hasattr(module, "Builder") and hasattr(module, "OnnxParser")
        self.takes_timing_cache = backend == "trt" and hasattr(config, "set_timing_cache")
        self.has_runtime_cache = hasattr(runtime_config, "create_runtime_cache")
        self.captures_graphs = hasattr(runtime_config, "cuda_graph_strategy")
        self.complaints = Complaints()
        self._module = module
        self._logger = make_logger(module, self.complaints)

    @property
    def title(self) -> str:
        """Its name in messages, such as ``TensorRT 10.3.0``."""
        name = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}.get(self.package)
        return f"{name or self.package} {self.version}"

    def parse(self, onnx: bytes, path: str = "") -> ParsedNetwork:
        """Return the strongly typed network of the ONNX file `onnx`, or name the refused node.

        Weights that it does not hold lie beside its `path`. Needs a package that can build.
        """
        return parse_network(self._module, self._logger, self.complaints, self.title, onnx, path)

    def load(self, plan: bytes) -> LoadedEngine:
        """Return the engine in `plan`, which must be trusted: a plan can run code when it loads.

        Without a usable driver some versions crash the process here, so look for one first.
        """
        self.complaints.clear()
        runtime = self._module.Runtime(self._logger)
        native = None if runtime is None else runtime.deserialize_cuda_engine(plan)
        if native is None:
            raise BackendError(f"{self.title} cannot load this engine: {self.complaints.reason}")
        return LoadedEngine(self._module, self._logger, runtime, native, self.complaints)


def is_installed(backend: TrtBackend) -> bool:
    """Return whether a package of `backend` is there, without importing it."""
    return any(importlib.util.find_spec(name) is not None for name in _PACKAGES[backend])


def open_api(backend: TrtBackend) -> TrtApi:
    """Return the adapter of the fullest package of `backend` that is installed.

    One that cannot be loaded, as when a library of CUDA is missing, is a BackendError.
    """
    for name, load in _PACKAGES[backend].items():
        if importlib.util.find_spec(name) is None:
            continue
        try:
            return TrtApi(backend, load())
        except (ImportError, OSError) as error:
            raise BackendError(
                f"{name} is installed but cannot be loaded: {error}. Install it again, or see "
                "what this machine has: edgevit doctor"
            ) from error
    if backend == "rtx":
        raise MissingDependencyError(
            "TensorRT-RTX is not installed. Run: pip install 'edge-vit[rtx]'"
        )
    raise MissingDependencyError(
        "TensorRT is not installed. On a Jetson it comes with JetPack, and a virtual environment "
        "needs --system-site-packages to see it; on x86 run: pip install 'edge-vit[tensorrt]'"
    )
