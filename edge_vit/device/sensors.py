"""Power rails, thermal zones, clocks, fans and signs of throttling, as files of the kernel.

A rail's power is its voltage times its current: INA3221 monitors on Orin and Thor, an INA238 for
the whole input of Thor (the kernel's hwmon documentation of ``ina3221`` and ``ina238``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device.trees import list_paths, read_number, read_text

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that carry all that the module (VIN: the board) draws, by NVIDIA's names."""

_PART_OF_ANOTHER = ("VDDQ_VDD2_1V8AO",)  # on AGX Orin the memory is fed from VIN_SYS_5V0
_SUM_CHANNEL = 7  # of an INA3221: the sum of its shunt voltages, no rail
_HOTTEST, _COLDEST = 200.0, -100.0  # °C; what lies outside is a sensor that is off
_GPU = re.compile(r"(^|[.-])(gpu|ga10b|gv11b|gp10b)($|-gpc)")
_EMC = re.compile(r"^bwmgr$|emc")
_DEVFREQ = ("cur_freq", "min_freq", "max_freq")
_CPUFREQ = ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq")


@dataclass(frozen=True)
class Rail:
    """The monitor and the channel of one power rail."""

    name: str
    folder: Path
    channel: int

    def read_w(self) -> float | None:
        """Return the power now, in watts; None where the sensor does not respond."""
        millivolts = read_number(self.folder / f"in{self.channel}_input")
        milliamps = read_number(self.folder / f"curr{self.channel}_input")
        if millivolts is not None and milliamps is not None:
            return millivolts * milliamps / 1e6
        microwatts = read_number(self.folder / f"power{self.channel}_input")
        return None if microwatts is None else microwatts / 1e6


@dataclass(frozen=True)
class Fan:
    """Speed that a fan is asked for, in percent, and its real speed; None if not known."""

    percent: float | None
    rpm: float | None


@dataclass(frozen=True)
class Clock:
    """One clock and the limits it has now, in MHz; None where the system does not tell."""

    name: str  # ``gpu``, ``emc`` (memory) or ``cpu0``, ``cpu4``: the first core of each cluster
    mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    is_locked: bool | None  # whether it may not change, as after ``jetson_clocks``


@dataclass(frozen=True)
class ClockFiles:
    """Files of one clock: now, lowest and highest; `per_mhz` of their units are a MHz."""

    name: str
    folder: Path
    files: tuple[str, str, str]
    per_mhz: float

    def read_mhz(self) -> float | None:
        """Return the rate now."""
        return self._mhz(self.files[0])

    def read(self) -> Clock:
        """Return the rate and its limits now."""
        now, lowest, highest = map(self._mhz, self.files)
        locked = read_number(self.folder / "mrq_rate_locked")  # the memory's own word for it
        is_locked = None if lowest is None or highest is None else lowest == highest
        return Clock(self.name, now, lowest, highest, is_locked if locked is None else locked == 1)

    def _mhz(self, name: str) -> float | None:
        value = read_number(self.folder / name)
        return None if value is None or value < 0 else value / self.per_mhz


def find_rails(root: Path) -> tuple[Rail, ...]:
    """Return the rails below `root`; unconnected channels and sums are left out."""
    rails = []
    for folder in list_paths(root / "sys/class/hwmon", "hwmon*"):
        chip = read_text(folder / "name")
        if chip == "ina238" and read_number(folder / "power1_input") is not None:
            rails.append(Rail("VIN", folder, 1))  # it has one channel, and no label
        if chip != "ina3221":
            continue
        for label in list_paths(folder, "in*_label"):
            name, channel = read_text(label), int(re.sub(r"\D", "", label.name) or 0)
            is_rail = name and "NC" not in name and channel != _SUM_CHANNEL
            if is_rail and list_paths(folder, f"curr{channel}_input"):
                rails.append(Rail(name, folder, channel))
    return tuple(rails)


