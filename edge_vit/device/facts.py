"""What this machine is, as one frozen value."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device.clocks import Clock, all_locked, find_clocks
from edge_vit.device.jetson import (
    CAPABILITIES,
    PowerMode,
    jetpack_of,
    read_board,
    read_l4t,
    read_power_mode,
    read_power_modes,
)
from edge_vit.device.nvml import Gpu, Nvml, open_nvml
from edge_vit.device.sensors import Fan, read_fan
from edge_vit.device.software import (
    read_cuda,
    read_driver,
    read_gpu_names,
    read_jetpack_package,
    read_tensorrt,
)
from edge_vit.device.trees import list_paths, parse_number, read_text

ROOT = Path("/")


@dataclass(frozen=True)
class Memory:
    """Memory in GiB, shared with the GPU on a Jetson; `free_gib` may be taken without swapping."""

    total_gib: float | None
    free_gib: float | None
    swap_gib: float | None


@dataclass(frozen=True)
class Camera:
    """A camera's device file and what its driver calls it."""

    path: str
    name: str


@dataclass(frozen=True)
class DeviceFacts:
    """What this machine is; "" , None or () for what it does not tell.

    Attributes:
        model: the board or the processor in words.
        module: NVIDIA's number of a Jetson module, such as ``p3767-0005``.
        soc: such as ``tegra234``; "" on machines that are no Jetson.
        l4t: release of Jetson Linux, such as ``36.4.3``.
        jetpack: such as ``6.2``.
        gpus: one for the GPU in a Jetson, and each that NVML or the driver lists.
        driver: version of NVIDIA's kernel driver.
        cuda: version of the CUDA toolkit.
        cuda_of_driver: the newest CUDA that the driver runs, where NVML knows it.
        tensorrt: version of the system's TensorRT library.
        clocks_locked: whether no clock may change; None where that is not known.
    """

    model: str
    module: str
    soc: str
    l4t: str
    jetpack: str
    gpus: tuple[Gpu, ...]
    driver: str
    cuda: str
    cuda_of_driver: str
    tensorrt: str
    python: str
    power_mode: PowerMode | None
    power_modes: tuple[PowerMode, ...]
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
    """Return what the machine is whose file tree begins at `root`.

    Args:
        root: ``/``, or a copy of the files of another machine.
        nvml: for GPUs on a desk; None opens the installed one when `root` is ``/``.
    """
    if nvml is None:
        with open_nvml(root) as opened:
            return _read(root, opened)
    return _read(root, nvml)


def _read(root: Path, nvml: Nvml | None) -> DeviceFacts:
    board, l4t = read_board(root), read_l4t(root)
    gpu = nvml.read() if nvml else None
    clocks = tuple(files.read() for files in find_clocks(root))
    if gpu and gpu.clock_mhz is not None and "gpu" not in {clock.name for clock in clocks}:
        clocks = (Clock("gpu", gpu.clock_mhz, None, None, None), *clocks)
    return DeviceFacts(
        model=board.model or _processor(root),
        module=board.module,
        soc=board.soc,
        l4t=l4t,
        jetpack=read_jetpack_package(root) or jetpack_of(l4t),
        gpus=_gpus(root, nvml, board.soc),
        driver=read_driver(root) or (nvml.driver() if nvml else ""),
        cuda=read_cuda(root),
        cuda_of_driver=nvml.cuda() if nvml else "",
        tensorrt=read_tensorrt(root),
        python=platform.python_version(),
        power_mode=read_power_mode(root),
        power_modes=read_power_modes(root),
        clocks=clocks,
        clocks_locked=all_locked(clocks),
        memory=read_memory(root),
        cameras=read_cameras(root),
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


def read_cameras(root: Path = ROOT) -> tuple[Camera, ...]:
    """Return the video devices below `root`."""
    return tuple(
        Camera(f"/dev/{path.name}", read_text(root / "sys/class/video4linux" / path.name / "name"))
        for path in list_paths(root / "dev", "video[0-9]*")
    )


def _gpus(root: Path, nvml: Nvml | None, soc: str) -> tuple[Gpu, ...]:
    if nvml and (gpus := nvml.gpus()):
        return gpus
    if soc in CAPABILITIES:
        return (Gpu(f"{soc} GPU", "", CAPABILITIES[soc], None, None),)
    return tuple(Gpu(name, "", "", None, None) for name in read_gpu_names(root))


def _processor(root: Path) -> str:
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine() if root == ROOT else ""
