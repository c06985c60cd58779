"""What is missing or in the way on a machine, each with the command that repairs it.

Nothing is changed here: the commands are for the person to read and run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_vit.device.facts import DeviceFacts, Memory
from edge_vit.device.jetson import PowerMode
from edge_vit.device.telemetry import Telemetry
from edge_vit.device.trees import list_paths, read_text

State = Literal["advice", "problem"]

OLDEST_L4T = 36
"""The first release with Python 3.10 and TensorRT 10: JetPack 6."""

BUILDER_GIB = 1.5
WEIGHTS_FACTOR = 5
"""A build holds the builder's libraries, and the weights about this many times: as parsed, as
converted, and for the kernels that are tried. An estimate, on the safe side."""

LEAST_DISK_GIB = 2.0
_GSTREAMER_CAMERA = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"


@dataclass(frozen=True)
class Finding:
    """Something to do.

    Attributes:
        state: ``problem`` where something cannot work, ``advice`` where it could be better.
        subject: what it is about, in one or two words.
        detail: what was found, and what was wanted.
        command: to type; "" where there is none.
    """

    state: State
    subject: str
    detail: str
    command: str = ""


def build_memory_gib(weight_bytes: int) -> float:
    """Return how much memory building an engine takes, about, for fp32 weights of that size."""
    return BUILDER_GIB + WEIGHTS_FACTOR * weight_bytes / 2**30


def examine_machine(
    root: Path, facts: DeviceFacts, reading: Telemetry, *, sees_tensorrt: bool
) -> list[Finding]:
    """Return what is to do about release, driver, TensorRT, power mode, clocks and heat.

    Args:
        root: where the machine's files begin.
        facts: of the machine.
        reading: of its sensors.
        sees_tensorrt: whether this Python finds a package ``tensorrt``.
    """
    found = [*_release(facts), *_driver(root, facts)]
    if facts.is_jetson:
        found += [*_tensorrt(facts, sees_tensorrt=sees_tensorrt), *_speed(facts)]
    return [*found, *_heat(reading)]


def examine_cuda(facts: DeviceFacts, bindings: str | None) -> list[Finding]:
    """Return what is to do so that Python speaks to the CUDA that is here."""
    major = (facts.cuda or facts.cuda_of_driver).partition(".")[0]
    if not facts.gpus or major not in ("12", "13"):
        return []
    command = f"pip install 'edge-vit[cuda{major}]'"
    if bindings is None:
        detail = f"CUDA {major} is here, the package to use it from Python is not"
        return [Finding("advice", "CUDA", detail, command)]
    if bindings.partition(".")[0] != major:
        detail = f"cuda-bindings {bindings} is for another CUDA than the {major} that is here"
        return [Finding("problem", "CUDA", detail, command)]
    return []


def examine_engines(facts: DeviceFacts, *, has_tensorrt: bool) -> list[Finding]:
    """Return what is to do so that a GPU that is not a Jetson's runs models."""
    if facts.is_jetson or not facts.gpus or has_tensorrt:
        return []
    detail = "a GPU is here and no TensorRT: models run on the CPU"
    return [Finding("advice", "TensorRT", detail, "pip install 'edge-vit[rtx]'")]


def examine_memory(memory: Memory, needed_gib: float, *, is_jetson: bool) -> list[Finding]:
    """Return what is to do so that building an engine, which takes `needed_gib`, has room."""
    free, swap = memory.free_gib, memory.swap_gib or 0
    if free is None or free >= needed_gib:
        return []
    detail = f"{free:.1f} GiB are free, building an engine takes about {needed_gib:.1f} GiB"
    if is_jetson and swap < 4:
        command = (
            "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile"
        )
        return [Finding("advice", "memory", f"{detail}; swap would help", command)]
    if is_jetson:
        desk = "sudo systemctl isolate multi-user.target"
        return [Finding("advice", "memory", f"{detail}; the desktop takes some of it", desk)]
    return [Finding("advice", "memory", f"{detail}; close other programs", "")]


def examine_folders(folders: Iterable[Path]) -> list[Finding]:
    """Return which of `folders` cannot be written, or have too little room."""
    found = []
    for folder in dict.fromkeys(folders):
        there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        if not os.access(there, os.W_OK | os.X_OK):
            command = f'sudo chown "$USER" {there}'
            found.append(Finding("problem", "folder", f"{there} cannot be written", command))
            continue
        free_gib = shutil.disk_usage(there).free / 2**30
        if free_gib < LEAST_DISK_GIB:
            detail = (
                f"{free_gib:.1f} GiB are left at {folder}, "
                f"engines and reports want {LEAST_DISK_GIB:g} GiB"
            )
            found.append(Finding("problem", "disk", detail, f"du -xh -d 2 {there} | sort -h"))
    return found


