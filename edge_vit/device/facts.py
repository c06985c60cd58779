"""Facts of this machine, as one frozen value; versions are read from files, nothing is loaded."""

from __future__ import annotations

import contextlib
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device import jetson
from edge_vit.device.nvml import Gpu, Nvml, open_nvml
from edge_vit.device.sensors import Clock, Fan, all_locked, find_clocks, read_fan
from edge_vit.device.trees import list_paths, parse_number, read_text

ROOT = Path("/")

_DRIVER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d+\.[\d.]+)")
_LIBRARY_FOLDERS = (
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/local/tensorrt/lib",
)


@dataclass(frozen=True)
class Memory:
    """Memory in GiB, shared with the GPU on a Jetson; `free_gib` may be taken without swapping."""

    total_gib: float | None
    free_gib: float | None
    swap_gib: float | None


@dataclass(frozen=True)
class Camera:
    """A camera's device file and its driver's name for it."""

    path: str
    name: str


@dataclass(frozen=True)
class DeviceFacts:
    """Facts of this machine; "", None or () for what it does not tell."""

    model: str  # the board or the processor in words
    module: str  # NVIDIA's number of a Jetson module, such as ``p3767-0005``
    soc: str  # such as ``tegra234``; "" on machines that are no Jetson
    l4t: str  # release of Jetson Linux, such as ``36.4.3``
    jetpack: str
    gpus: tuple[Gpu, ...]
    driver: str  # version of NVIDIA's kernel driver
    cuda: str  # version of the toolkit
    cuda_of_driver: str  # the newest that the driver runs, where NVML knows it
    tensorrt: str  # version of the system's library
    python: str
    power_mode: jetson.PowerMode | None
    power_modes: tuple[jetson.PowerMode, ...]
    clocks: tuple[Clock, ...]
    clocks_locked: bool | None
    memory: Memory
    cameras: tuple[Camera, ...]
    fan: Fan | None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson."""
        return bool(self.soc)

    @property
    def gpu(self) -> Gpu | None:
        """The first GPU."""
        return self.gpus[0] if self.gpus else None


def read_device(root: Path = ROOT, nvml: Nvml | None = None) -> DeviceFacts:
    """Return the facts of the machine whose file tree begins at `root`.

    Without `nvml` the installed one is opened, where `root` is ``/``.
    """
    if nvml is None:
        with open_nvml(root) as opened:
            return _read(root, opened)
    return _read(root, nvml)


def _read(root: Path, nvml: Nvml | None) -> DeviceFacts:
    model, module, soc = jetson.read_board(root)
    names = [path.name for path in list_paths(root / "dev", "video[0-9]*")]
    videos = root / "sys/class/video4linux"
    gpu = nvml.read() if nvml else None
    clocks = tuple(files.read() for files in find_clocks(root))
    if gpu and gpu.clock_mhz is not None and "gpu" not in {clock.name for clock in clocks}:
        clocks = (Clock("gpu", gpu.clock_mhz, None, None, None), *clocks)
    return DeviceFacts(
        model=model or _processor(root),
        module=module,
        soc=soc,
        l4t=jetson.read_l4t(root),
        jetpack=jetson.read_jetpack(root),
        gpus=_gpus(root, nvml, soc),
        driver=_driver(root) or (nvml.driver() if nvml else ""),
        cuda=_cuda(root),
        cuda_of_driver=nvml.cuda() if nvml else "",
        tensorrt=_tensorrt(root),
        python=platform.python_version(),
        power_mode=jetson.read_power_mode(root),
        power_modes=jetson.read_power_modes(root),
        clocks=clocks,
        clocks_locked=all_locked(clocks),
        memory=read_memory(root),
        cameras=tuple(Camera(f"/dev/{name}", read_text(videos / name / "name")) for name in names),
        fan=read_fan(root),
    )


def read_memory(root: Path = ROOT) -> Memory:
    """Return how much memory there is below `root`, and how much of it is free."""
    lines = (line.partition(":") for line in read_text(root / "proc/meminfo").splitlines())
    values = {name: parse_number(value.replace("kB", "")) for name, _, value in lines}

    def gib(name: str) -> float | None:
        kib = values.get(name)
        return None if kib is None or kib < 0 else round(kib / 2**20, 2)

    return Memory(gib("MemTotal"), gib("MemAvailable"), gib("SwapTotal"))


def _gpus(root: Path, nvml: Nvml | None, soc: str) -> tuple[Gpu, ...]:
    if nvml and (gpus := nvml.gpus()):
        return gpus
    if soc in jetson.CAPABILITIES:
        return (Gpu(f"{soc} GPU", compute_capability=jetson.CAPABILITIES[soc]),)
    listed = (
        re.search(r"^Model:\s*(.+)$", read_text(path), re.MULTILINE)
        for path in list_paths(root / "proc/driver/nvidia/gpus", "*/information")
    )
    return tuple(Gpu(found[1].strip()) for found in listed if found)


def _processor(root: Path) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    if found:
        return found[1].strip()
    return platform.machine() if root == ROOT else ""


def _driver(root: Path) -> str:
    found = _DRIVER.search(read_text(root / "proc/driver/nvidia/version"))
    return found[1] if found else read_text(root / "sys/module/nvidia/version")


def _cuda(root: Path) -> str:
    text = read_text(root / "usr/local/cuda/version.json")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(text)["cuda"]["version"])
    return ""


def _tensorrt(root: Path) -> str:
    for folder in _LIBRARY_FOLDERS:
        for path in reversed(list_paths(root / folder, "libnvinfer.so.*")):
            version = path.name.removeprefix("libnvinfer.so.")
            if version.count(".") >= 2:
                return version
    return ""
