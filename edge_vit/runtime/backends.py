"""The backends there are, and which of them `auto` takes on this machine.

Nothing is imported to find out what is installed. The fake session is not here: no bundle is to be
measured by invented numbers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edge_vit.errors import SpecError
from edge_vit.runtime.cpu import has_vnni


@dataclass(frozen=True)
class Backend:
    """What runs a model.

    Attributes:
        module: imported when a session is opened; has
            ``open_backend(bundle, precision, options) -> Session``.
        package: that the module needs beyond numpy.
        help: what it is, in a few words.
        is_on_cpu: whether it never uses a GPU.
    """

    module: str
    package: str
    help: str
    is_on_cpu: bool = True

    @property
    def is_installed(self) -> bool:
        """Whether its package is there; it is not imported."""
        return _has_package(self.package)


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "ort": Backend("edge_vit.runtime.ort", "onnxruntime", "ONNX Runtime"),
        "openvino": Backend("edge_vit.runtime.ov", "openvino", "OpenVINO on the CPU"),
    }
)
"""By the name that users type."""

CPU_BACKENDS = frozenset({"fake", *(n for n, backend in BACKENDS.items() if backend.is_on_cpu)})
"""Those where FP16 is no gain, so that INT8 has to beat fp32."""

EVERYWHERE = "ort"
"""What `auto` takes where nothing faster is installed, and names where nothing is."""


def find_backend(name: str) -> Backend:
    """Return the backend that is called `name`; ``auto`` stands for `choose_backend`.

    Raises:
        SpecError: there is none.
    """
    if name == "auto":
        return BACKENDS[choose_backend()]
    if name not in BACKENDS:
        raise SpecError(f"backend: got {name!r}, expected one of auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that this machine can run, the fastest first.

    OpenVINO is ahead where it was measured to be: on x86 with VNNI. Elsewhere it comes after ONNX
    Runtime, which has INT8 kernels of its own for ARM and exact ones for older x86.
    """
    order = ("openvino", "ort") if has_vnni() else ("ort", "openvino")
    return tuple(name for name in order if BACKENDS[name].is_installed)


def choose_backend() -> str:
    """Return what ``auto`` takes here."""
    return next(iter(available_backends()), EVERYWHERE)


def _has_package(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a parent, or an entry of sys.modules, that is None
        return False
