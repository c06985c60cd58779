"""Which GPU there is, and in plain words why there is none."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edge_vit.errors import BackendError, SpecError
from edge_vit.runtime.cudart.checked import (
    MIXED_DRIVER,
    NO_DEVICE,
    NO_DRIVER,
    SUCCESS,
    CheckedCalls,
)

ON_THE_CPU = "To run on the CPU: --backend ort"
"""How messages end that are about a missing driver or GPU."""


class _Attribute(enum.IntEnum):
    """cudaDeviceAttr."""

    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76
    MANAGED_MEMORY = 83
    CONCURRENT_MANAGED_ACCESS = 89


@dataclass(frozen=True)
class GpuFacts:
    """What a session has to know of a GPU.

    Attributes:
        index: CUDA's number of it.
        name: as the driver calls it.
        compute_capability: (major, minor), such as (8, 7) for Orin.
        is_integrated: whether GPU and CPU share one memory, as on a Jetson.
        can_map: whether the GPU can read and write pinned host memory.
        has_managed: whether memory can be managed.
        has_concurrent_managed: whether the CPU may touch managed memory while the GPU works.
        driver: newest CUDA version that the driver knows, (major, minor).
        runtime: CUDA version of the runtime library, (major, minor).
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    is_integrated: bool
    can_map: bool
    has_managed: bool
    has_concurrent_managed: bool
    driver: tuple[int, int]
    runtime: tuple[int, int]


def check_device(checked: CheckedCalls) -> None:
    """Refuse a machine without a driver that works, or without that GPU."""
    status, count = checked.status("cudaGetDeviceCount")
    if int(status) in NO_DRIVER:
        raise BackendError(_driver_text(checked, checked.error_name(status)))
    if int(status) in MIXED_DRIVER:
        raise BackendError(
            "the NVIDIA driver in the kernel and its library are of different versions "
            f"(cudaGetDeviceCount: {checked.error_name(status)}). Restart this machine"
        )
    if int(status) == NO_DEVICE or (int(status) == SUCCESS and not count):
        raise BackendError(
            "the NVIDIA driver sees no GPU. Does nvidia-smi list it, or is it hidden by "
            f"CUDA_VISIBLE_DEVICES? {ON_THE_CPU}"
        )
    if int(status) != SUCCESS:
        raise checked.failure("cudaGetDeviceCount", status)
    if not 0 <= checked.device < count:
        raise SpecError(f"device: got {checked.device}, expected 0 to {count - 1}")


def read_facts(checked: CheckedCalls) -> GpuFacts:
    """Return what the GPU is."""

    def read(attribute: _Attribute) -> int:
        return int(checked.call("cudaDeviceGetAttribute", attribute, checked.device)[0])

    name = checked.call("cudaGetDeviceProperties", checked.device)[0].name
    driver, runtime = _versions(checked)
    return GpuFacts(
        index=checked.device,
        name=name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name),
        compute_capability=(
            read(_Attribute.COMPUTE_CAPABILITY_MAJOR),
            read(_Attribute.COMPUTE_CAPABILITY_MINOR),
        ),
        is_integrated=bool(read(_Attribute.INTEGRATED)),
        can_map=bool(read(_Attribute.CAN_MAP_HOST_MEMORY)),
        has_managed=bool(read(_Attribute.MANAGED_MEMORY)),
        has_concurrent_managed=bool(read(_Attribute.CONCURRENT_MANAGED_ACCESS)),
        driver=driver,
        runtime=runtime,
    )


def _driver_text(checked: CheckedCalls, error: str) -> str:
    driver, runtime = _versions(checked)
    if driver == (0, 0):
        return f"this machine has no NVIDIA driver (cudaGetDeviceCount: {error}). {ON_THE_CPU}"
    knows, wanted = (".".join(map(str, version)) for version in (driver, runtime))
    return (
        f"the NVIDIA driver knows CUDA {knows}, the CUDA runtime is {wanted} "
        f"(cudaGetDeviceCount: {error}). Update the driver, or take the runtime that fits it: "
        f"pip install 'edge-vit[cuda{driver[0]}]'"
    )


def _versions(checked: CheckedCalls) -> tuple[tuple[int, int], tuple[int, int]]:
    """(major, minor) of driver and runtime, (0, 0) where there is none."""
    numbers = (
        int(checked.status(name)[1] or 0)
        for name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion")
    )
    driver, runtime = ((number // 1000, number % 1000 // 10) for number in numbers)
    return driver, runtime
