"""What a machine draws, how warm it is and how fast it runs, at one moment."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device.clocks import find_clocks
from edge_vit.device.facts import ROOT
from edge_vit.device.nvml import GpuReading, Nvml, open_nvml
from edge_vit.device.sensors import (
    find_alerts,
    find_event_counters,
    find_rails,
    find_zones,
    total_power,
)
from edge_vit.device.trees import read_number

GPU_ON_A_DESK = "gpu (NVML)"


@dataclass(frozen=True)
class Telemetry:
    """One reading; what the machine does not tell is None or left out.

    Attributes:
        at_s: when, on a clock that only runs forward.
        power_w: of the module or board of a Jetson; on a desk of the GPU alone.
        power_source: which rails `power_w` is the sum of; "" where there is no power.
        rails_w: watts of each rail.
        temperatures_c: °C of each thermal zone.
        clocks_mhz: of GPU, memory (``emc``) and CPU clusters.
        throttling: what slows the machine down right now, by name.
        num_throttle_events: how often it was slowed down since it started.
    """

    at_s: float
    power_w: float | None
    power_source: str
    rails_w: dict[str, float]
    temperatures_c: dict[str, float]
    clocks_mhz: dict[str, float]
    throttling: tuple[str, ...]
    num_throttle_events: int


class TelemetryReader:
    """Finds the sensors below `root` once, then reads them as often as asked, in a millisecond."""

    def __init__(
        self,
        root: Path = ROOT,
        nvml: Nvml | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml, self._clock = nvml, clock
        self._rails, self._zones = find_rails(root), find_zones(root)
        self._clocks, self._alerts = find_clocks(root), find_alerts(root)
        self._counters = find_event_counters(root)

    def read(self) -> Telemetry:
        """Return what the sensors say now."""
        gpu = self._nvml.read() if self._nvml else None
        answers = {rail.name: rail.read_w() for rail in self._rails}
        power, source = total_power(answers)
        rails = {name: watts for name, watts in answers.items() if watts is not None}
        temperatures = {zone.name: c for zone in self._zones if (c := zone.read_c()) is not None}
        clocks = {
            files.name: mhz for files in self._clocks if (mhz := files.read_mhz()) is not None
        }
        slowed = [alert.name for alert in self._alerts if (read_number(alert.path) or 0) > 0]
        if gpu is not None:
            _add_gpu(gpu, rails, temperatures, clocks)
            slowed += gpu.throttling
            if not self._rails and gpu.power_w is not None:
                power, source = gpu.power_w, GPU_ON_A_DESK
        return Telemetry(
            at_s=self._clock(),
            power_w=power,
            power_source=source,
            rails_w=rails,
            temperatures_c=temperatures,
            clocks_mhz=clocks,
            throttling=tuple(slowed),
            num_throttle_events=int(sum(read_number(path) or 0 for path in self._counters)),
        )


@contextlib.contextmanager
def open_telemetry(root: Path = ROOT) -> Iterator[TelemetryReader]:
    """Give a reader of this machine, NVML included where it is there, for the time of a block."""
    with open_nvml(root) as nvml:
        yield TelemetryReader(root, nvml)


def _add_gpu(
    gpu: GpuReading,
    rails: dict[str, float],
    temperatures: dict[str, float],
    clocks: dict[str, float],
) -> None:
    """Put what NVML says beside what the files say."""
    for values, name, value in (
        (rails, GPU_ON_A_DESK, gpu.power_w),
        (temperatures, "gpu", gpu.temperature_c),
        (clocks, "gpu", gpu.clock_mhz),
        (clocks, "gpu memory", gpu.memory_clock_mhz),
    ):
        if value is not None:
            values.setdefault(name, value)
