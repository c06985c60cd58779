"""Processor time that Linux's control groups grant this process, and how often they stopped it.

Version 2 says both in ``cpu.max`` and ``cpu.stat``, version 1 in ``cpu.cfs_quota_us`` and
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
    """How often a quota stopped this process's groups so far.

    Attributes:
        count: periods in which the quota was used up.
        seconds: for which threads were stopped, all together.
    """

    count: int = 0
    seconds: float = 0.0

    def since(self, earlier: Throttling) -> Throttling:
        """Return what was added after `earlier`."""
        return Throttling(
            max(0, self.count - earlier.count), max(0.0, self.seconds - earlier.seconds)
        )


def cpu_quota() -> float | None:
    """Return how many cores' time the groups grant, the tightest counts; None for no limit."""
    quotas = [quota for folder in _folders() if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def read_throttling() -> Throttling:
    """Return how often this process was stopped so far; nothing where the system does not tell."""
    count, seconds = 0, 0.0
    for folder in _folders():
        stat = dict(
            line.split(maxsplit=1)
            for line in _read(folder / "cpu.stat").splitlines()
            if " " in line
        )
        count += _whole(stat.get("nr_throttled"))
        seconds += _whole(stat.get("throttled_usec")) / 1e6  # version 2
        seconds += _whole(stat.get("throttled_time")) / 1e9  # version 1
    return Throttling(count, seconds)


def _folders() -> Iterator[Path]:
    """The folder of each group that this process is in and that rules processor time."""
    seen: set[Path] = set()
    for line in _read(_GROUPS_OF_PROCESS).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [_MOUNT, _MOUNT / "unified"] if not controllers else [_MOUNT / controllers]
        if controllers and controllers != "cpu":
            mounts.append(_MOUNT / "cpu")
        # In a container the path may be the host's: then the mount itself is its group.
        inner = PurePosixPath(path.lstrip("/"))
        groups = [inner, *inner.parents] if ".." not in inner.parts else [PurePosixPath()]
        for mount in mounts:
            for group in groups:
                folder = mount / group
                if folder not in seen and folder.is_dir():
                    seen.add(folder)
                    yield folder


def _quota_of(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    granted, of = _whole(quota), _whole(period)
    return granted / of if granted > 0 and of > 0 else None


def _whole(text: str | None) -> int:
    """The whole number that `text` is; 0 for ``max`` and anything else."""
    try:
        return int(text or 0)
    except ValueError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