def total_power(rails_w: Mapping[str, float | None]) -> tuple[float | None, str]:
    """Return the power of the machine in watts, and the rails that it is the sum of.

    None stands for a rail that does not respond: a sum without it would be too small, so there is
    none then.
    """
    for name in TOTAL_RAILS:
        if name in rails_w:
            return rails_w[name], name
    parts = {name: watts for name, watts in rails_w.items() if name not in _PART_OF_ANOTHER}
    known = [watts for watts in parts.values() if watts is not None]
    is_complete = len(known) == len(parts) > 0
    return (sum(known) if is_complete else None), " + ".join(parts)


def find_zones(root: Path) -> dict[str, Path]:
    """Return the files of the thermal zones below `root`, named without ``-thermal``."""
    return {
        name.removesuffix("-thermal").removesuffix("_thermal"): folder / "temp"
        for folder in list_paths(root / "sys/class/thermal", "thermal_zone*")
        if (name := read_text(folder / "type"))
    }


def read_celsius(path: Path) -> float | None:
    """Return the temperature of a zone, in °C; None where the sensor is off."""
    value = read_number(path)
    return None if value is None or not _COLDEST < value / 1e3 < _HOTTEST else value / 1e3


def find_alerts(root: Path) -> list[tuple[str, Path]]:
    """Return the cooling devices that slow a processor down; their state is over 0 when they do."""
    return [
        (name, folder / "cur_state")
        for folder in list_paths(root / "sys/class/thermal", "cooling_device*")
        if "throttle" in (name := read_text(folder / "type")).lower()
    ]


def find_event_counters(root: Path) -> tuple[Path, ...]:
    """Return the counters of throttling: over-current on a Jetson, heat on an x86 processor."""
    events = [
        path
        for folder in list_paths(root / "sys/class/hwmon", "hwmon*")
        for path in list_paths(folder, "oc*_event_cnt")
    ]
    cores = list_paths(root / "sys/devices/system/cpu", "cpu[0-9]*")
    events += [core / "thermal_throttle/core_throttle_count" for core in cores]
    return tuple(path for path in events if read_number(path) is not None)


def read_fan(root: Path) -> Fan | None:
    """Return the first fan below `root`; None where there is none."""

    def first(*names: str) -> float | None:
        values = (read_number(f / n) for n in names for f in folders)
        return next((value for value in values if value is not None), None)

    folders = list_paths(root / "sys/class/hwmon", "hwmon*")
    duty, rpm = first("pwm1"), first("rpm", "fan1_input")
    if duty is None and rpm is None:
        return None
    return Fan(None if duty is None else round(duty / 255 * 100, 1), rpm)


def find_clocks(root: Path) -> tuple[ClockFiles, ...]:
    """Return every clock below `root` that can be read, GPU first."""
    devices = list_paths(root / "sys/class/devfreq", "*")
    gpu = [ClockFiles("gpu", d, _DEVFREQ, 1e6) for d in devices if _GPU.search(d.name)]
    emc = [ClockFiles("emc", d, _DEVFREQ, 1e6) for d in devices if _EMC.search(d.name)]
    folder = root / "sys/kernel/debug/bpmp/debug/clk/emc"  # readable by root alone
    emc.append(ClockFiles("emc", folder, ("rate", "min_rate", "max_rate"), 1e6))
    cpus = [
        ClockFiles(f"cpu{policy.name.removeprefix('policy')}", policy, _CPUFREQ, 1e3)
        for policy in list_paths(root / "sys/devices/system/cpu/cpufreq", "policy*")
    ]
    found: dict[str, ClockFiles] = {}
    for clock in (*gpu, *emc, *cpus):
        if read_number(clock.folder / clock.files[0]) is not None:
            found.setdefault(clock.name, clock)
    return tuple(found.values())


def all_locked(clocks: Iterable[Clock]) -> bool | None:
    """Return whether no clock may change; None where that is not known."""
    states = {clock.is_locked for clock in clocks}
    if False in states:
        return False
    return None if None in states or not states else True
