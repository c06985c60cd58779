"""What Linux says of this process's processor: instruction sets, and the time that groups grant.

Version 2 of control groups has quota and throttling in ``cpu.max`` and ``cpu.stat``, version 1 in
``cpu.cfs_quota_us`` and ``cpu.stat``: see "CPU Interface Files" in the kernel's
admin-guide/cgroup-v2, and sched-bwc. On other systems nothing is known.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_vit.formats.int8 import VNNI

INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("asimddp", "i8mm"),
)
"""Those that decide how fast INT8 is against float32, as Linux names them."""

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPU_INFO = Path("/proc/cpuinfo")
_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def read_cpu_info() -> dict[str, str]:
    """Return the facts of the first core, by Linux's names; empty where it does not tell."""
    first_core = _read(_CPU_INFO).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def instruction_sets() -> tuple[str, ...]:
    """Return those of `INSTRUCTION_SETS` that the processor has."""
    facts = read_cpu_info()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def capabilities() -> frozenset[str]:
    """Return those capabilities that `edge_vit.formats.Variant.needs` names."""
    return frozenset({VNNI} if has_vnni() else ())


@functools.cache
def has_vnni() -> bool:
    """Return whether an x86 processor adds products of uint8 and int8 in 32 bits.

    Without it ONNX Runtime's fastest kernels add pairs of them in 16 bits, which saturates.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and bool(
        _VNNI.intersection(instruction_sets())
    )


@dataclass(frozen=True)
class Throttling:
    """Periods in which a quota was used up, and seconds for which threads were stopped."""

    count: int = 0
    seconds: float = 0.0

    def since(self, earlier: Throttling) -> Throttling:
        """Return what was added after `earlier`."""
        return Throttling(
            max(0, self.count - earlier.count), max(0.0, self.seconds - earlier.seconds)
        )


def cpu_quota() -> float | None:
    """Return how many cores' time the groups grant, the tightest counts; None for no limit."""
    quotas = []
    for folder in _folders():
        granted, _, period = _read(folder / "cpu.max").partition(" ")
        granted = granted or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        whole = [int(each) for each in (granted, period) if each.isdigit()]
        if len(whole) == 2 and all(whole):  # neither ``max`` nor -1, nor 0 as of some sandboxes
            quotas.append(whole[0] / whole[1])
    return min(quotas, default=None)


def read_throttling() -> Throttling:
    """Return how often this process was stopped so far; nothing where the system does not tell."""
    count, seconds = 0, 0.0
    for folder in _folders():
        words = _read(folder / "cpu.stat").split()
        stat = {k: int(v) for k, v in zip(words[::2], words[1::2], strict=False) if v.isdigit()}
        count += stat.get("nr_throttled", 0)
        seconds += stat.get("throttled_usec", 0) / 1e6  # version 2
        seconds += stat.get("throttled_time", 0) / 1e9  # version 1
    return Throttling(count, seconds)


def _folders() -> Iterator[Path]:
    """The folder of each group that this process is in and that rules processor time."""
    seen: set[Path] = set()
    for line in _read(_GROUPS_OF_PROCESS).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's: then the mount itself is its group.
        inner = PurePosixPath(path.lstrip("/"))
        groups = [inner, *inner.parents] if ".." not in inner.parts else [PurePosixPath()]
        for mount in (controllers, "cpu") if controllers else ("", "unified"):
            for group in groups:
                folder = _MOUNT / mount / group
                if folder not in seen and folder.is_dir():
                    seen.add(folder)
                    yield folder


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
