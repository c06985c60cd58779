"""Faults of a machine's set-up, each with the command that repairs it.

Nothing is changed here: the commands are for the person to read and run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from edge_vit.device.facts import DeviceFacts
from edge_vit.device.jetson import PowerMode
from edge_vit.device.telemetry import Telemetry
from edge_vit.device.trees import list_paths, read_text

State = Literal["advice", "problem"]

OLDEST_L4T = 36  # the first release with Python 3.10 and TensorRT 10: JetPack 6

BUILDER_GIB = 1.5
WEIGHTS_FACTOR = 5
"""A build holds the weights about this many times: as parsed, as converted, and for the kernels
that are tried. An estimate, on the safe side."""

LEAST_DISK_GIB = 2.0
_GSTREAMER_CAMERA = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"


@dataclass(frozen=True)
class Finding:
    """A ``problem`` where something cannot work, or ``advice`` where it could be better."""

    state: State
    subject: str
    detail: str
    command: str = ""


_advice, _problem = partial(Finding, "advice"), partial(Finding, "problem")


def build_memory_gib(weight_bytes: int) -> float:
    """Return how much memory building an engine takes, about, for fp32 weights of that size."""
    return BUILDER_GIB + WEIGHTS_FACTOR * weight_bytes / 2**30


def examine_machine(
    root: Path, facts: DeviceFacts, reading: Telemetry, *, sees_tensorrt: bool
) -> Iterator[Finding]:
    """Yield what is to do about release, driver, TensorRT, power mode, clocks and heat.

    `sees_tensorrt` is whether this Python finds a package ``tensorrt``.
    """
    if facts.is_jetson:
        yield from _release(facts)
    yield from _driver(root, facts)
    if facts.is_jetson:
        yield from _tensorrt(facts, sees_tensorrt=sees_tensorrt)
        yield from _speed(facts)
    yield from _heat(reading)


def examine_cuda(facts: DeviceFacts, runtime: str) -> Iterator[Finding]:
    """Yield what is to do so that sessions find a CUDA `runtime`, such as ``13.0``; "" for none."""
    major = (facts.cuda or facts.cuda_of_driver).partition(".")[0]
    if not facts.gpus or major not in ("12", "13"):
        return
    command = f"pip install 'edge-vit[cuda{major}]'"
    if not runtime:
        yield _advice("CUDA", f"CUDA {major} is here, its runtime library is not found", command)
    elif int(runtime.partition(".")[0]) > int(major):
        detail = f"the CUDA runtime {runtime} that is found is too new for the CUDA {major} here"
        yield _problem("CUDA", detail, command)


def examine_engines(facts: DeviceFacts, *, has_tensorrt: bool) -> Iterator[Finding]:
    """Yield what is to do so that a GPU that is not a Jetson's runs models."""
    if not facts.is_jetson and facts.gpus and not has_tensorrt:
        detail = "a GPU is here and no TensorRT: models run on the CPU"
        yield _advice("TensorRT", detail, "pip install 'edge-vit[rtx]'")


def examine_memory(facts: DeviceFacts, needed_gib: float) -> Iterator[Finding]:
    """Yield what is to do so that building an engine, which takes `needed_gib`, has room."""
    free, swap = facts.memory.free_gib, facts.memory.swap_gib or 0
    if free is None or free >= needed_gib:
        return
    remedy, command = "close other programs", ""
    if facts.is_jetson and swap < 4:
        remedy = "swap would help"
        command = (
            "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile"
        )
    elif facts.is_jetson:
        remedy = "the desktop takes some of it"
        command = "sudo systemctl isolate multi-user.target"
    detail = f"{free:.1f} GiB are free, building an engine takes about {needed_gib:.1f} GiB"
    yield _advice("memory", f"{detail}; {remedy}", command)


def examine_folders(folders: Iterable[Path]) -> Iterator[Finding]:
    """Yield which of `folders` cannot be written, or have too little room."""
    for folder in dict.fromkeys(folders):
        there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        if not os.access(there, os.W_OK | os.X_OK):
            yield _problem("folder", f"{there} cannot be written", f'sudo chown "$USER" {there}')
        elif (free_gib := shutil.disk_usage(there).free / 2**30) < LEAST_DISK_GIB:
            detail = (
                f"{free_gib:.1f} GiB are left at {folder}, "
                f"engines and reports want {LEAST_DISK_GIB:g} GiB"
            )
            yield _problem("disk", detail, f"du -xh -d 2 {there} | sort -h")


