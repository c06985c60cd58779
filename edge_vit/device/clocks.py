"""Clock rates of GPU, memory (EMC) and CPU, and whether they are locked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device.trees import list_paths, read_number

_GPU = re.compile(r"(^|[.-])(gpu|ga10b|gv11b|gp10b)($|-gpc)")
_EMC = re.compile(r"^bwmgr$|emc")


@dataclass(frozen=True)
class Clock:
    """One clock, in MHz; None where the system does not tell.

    Attributes:
        name: ``gpu``, ``emc`` or ``cpu0``, ``cpu4``: the first core of each cluster.
        mhz: now.
        min_mhz: the lowest that is allowed at the moment.
        max_mhz: the highest that is allowed at the moment.
        is_locked: whether it may not change, as after ``jetson_clocks``.
    """

    name: str
    mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    is_locked: bool | None


@dataclass(frozen=True)
class ClockFiles:
    """Where one clock is read: a folder, its files, and how many of their units are a MHz."""

    name: str
    folder: Path
    now: str
    lowest: str
    highest: str
    per_mhz: float

    def read_mhz(self) -> float | None:
        """Return the rate now."""
        return self._mhz(self.now)

    def read(self) -> Clock:
        """Return the rate and its limits now."""
        lowest, highest = self._mhz(self.lowest), self._mhz(self.highest)
        locked = read_number(self.folder / "mrq_rate_locked")  # the memory's own word for it
        is_locked = None if lowest is None or highest is None else lowest == highest
        return Clock(
            self.name,
            self.read_mhz(),
            lowest,
            highest,
            is_locked if locked is None else locked == 1,
        )

    def _mhz(self, name: str) -> float | None:
        value = read_number(self.folder / name)
        return None if value is None or value < 0 else value / self.per_mhz


def find_clocks(root: Path) -> tuple[ClockFiles, ...]:
    """Return every clock below `root` that can be read, GPU first."""
    return (*_find_gpu(root), *_find_emc(root), *_find_cpus(root))


def all_locked(clocks: Iterable[Clock]) -> bool | None:
    """Whether no clock may change; None where that is not known."""
    states = {clock.is_locked for clock in clocks}
    if False in states:
        return False
    return None if None in states or not states else True


def _find_gpu(root: Path) -> list[ClockFiles]:
    return _from_devfreq(root, "gpu", lambda name: bool(_GPU.search(name)))


def _find_emc(root: Path) -> list[ClockFiles]:
    found = _from_devfreq(root, "emc", lambda name: bool(_EMC.search(name)))
    folder = root / "sys/kernel/debug/bpmp/debug/clk/emc"  # readable by root alone
    if not found and read_number(folder / "rate") is not None:
        found = [ClockFiles("emc", folder, "rate", "min_rate", "max_rate", 1e6)]
    return found


def _find_cpus(root: Path) -> list[ClockFiles]:
    policies = list_paths(root / "sys/devices/system/cpu/cpufreq", "policy*")
    names = ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq")
    return [
        ClockFiles(f"cpu{policy.name.removeprefix('policy')}", policy, *names, 1e3)
        for policy in policies
        if read_number(policy / names[0]) is not None
    ]


def _from_devfreq(root: Path, name: str, is_it: Callable[[str], bool]) -> list[ClockFiles]:
    """The first folder of ``devfreq`` whose name fits and that has a rate."""
    return [
        ClockFiles(name, folder, "cur_freq", "min_freq", "max_freq", 1e6)
        for folder in list_paths(root / "sys/class/devfreq", "*")
        if is_it(folder.name) and read_number(folder / "cur_freq") is not None
    ][:1]
