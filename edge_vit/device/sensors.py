"""Power rails, thermal zones, fans and signs of throttling, where the kernel shows them.

A rail's power is its voltage times its current: INA3221 monitors on Orin and Thor, an INA238 for
the whole input of Thor (the kernel's hwmon documentation of ``ina3221`` and ``ina238``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device.trees import list_paths, read_number, read_text

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that carry all that the module (VIN: the board) draws, by NVIDIA's names."""

_MONITORS = ("ina3221", "ina238")
_PART_OF_ANOTHER = ("VDDQ_VDD2_1V8AO",)  # on AGX Orin the memory is fed from VIN_SYS_5V0
_SUM_CHANNEL = 7  # of an INA3221: the sum of its shunt voltages, no rail
_HOTTEST, _COLDEST = 200.0, -100.0  # °C; what lies outside is a sensor that is off


@dataclass(frozen=True)
class Rail:
    """Where the power of one rail is read."""

    name: str
    folder: Path
    channel: int

    def read_w(self) -> float | None:
        """Return the power now, in watts; None where the sensor does not answer."""
        millivolts = read_number(self.folder / f"in{self.channel}_input")
        milliamps = read_number(self.folder / f"curr{self.channel}_input")
        if millivolts is not None and milliamps is not None:
            return millivolts * milliamps / 1e6
        microwatts = read_number(self.folder / f"power{self.channel}_input")
        return None if microwatts is None else microwatts / 1e6


@dataclass(frozen=True)
class Zone:
    """Where one temperature is read."""

    name: str
    path: Path

    def read_c(self) -> float | None:
        """Return the temperature now, in °C; None where the sensor is off."""
        value = read_number(self.path)
        return None if value is None or not _COLDEST < value / 1e3 < _HOTTEST else value / 1e3


@dataclass(frozen=True)
class Fan:
    """How fast a fan is asked to turn, in percent, and how fast it turns; None if not known."""

    percent: float | None
    rpm: float | None


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

    Args:
        rails_w: by name; None for one that does not answer: a sum without it would be too small,
            so there is none then.
    """
    for name in TOTAL_RAILS:
        if name in rails_w:
            return rails_w[name], name
    parts = {name: watts for name, watts in rails_w.items() if name not in _PART_OF_ANOTHER}
    known = [watts for watts in parts.values() if watts is not None]
    is_complete = len(known) == len(parts) > 0
    return (sum(known) if is_complete else None), " + ".join(parts)


def find_zones(root: Path) -> tuple[Zone, ...]:
    """Return the thermal zones below `root`, named without ``-thermal``."""
    return tuple(
        Zone(name.removesuffix("-thermal").removesuffix("_thermal"), folder / "temp")
        for folder in list_paths(root / "sys/class/thermal", "thermal_zone*")
        if (name := read_text(folder / "type"))
    )


def find_alerts(root: Path) -> tuple[Zone, ...]:
    """Return the cooling devices that slow a processor down: their state is over 0 when they do."""
    return tuple(
        Zone(name, folder / "cur_state")
        for folder in list_paths(root / "sys/class/thermal", "cooling_device*")
        if "throttle" in (name := read_text(folder / "type")).lower()
    )


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
    folders = list_paths(root / "sys/class/hwmon", "hwmon*")
    duty = [v for f in folders if (v := read_number(f / "pwm1")) is not None]
    speeds = [
        value
        for folder in folders
        for name in ("rpm", "fan1_input")
        if (value := read_number(folder / name)) is not None
    ]
    if not duty and not speeds:
        return None
    return Fan(
        round(duty[0] / 255 * 100, 1) if duty else None,
        speeds[0] if speeds else None,
    )