def examine_cameras(root: Path, facts: DeviceFacts, *, has_gstreamer: bool) -> Iterator[Finding]:
    """Yield what is to do so that cameras can be read."""
    closed = [
        camera.path
        for camera in facts.cameras
        if not os.access(root / camera.path.lstrip("/"), os.R_OK | os.W_OK)
    ]
    if closed:
        detail = f"{', '.join(closed)}: this user may not open it"
        yield _problem("camera", detail, 'sudo usermod -aG video "$USER"')
    if facts.is_jetson and not facts.cameras:
        detail = "no /dev/video*: a CSI camera has to be chosen once, then the board restarted"
        yield _advice("camera", detail, "sudo /opt/nvidia/jetson-io/jetson-io.py")
    if facts.is_jetson and not has_gstreamer:
        detail = "csi:// needs gst-launch-1.0, which is not here"
        yield _advice("camera", detail, "sudo apt-get install gstreamer1.0-tools")
    elif facts.is_jetson and not (root / _GSTREAMER_CAMERA).exists():
        detail = "csi:// needs GStreamer's nvarguscamerasrc, which is not here"
        yield _advice("camera", detail, "sudo apt-get install nvidia-l4t-gstreamer")


def fastest_mode(modes: Sequence[PowerMode]) -> PowerMode | None:
    """Return the mode without a power limit (``MAXN``), else that with the highest."""

    def rank(mode: PowerMode) -> tuple[bool, int]:
        watts = re.search(r"(\d+)\s*W\b", mode.name.replace("_", " "))
        return (mode.name.startswith("MAXN"), int(watts[1]) if watts else 0)

    return max(modes, key=rank, default=None)


def _release(facts: DeviceFacts) -> Iterator[Finding]:
    if not facts.l4t:
        detail = "/etc/nv_tegra_release is missing or says no release, so JetPack is not known"
        yield _advice("JetPack", detail, "cat /etc/nv_tegra_release")
    elif int(facts.l4t.split(".")[0]) < OLDEST_L4T:
        detail = f"Jetson Linux {facts.l4t} is too old, expected {OLDEST_L4T} or newer (JetPack 6)"
        yield _problem("JetPack", f"{detail}: install it with NVIDIA SDK Manager")


def _driver(root: Path, facts: DeviceFacts) -> Iterator[Finding]:
    is_nvidia = any(
        read_text(folder / "vendor") == "0x10de" and read_text(folder / "class").startswith("0x03")
        for folder in list_paths(root / "sys/bus/pci/devices", "*")
    )
    if is_nvidia and not facts.driver:
        detail = "an NVIDIA GPU is there, its driver is not"
        yield _problem("driver", detail, "sudo ubuntu-drivers install")
    elif facts.driver and not facts.is_jetson and not (facts.gpu and facts.gpu.compute_capability):
        detail = "the GPU's clocks, power and temperature are not known without NVML"
        yield _advice("NVML", detail, "pip install 'edge-vit[nvml]'")


def _tensorrt(facts: DeviceFacts, *, sees_tensorrt: bool) -> Iterator[Finding]:
    if not facts.tensorrt:
        detail = "JetPack's TensorRT is not installed"
        yield _problem("TensorRT", detail, "sudo apt-get install nvidia-jetpack")
    elif not sees_tensorrt:
        detail = (
            f"TensorRT {facts.tensorrt} is installed, but this Python does not see it: "
            "use the system's Python, or a virtual environment that sees its packages"
        )
        yield _problem("TensorRT", detail, "python3 -m venv --system-site-packages .venv")


def _speed(facts: DeviceFacts) -> Iterator[Finding]:
    fastest = fastest_mode(facts.power_modes)
    if facts.power_mode and fastest and facts.power_mode.id != fastest.id:
        detail = f"power mode {facts.power_mode}; {fastest} is the fastest, it draws more"
        yield _advice("speed", detail, f"sudo nvpmodel -m {fastest.id}")
    if facts.clocks_locked is False:
        detail = "clocks change with the load; lock them while you measure, --restore ends it"
        yield _advice("clocks", detail, "sudo jetson_clocks --store && sudo jetson_clocks")


def _heat(reading: Telemetry) -> Iterator[Finding]:
    if reading.throttling:
        hottest = max(reading.temperatures_c.values(), default=None)
        heat = f" at {hottest:.0f} °C" if hottest is not None else ""
        detail = f"slowed down right now{heat}: {', '.join(reading.throttling)}"
        yield _advice("throttling", f"{detail}; better cooling helps")
    if reading.num_throttle_events:
        detail = f"slowed down {reading.num_throttle_events} times since it started"
        yield _advice("throttling", f"{detail}: look at supply and cooling")
