"""Processor time that Linux's control groups grant this process, and how often they stopped it.

Version 2 has both in ``cpu.max`` and ``cpu.stat``, version 1 in ``cpu.cfs_quota_us`` and
``cpu.stat``: see "CPU Interface Files" in the kernel's admin-guide/cgroup-v2, and sched-bwc.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


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
