"""The machine and the packages of a measurement, read without starting any process."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edge_vit.device import read_device
from edge_vit.device.trees import read_text
from edge_vit.measure.results import Environment
from edge_vit.optional import installed_versions
from edge_vit.runtime.cpu import instruction_sets, read_cpu_info
from edge_vit.runtime.session import num_cores

PACKAGES = (
    *("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("tensorrt-rtx-cu13", "onnx", "onnx-ir", "onnxscript", "torch", "timm", "torchvision"),
    "transformers",
)

_BOARD = Path("/proc/device-tree/model")  # what a Jetson or another board calls itself


def read_environment() -> Environment:
    """Return the conditions here and now; a fact that the system does not tell is empty or 0."""
    facts = read_device()
    return Environment(
        device=read_cpu_info().get("model name") or read_text(_BOARD) or platform.machine(),
        instruction_sets=instruction_sets(),
        num_cores=num_cores(),
        memory_gib=round(_memory_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=installed_versions(*PACKAGES),
        gpu=facts.gpu.name if facts.gpu else "",
        compute_capability=facts.gpu.compute_capability if facts.gpu else "",
        driver=facts.driver,
        cuda=facts.cuda or facts.cuda_of_driver,
        tensorrt=facts.tensorrt,
        l4t=facts.l4t,
        power_mode=str(facts.power_mode or ""),
        clocks_locked=facts.clocks_locked,
    )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0
