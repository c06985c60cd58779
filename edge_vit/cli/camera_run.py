"""Running a camera loop from the command line: signals, the summary, the way out."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.summary import CameraSummary, summary_lines
from edge_vit.cli.group import INTERRUPTED, Failure
from edge_vit.cli.output import write_json
from edge_vit.device import EnergyMeter, EnergyReport, open_telemetry
from edge_vit.errors import EdgeVitError
from edge_vit.measure.environment import read_environment

_LOG = logging.getLogger(__name__)
_ENERGY_INTERVAL_S = 1.0
_LEAST_MEASURED = 0.95  # of the time; below it joules per answer would be too few
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def run_loop(loop: CameraLoop, signals: Signals, report_path: Path | None) -> None:
    """Run the loop, and tell how it went, however it ended."""
    failure: EdgeVitError | None = None
    with open_telemetry() as telemetry, EnergyMeter(telemetry.read, _ENERGY_INTERVAL_S) as meter:
        try:
            loop.run()
        except EdgeVitError as error:
            failure = error
    summary = loop.summary()
    for line in (*summary_lines(summary), *_energy_lines(meter.report, summary)):
        _LOG.info("%s", line)
    if report_path is not None:
        _write_report(report_path, summary, meter.report)
    end: Failure | EdgeVitError | None = failure
    if signals.number == signal.SIGINT:
        end = Failure("interrupted", INTERRUPTED)
    if loop.is_stuck:
        # A thread hangs in a driver, or in a pipe without a reader: Python would wait for it, and
        # so would flushing stdout. Sinks flush what they print.
        _LOG.warning("leaving a thread behind that does not end")
        if isinstance(end, EdgeVitError):
            end = Failure(str(end), end.exit_status)
        if end is not None:
            end.show()
        sys.stderr.flush()
        os._exit(end.exit_code if end else 0)
    if end is not None:
        raise end


class Signals:
    """While open, SIGINT and SIGTERM stop the loop; before there is one, they end the command.

    Attributes:
        number: of the signal that came; 0 for none.
        stop_loop: what to call then.
    """

    def __init__(self) -> None:
        self.number = 0
        self.stop_loop: Callable[[], None] | None = None

    def __enter__(self) -> Signals:
        self._earlier = {number: signal.getsignal(number) for number in _STOPPING}
        for number in _STOPPING:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """Stop the loop, if there is one, as nothing is left to do for it."""
        if self.stop_loop is not None:
            threading.Thread(target=self.stop_loop, daemon=True).start()

    def _handle(self, number: int, frame: object) -> None:
        if self.stop_loop is None:
            if number == signal.SIGTERM:
                raise SystemExit(0)  # no Exception: loading the model would catch that
            raise KeyboardInterrupt
        self.number = self.number or number
        # Not here: the main thread may hold the very lock that stopping needs.
        threading.Thread(target=self.stop_loop, daemon=True).start()


def _joules_per_answer(energy: EnergyReport, summary: CameraSummary) -> float | None:
    """Joules over the answers; None where too little of the time was measured."""
    is_whole = energy.measured_s >= _LEAST_MEASURED * energy.duration_s
    if energy.joules is None or not is_whole or not summary.counts.answered:
        return None
    return energy.joules / summary.counts.answered


def _energy_lines(energy: EnergyReport, summary: CameraSummary) -> list[str]:
    """What the run drew, and whether the machine was slowed down; [] where it does not tell."""
    lines = []
    joules = _joules_per_answer(energy, summary)
    if joules is not None:
        lines.append(
            f"energy: {1000 * joules:.0f} mJ per answer, idling included; {energy.mean_w:.1f} W "
            f"on average, {energy.max_w:.1f} W at most ({energy.power_source})"
        )
    if energy.was_throttled:
        why = ", ".join(energy.throttling) or "over-current or heat"
        lines.append(f"the machine was slowed down while it ran: {why}. Look at edgevit doctor")
    return lines


def _write_report(path: Path, summary: CameraSummary, energy: EnergyReport) -> None:
    """Write `summary`, with the machine that it was taken on and what that drew."""
    report = {
        "kind": "camera",
        "format": 1,
        "summary": summary,
        "energy": energy,
        "joules_per_answer": _joules_per_answer(energy, summary),
        "was_throttled": energy.was_throttled,
        "environment": read_environment(),
    }
    write_json(report, path)
