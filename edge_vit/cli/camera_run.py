"""Running a camera loop from the command line: signals, the summary, the way out."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click

from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.summary import CameraSummary
from edge_vit.camera.wording import summary_lines
from edge_vit.cli.group import INTERRUPTED, Failure
from edge_vit.errors import EdgeVitError
from edge_vit.files import write_atomically
from edge_vit.measure.environment import read_environment
from edge_vit.values import to_json

_LOG = logging.getLogger(__name__)
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def run_loop(loop: CameraLoop, signals: Signals, report_path: Path | None) -> None:
    """Run the loop, and tell how it went, however it ended."""
    failure: EdgeVitError | None = None
    try:
        loop.run()
    except EdgeVitError as error:
        failure = error
    summary = loop.summary()
    for line in summary_lines(summary):
        _LOG.info("%s", line)
    if report_path is not None:
        _write_report(report_path, summary)
    status = failure.exit_status if failure else 0
    if signals.number == signal.SIGINT:
        status = INTERRUPTED
    if loop.is_stuck:
        # A thread hangs in a driver, or in a pipe that nobody reads: Python would wait for it, and
        # so would flushing stdout. Sinks flush what they print.
        _LOG.warning("leaving a thread behind that does not end")
        if failure is not None:
            Failure(str(failure), status).show()
        sys.stderr.flush()
        os._exit(status)
    if status == INTERRUPTED:
        raise Failure("interrupted", INTERRUPTED)
    if failure is not None:
        raise failure


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
                raise click.exceptions.Exit(0)
            raise KeyboardInterrupt
        self.number = self.number or number
        # Not here: the main thread may hold the very lock that stopping needs.
        threading.Thread(target=self.stop_loop, daemon=True).start()


def _write_report(path: Path, summary: CameraSummary) -> None:
    """Write `summary`, with the machine that it was taken on."""
    report = {
        "kind": "camera",
        "format": 1,
        "summary": to_json(summary),
        "environment": to_json(read_environment()),
    }
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
