"""CUDA's functions with their status checked: a failure is one line that names the call."""

from __future__ import annotations

from typing import Any

from edge_vit.errors import BackendError, DeviceLostError, EdgeVitError

SUCCESS, OUT_OF_MEMORY, NO_DEVICE = 0, 2, 100
NO_DRIVER = frozenset({34, 35})  # a stub in its place; missing or too old
MIXED_DRIVER = frozenset({803, 804})  # kernel module and library do not fit

_STICKY = frozenset({46, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 911, 999})
"""Errors after which the context answers nothing else: illegal address, launch failure, ECC, lost
device and the like. NVIDIA's own advice is to end the process."""


class GpuMemoryError(BackendError):
    """There is less GPU or pinned memory than was wanted."""


class CheckedCalls:
    """CUDA's runtime functions, each called by its own name.

    Args:
        calls: has the functions; each returns its status, then its results:
            `cuda.bindings.runtime`, or what `load_cudart` returns.
        device: number of the GPU, for messages.

    Attributes:
        is_lost: whether an error left nothing to be done but to end the process.
    """

    def __init__(self, calls: Any, device: int) -> None:
        self._calls = calls
        self.device = device
        self.is_lost = False

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Return the results of the function `name`.

        Raises:
            DeviceLostError: it failed, and so will all that follow.
            BackendError: it failed.
        """
        status, *results = getattr(self._calls, name)(*arguments)
        if int(status) != SUCCESS:
            raise self.failure(name, status)
        return tuple(results)

    def status(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Return status and results of the function `name`, for callers that expect a failure."""
        status, *results = getattr(self._calls, name)(*arguments)
        return (status, *results)

    def allocate(self, name: str, num_bytes: int, *arguments: Any) -> int:
        """Return the pointer of `num_bytes` that the function `name` allocates."""
        status, *results = getattr(self._calls, name)(num_bytes, *arguments)
        if int(status) == OUT_OF_MEMORY:
            self._calls.cudaGetLastError()
            raise GpuMemoryError(
                f"{name} of {num_bytes / 2**20:.1f} MiB on GPU {self.device}: "
                f"{self.error_name(status)}{self._free_text()}. "
                "Use a smaller batch, or end what else uses the GPU"
            )
        if int(status) != SUCCESS:
            raise self.failure(name, status)
        return int(results[0])

    def release(self, name: str, handle: int) -> None:
        """Free `handle` by the function `name`; a lost GPU has freed all."""
        if not self.is_lost:
            self.call(name, handle)

    def take_error(self) -> str:
        """Return the name of this thread's last error and forget it; empty where there is none."""
        status = self._calls.cudaGetLastError()[0]
        if int(status) in _STICKY:
            raise self.failure("cudaGetLastError", status)
        return "" if int(status) == SUCCESS else self.error_name(status)

    def failure(self, name: str, status: Any) -> EdgeVitError:
        """Return the error of a function `name` that ended with `status`, which is forgotten."""
        if int(status) in _STICKY:
            self.is_lost = True
            return DeviceLostError(
                f"{name} on GPU {self.device}: {self.error_name(status)}. The GPU is lost to this "
                "process: start it again, and look at: sudo dmesg | grep -i -e nvrm -e xid"
            )
        self._calls.cudaGetLastError()
        return BackendError(f"{name} on GPU {self.device}: {self.error_name(status)}")

    def error_name(self, status: Any) -> str:
        """Return CUDA's own name of `status`."""
        text = self._calls.cudaGetErrorName(status)[1]
        return text.decode() if isinstance(text, bytes) else str(text)

    def _free_text(self) -> str:
        status, free, total = self._calls.cudaMemGetInfo()
        if int(status) != SUCCESS:
            return ""
        return f", {int(free) / 2**20:.0f} of {int(total) / 2**20:.0f} MiB are free"
