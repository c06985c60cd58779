"""How much memory a build may take, from what is free now."""

from __future__ import annotations

import re
from pathlib import Path

from edge_vit.errors import SpecError
from edge_vit.runtime.trt.identity import Hardware

_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)

SHARE_OF_FREE = 0.5
"""Of the free memory; the rest is for weights, activations and the builder's own library."""

MIN_MEMORY_MIB = 16


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Return how much main memory can be had without swapping; None where it is not known."""
    try:
        found = _AVAILABLE.search(meminfo.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def workspace_bytes(
    hardware: Hardware, memory_mib: int | None, meminfo: Path = _MEMINFO
) -> int | None:
    """Return the limit of a build's workspace; None for TensorRT's own.

    A low limit excludes kernels that want more, it reserves nothing. On a Jetson GPU and CPU share
    one memory, so that what Linux calls available counts.

    Args:
        hardware: the GPU that the builder times kernels on; without one there is no limit.
        memory_mib: what the user says.
        meminfo: Linux's own account.
    """
    if memory_mib is not None:
        if memory_mib < MIN_MEMORY_MIB:
            raise SpecError(f"memory: got {memory_mib} MiB, expected at least {MIN_MEMORY_MIB}")
        return memory_mib << 20
    if not hardware.is_here:
        return None
    free = available_bytes(meminfo) if hardware.is_integrated else hardware.free_bytes
    return int(free * SHARE_OF_FREE) if free else None
