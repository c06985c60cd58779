"""One reading of a machine: its power, temperatures, clocks and signs of throttling."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device import sensors
from edge_vit.device.facts import ROOT
from edge_vit.device.nvml import Nvml, open_nvml
from edge_vit.device.trees import read_number

GPU_ON_A_DESK = "gpu (NVML)"


@dataclass(frozen=True)
class Telemetry:
    """One reading; what is not known is None or left out."""

    at_s: float  # of a monotonic clock
    power_w: float | None  # of a Jetson's module or board, on a desk of the GPU alone
    power_source: str  # the rails that it is the sum of
    rails_w: dict[str, float]
    temperatures_c: dict[str, float]
    clocks_mhz: dict[str, float]
    throttling: tuple[str, ...]  # reasons for which it is slowed down right now
    num_throttle_events: int


class TelemetryReader:
    """Finds the sensors below `root` once; each reading takes about a millisecond."""

    def __init__(
        self,
        root: Path = ROOT,
        nvml: Nvml | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml, self._clock = nvml, clock
        self._rails, self._zones = sensors.find_rails(root), sensors.find_zones(root)
        self._clocks, self._alerts = sensors.find_clocks(root), sensors.find_alerts(root)
        self._counters = sensors.find_event_counters(root)

    def read(self) -> Telemetry:
        """Return a reading of all sensors."""
        watts = {rail.name: rail.read_w() for rail in self._rails}
        power, source = sensors.total_power(watts)
        celsius = {name: sensors.read_celsius(path) for name, path in self._zones.items()}
        clocks = {files.name: files.read_mhz() for files in self._clocks}
        slowed = [name for name, path in self._alerts if (read_number(path) or 0) > 0]
        gpu = self._nvml.read() if self._nvml else None
        if gpu is not None:
            for values, name, value in (
                (watts, GPU_ON_A_DESK, gpu.power_w),
                (celsius, "gpu", gpu.temperature_c),
                (clocks, "gpu", gpu.clock_mhz),
                (clocks, "gpu memory", gpu.memory_clock_mhz),
            ):
                if values.get(name) is None:
                    values[name] = value
            slowed += gpu.throttling
            if not self._rails and gpu.power_w is not None:
                power, source = gpu.power_w, GPU_ON_A_DESK
        return Telemetry(
            at_s=self._clock(),
            power_w=power,
            power_source=source,
            rails_w=_known(watts),
            temperatures_c=_known(celsius),
            clocks_mhz=_known(clocks),
            throttling=tuple(slowed),
            num_throttle_events=int(sum(read_number(path) or 0 for path in self._counters)),
        )


@contextlib.contextmanager
def open_telemetry(root: Path = ROOT) -> Iterator[TelemetryReader]:
    """Give a reader of this machine, with NVML where it is there, for the time of a block."""
    with open_nvml(root) as nvml:
        yield TelemetryReader(root, nvml)


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