def examine_cameras(root: Path, facts: DeviceFacts, *, has_gstreamer: bool) -> list[Finding]:
    """Return what is to do so that cameras can be read."""
    found = []
    closed = [
        camera.path
        for camera in facts.cameras
        if not os.access(root / camera.path.lstrip("/"), os.R_OK | os.W_OK)
    ]
    if closed:
        detail = f"{', '.join(closed)}: this user may not open it"
        found.append(Finding("problem", "camera", detail, 'sudo usermod -aG video "$USER"'))
    if not facts.is_jetson:
        return found
    if not facts.cameras:
        detail = "no /dev/video*: a CSI camera has to be chosen once, then the board restarted"
        command = "sudo /opt/nvidia/jetson-io/jetson-io.py"
        found.append(Finding("advice", "camera", detail, command))
    if not has_gstreamer:
        detail = "csi:// needs gst-launch-1.0, which is not here"
        command = "sudo apt-get install gstreamer1.0-tools"
        found.append(Finding("advice", "camera", detail, command))
    elif not (root / _GSTREAMER_CAMERA).exists():
        detail = "csi:// needs GStreamer's nvarguscamerasrc, which is not here"
        command = "sudo apt-get install nvidia-l4t-gstreamer"
        found.append(Finding("advice", "camera", detail, command))
    return found


def fastest_mode(modes: Sequence[PowerMode]) -> PowerMode | None:
    """Return the mode without a power limit (``MAXN``), else that with the highest."""

    def rank(mode: PowerMode) -> tuple[bool, int]:
        watts = re.search(r"(\d+)\s*W\b", mode.name.replace("_", " "))
        return (mode.name.startswith("MAXN"), int(watts[1]) if watts else 0)

    return max(modes, key=rank, default=None)


def _release(facts: DeviceFacts) -> list[Finding]:
    if not facts.is_jetson:
        return []
    if not facts.l4t:
        detail = "/etc/nv_tegra_release is missing or says no release, so JetPack is not known"
        return [Finding("advice", "JetPack", detail, "cat /etc/nv_tegra_release")]
    if int(facts.l4t.split(".")[0]) < OLDEST_L4T:
        detail = f"Jetson Linux {facts.l4t} is too old, expected {OLDEST_L4T} or newer (JetPack 6)"
        return [Finding("problem", "JetPack", f"{detail}: install it with NVIDIA SDK Manager", "")]
    return []


def _driver(root: Path, facts: DeviceFacts) -> list[Finding]:
    is_nvidia = any(
        read_text(folder / "vendor") == "0x10de" and read_text(folder / "class").startswith("0x03")
        for folder in list_paths(root / "sys/bus/pci/devices", "*")
    )
    if is_nvidia and not facts.driver:
        detail = "an NVIDIA GPU is there, its driver is not"
        return [Finding("problem", "driver", detail, "sudo ubuntu-drivers install")]
    if facts.driver and not facts.is_jetson and not (facts.gpu and facts.gpu.compute_capability):
        detail = "the GPU's clocks, power and temperature are not known without NVML"
        return [Finding("advice", "NVML", detail, "pip install 'edge-vit[nvml]'")]
    return []


def _tensorrt(facts: DeviceFacts, *, sees_tensorrt: bool) -> list[Finding]:
    if not facts.tensorrt:
        command = "sudo apt-get install nvidia-jetpack"
        return [Finding("problem", "TensorRT", "JetPack's TensorRT is not installed", command)]
    if not sees_tensorrt:
        detail = (
            f"TensorRT {facts.tensorrt} is installed, but this Python does not see it: "
            "use the system's Python, or a virtual environment that sees its packages"
        )
        command = "python3 -m venv --system-site-packages .venv"
        return [Finding("problem", "TensorRT", detail, command)]
    return []


def _speed(facts: DeviceFacts) -> list[Finding]:
    found = []
    fastest = fastest_mode(facts.power_modes)
    if facts.power_mode and fastest and facts.power_mode.id != fastest.id:
        detail = f"power mode {facts.power_mode}; {fastest} is the fastest, it draws more"
        found.append(Finding("advice", "speed", detail, f"sudo nvpmodel -m {fastest.id}"))
    if facts.clocks_locked is False:
        detail = "clocks change with the load; lock them while you measure, --restore ends it"
        command = "sudo jetson_clocks --store && sudo jetson_clocks"
        found.append(Finding("advice", "clocks", detail, command))
    return found


def _heat(reading: Telemetry) -> list[Finding]:
    found = []
    if reading.throttling:
        hottest = max(reading.temperatures_c.values(), default=None)
        heat = f" at {hottest:.0f} °C" if hottest is not None else ""
        detail = f"slowed down right now{heat}: {', '.join(reading.throttling)}"
        found.append(Finding("advice", "throttling", f"{detail}; better cooling helps", ""))
    if reading.num_throttle_events:
        detail = f"slowed down {reading.num_throttle_events} times since it started"
        found.append(Finding("advice", "throttling", f"{detail}: look at supply and cooling", ""))
    return found
