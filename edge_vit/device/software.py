"""Versions of driver, CUDA and TensorRT on this machine, from files: nothing is loaded or run."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from edge_vit.device.trees import list_paths, read_text

_DRIVER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d+\.[\d.]+)")
_LIBRARY_FOLDERS = (
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/local/tensorrt/lib",
)


def read_driver(root: Path) -> str:
    """Return the version of NVIDIA's kernel driver; "" where there is none."""
    found = _DRIVER.search(read_text(root / "proc/driver/nvidia/version"))
    return found[1] if found else read_text(root / "sys/module/nvidia/version")


def read_cuda(root: Path) -> str:
    """Return the version of the CUDA toolkit in ``/usr/local/cuda``; "" where there is none."""
    text = read_text(root / "usr/local/cuda/version.json")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(text)["cuda"]["version"])
    return ""


def read_tensorrt(root: Path) -> str:
    """Return the version of the system's TensorRT library; "" where there is none."""
    for folder in _LIBRARY_FOLDERS:
        for path in reversed(list_paths(root / folder, "libnvinfer.so.*")):
            version = path.name.removeprefix("libnvinfer.so.")
            if version.count(".") >= 2:
                return version
    return ""


def read_jetpack_package(root: Path) -> str:
    """Return the version of the package ``nvidia-jetpack``; "" where it is not installed."""
    try:
        status = (root / "var/lib/dpkg/status").read_bytes()
    except OSError:
        return ""
    start = status.find(b"\nPackage: nvidia-jetpack\n")
    if start < 0:
        return ""
    entry = status[start + 1 :].partition(b"\n\n")[0].decode(errors="replace")
    found = re.search(r"^Version: ([\d.]+)", entry, re.MULTILINE)
    return found[1] if found and "\nStatus: install ok installed" in entry else ""


def read_gpu_names(root: Path) -> tuple[str, ...]:
    """Return the GPUs that the kernel driver lists, for machines without NVML."""
    found = (
        re.search(r"^Model:\s*(.+)$", read_text(path), re.MULTILINE)
        for path in list_paths(root / "proc/driver/nvidia/gpus", "*/information")
    )
    return tuple(match[1].strip() for match in found if match)
