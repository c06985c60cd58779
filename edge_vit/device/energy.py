"""Energy of a block of work: power sampled in the background and summed over time."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from edge_vit.device.telemetry import Telemetry

_LOG = logging.getLogger(__name__)
INTERVAL_S = 0.1


@dataclass(frozen=True)
class EnergyReport:
    """Cost of a block of work; None where the machine does not tell."""

    duration_s: float
    measured_s: float  # in which the power was known
    joules: float | None  # power over `measured_s`, by the trapezoid rule
    mean_w: float | None
    max_w: float | None
    power_source: str  # the rails that the power is the sum of
    temperatures_max_c: dict[str, float]  # of each zone
    throttling: tuple[str, ...]  # every reason that was seen while it ran
    num_throttle_events: int

    @property
    def was_throttled(self) -> bool:
        """Whether the machine was slowed down, so that its speed is not its best."""
        return bool(self.throttling) or self.num_throttle_events > 0


class EnergyTally:
    """Sum of readings as they come, in constant memory."""

    def __init__(self, first: Telemetry) -> None:
        self._first = self._last = first
        self._joules, self._measured_s, self._max_w = 0.0, 0.0, first.power_w
        self._hottest = dict(first.temperatures_c)
        self._throttling = dict.fromkeys(first.throttling)
        self._source = first.power_source

    def add(self, reading: Telemetry) -> None:
        """Count `reading`, which is later than all before."""
        before, now = self._last.power_w, reading.power_w
        if before is not None and now is not None:
            seconds = reading.at_s - self._last.at_s
            self._joules += (before + now) / 2 * seconds
            self._measured_s += seconds
        if now is not None:
            self._max_w = now if self._max_w is None else max(self._max_w, now)
        for name, value in reading.temperatures_c.items():
            self._hottest[name] = max(value, self._hottest.get(name, value))
        self._throttling.update(dict.fromkeys(reading.throttling))
        self._source = self._source or reading.power_source
        self._last = reading

    def interrupt(self) -> None:
        """Leave the time from the last reading to the next one unmeasured."""
        self._last = dataclasses.replace(self._last, power_w=None)

    def report(self) -> EnergyReport:
        """Return the sums so far."""
        first, last, measured = self._first, self._last, self._measured_s
        return EnergyReport(
            duration_s=last.at_s - first.at_s,
            measured_s=measured,
            joules=self._joules if measured > 0 else None,
            mean_w=self._joules / measured if measured > 0 else None,
            max_w=self._max_w,
            power_source=self._source,
            temperatures_max_c=self._hottest,
            throttling=tuple(self._throttling),
            num_throttle_events=max(0, last.num_throttle_events - first.num_throttle_events),
        )


class EnergyMeter:
    """Measures the block that it is the context manager of; `report` is set once it has ended."""

    report: EnergyReport

    def __init__(self, read: Callable[[], Telemetry], interval_s: float = INTERVAL_S) -> None:
        self._read, self._interval_s = read, interval_s
        self._stop = threading.Event()
        self._has_failed = False

    def __enter__(self) -> EnergyMeter:
        self._tally = EnergyTally(self._read())
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, name="energy-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._add_reading()
        self.report = self._tally.report()

    def _sample(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._add_reading()

    def _add_reading(self) -> None:
        try:
            self._tally.add(self._read())
        except Exception as error:
            if not self._has_failed:
                _LOG.warning("sensors cannot be read: %s: %s", type(error).__name__, error)
            self._has_failed = True
            self._tally.interrupt()
