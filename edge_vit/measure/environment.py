"""The machine and the packages of a measurement, read without starting any process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from edge_vit.measure.results import Environment
from edge_vit.runtime.session import num_cores

INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
)
"""Those that decide how fast INT8 is against float32, as Linux names them."""

PACKAGES = (
    "edge-vit",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "torch",
    "timm",
    "torchvision",
    "transformers",
)

_CPU_INFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")  # what a Jetson or another board calls itself


def read_environment() -> Environment:
    """Return the conditions here and now; a fact that the system does not tell is empty or 0."""
    facts = _read_cpu_info(_CPU_INFO)
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    board = _read_text(_BOARD).strip("\0\n ")
    return Environment(
        device=facts.get("model name") or board or platform.machine(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        num_cores=num_cores(),
        memory_gib=round(_memory_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_package_versions(),
    )


def _read_cpu_info(path: Path) -> dict[str, str]:
    """The facts of the first core, by Linux's names; empty where there is no such file."""
    first_core = _read_text(path).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0


def _package_versions() -> dict[str, str]:
    """Version of each of `PACKAGES` that is installed; edge-vit may run from its source tree."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions.setdefault("edge-vit", "source tree")
    return versions
