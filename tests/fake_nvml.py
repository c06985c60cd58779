"""NVML as a desktop has it: a module with the library's names, and a GPU that tells this much."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """What the library raises."""


class FakeNvml:
    """Stands in for ``pynvml``; what is not in `answers` is not supported.

    Args:
        answers: by name of the function, without ``nvml``.
    """

    NVMLError = NVMLError

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def ask(*arguments: Any) -> Any:
            assert self.is_open
            try:
                answer = self.answers[name.removeprefix("nvml")]
            except KeyError:
                raise NVMLError("Not Supported") from None
            return answer(*arguments) if callable(answer) else answer

        return ask


def rtx_4090(**others: Any) -> FakeNvml:
    """A GPU at work."""
    answers: dict[str, Any] = {
        "DeviceGetCount": 1,
        "DeviceGetHandleByIndex": lambda index: f"gpu{index}",
        "SystemGetDriverVersion": b"550.54.15",
        "SystemGetCudaDriverVersion": 12040,
        "DeviceGetName": "NVIDIA GeForce RTX 4090",
        "DeviceGetUUID": "GPU-1234",
        "DeviceGetCudaComputeCapability": (8, 9),
        "DeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30, free=20 * 2**30),
        "DeviceGetPowerUsage": 320500,
        "DeviceGetTemperature": lambda handle, sensor: 71,
        "DeviceGetClockInfo": lambda handle, kind: {1: 2520, 2: 10501}[kind],
        "DeviceGetFanSpeed": 55,
        "DeviceGetCurrentClocksEventReasons": 0x1 | 0x4 | 0x40,
    }
    return FakeNvml(**(answers | others))
