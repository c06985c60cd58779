"""NVIDIA's management library, for GPUs on a desk: the only file that knows its names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GPU_SENSOR, _SM_CLOCK, _MEMORY_CLOCK = 0, 1, 2  # of nvml.h, as all below
_REASONS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",  # before version 12
)
_SLOWED = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""Reasons that mean less speed than the clocks that are allowed; idling is none of them."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, with its compute capability such as ``8.9``; "" or None for what is not known."""

    name: str
    compute_capability: str = ""
    memory_gib: float | None = None


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment; None where it does not tell."""

    power_w: float | None
    temperature_c: float | None
    clock_mhz: float | None
    memory_clock_mhz: float | None
    throttling: tuple[str, ...]


class Nvml:
    """NVML, opened; whatever a GPU does not support is None or ""."""

    def __init__(self, library: Any) -> None:
        self._library = library
        count = self._call("nvmlDeviceGetCount") or 0
        handles = [self._call("nvmlDeviceGetHandleByIndex", index) for index in range(count)]
        self._handles = [handle for handle in handles if handle is not None]

    def driver(self) -> str:
        """Return the version of the driver."""
        return _text(self._call("nvmlSystemGetDriverVersion"))

    def cuda(self) -> str:
        """Return the newest CUDA that the driver runs, such as ``12.6``."""
        version = self._call("nvmlSystemGetCudaDriverVersion")
        return f"{version // 1000}.{version % 1000 // 10}" if version else ""

    def gpus(self) -> tuple[Gpu, ...]:
        """Return every GPU."""
        return tuple(self._gpu(handle) for handle in self._handles)

    def read(self, index: int = 0) -> GpuReading | None:
        """Return a reading of the GPU `index`; None where there is no such GPU."""
        if index >= len(self._handles):
            return None
        handle = self._handles[index]
        milliwatts = self._number("nvmlDeviceGetPowerUsage", handle)
        reasons = (self._call(name, handle) for name in _REASONS)
        bits = next((found for found in reasons if found is not None), 0)
        return GpuReading(
            power_w=None if milliwatts is None else milliwatts / 1e3,
            temperature_c=self._number("nvmlDeviceGetTemperature", handle, _GPU_SENSOR),
            clock_mhz=self._number("nvmlDeviceGetClockInfo", handle, _SM_CLOCK),
            memory_clock_mhz=self._number("nvmlDeviceGetClockInfo", handle, _MEMORY_CLOCK),
            throttling=tuple(word for bit, word in _SLOWED.items() if bits & bit),
        )

    def _gpu(self, handle: Any) -> Gpu:
        pair = self._call("nvmlDeviceGetCudaComputeCapability", handle)
        memory = self._call("nvmlDeviceGetMemoryInfo", handle)
        return Gpu(
            name=_text(self._call("nvmlDeviceGetName", handle)),
            compute_capability=f"{pair[0]}.{pair[1]}" if pair else "",
            memory_gib=None if memory is None else round(memory.total / 2**30, 2),
        )

    def _number(self, function: str, *arguments: Any) -> float | None:
        value = self._call(function, *arguments)
        return float(value) if isinstance(value, int | float) else None

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call `function`; None where this GPU or this version of the library has none."""
        try:
            return getattr(self._library, function)(*arguments)
        except (self._library.NVMLError, AttributeError):
            return None


@contextlib.contextmanager
def open_nvml(root: Path) -> Iterator[Nvml | None]:
    """Open NVML for the time of a block; None without driver or package, or below another root."""
    library = _load() if root == Path("/") else None
    if library is None:
        yield None
        return
    try:
        yield Nvml(library)
    finally:
        with contextlib.suppress(library.NVMLError):
            library.nvmlShutdown()


def _load() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""
