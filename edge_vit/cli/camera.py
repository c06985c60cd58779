"""``edgevit camera``: the newest frame in, a prediction out, for weeks."""

from __future__ import annotations

import dataclasses
import getpass
import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_vit.bundle import Bundle
from edge_vit.cli import params
from edge_vit.cli.group import INTERRUPTED, Failure
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import echo, write_json
from edge_vit.cli.params import option
from edge_vit.data.registry import frame_forms
from edge_vit.errors import EdgeVitError, SpecError
from edge_vit.formats import REFERENCE
from edge_vit.printable import one_line
from edge_vit.runtime import SessionOptions, open_session
from edge_vit.spec import Precision
from edge_vit.spec.samples import refuse_samples

if TYPE_CHECKING:
    from edge_vit.camera.loop import CameraLoop
    from edge_vit.camera.sink import Sink
    from edge_vit.camera.smoothing import SmoothingKind
    from edge_vit.camera.summary import CameraSummary
    from edge_vit.camera.values import CameraPrediction
    from edge_vit.device import EnergyReport
    from edge_vit.device.telemetry import Telemetry

_LOG = logging.getLogger(__name__)
_ARGUMENTS = "edge_vit.camera.arguments"
_UNIT_FLAG = "--print-systemd-unit"
_STDOUT = ("stdout", "-")
_ENERGY_INTERVAL_S = 1.0
_LEAST_MEASURED = 0.95  # of the time; below it joules per prediction would be too few
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def parse_smoothing(text: str) -> tuple[str, int]:
    """Return kind and number of frames of ``ema:8`` or ``majority:5``."""
    found = re.fullmatch(r"(ema|majority):(\d{1,4})", text)
    if found is None or int(found[2]) < 1:
        raise SpecError(f"{text!r} is not of the form ema:8 or majority:5")
    return found[1], int(found[2])


class _KeepsArguments(click.Command):
    """A command that keeps its arguments as typed, for the systemd unit."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


@click.command("camera", cls=_KeepsArguments)
@params.bundle_argument
@option(
    "--source ADDRESS",
    f"{frame_forms()}; options behind a #, such as csi://0#width=1920,height=1080. "
    "Repeat it for more.",
    name="sources",
    multiple=True,
    required=True,
)
@option("--top N", "Entries of an answer.  [default: 5, of boxes 100]")
@option("--every N", "Of a model of clips: answer each Nth frame.  [default: the clip's stride]")
@option("--batch N", "Frames that one run takes at most.", default=1, name="batch_size")
@option("--deadline MS", "How long a run waits for more frames.", name="deadline_ms", default=0.0)
@option(
    "--preprocess",
    "auto takes the fastest whose pixels are those of pillow, the reference.",
    ["auto", "reduced", "cropped", "pillow"],
    "auto",
)
@option("--stale-after S", "Reopen a live source after so long without a frame.", default=5.0)
@option(
    "--answer-timeout S",
    "Exit with status 4 after so many seconds without an answer; 0 for never.",
    *(params.AT_LEAST_0, 60.0),
)
@option("--record-disagreements DIR", "Keep frames where fp32 differs.", params.ANY_FOLDER)
@option("--check-every N", "With --record-disagreements: every so many frames.", default=100)
@option("--max-disagreements N", "With --record-disagreements: keep so many at most.", default=500)
@option("--report FILE", "Write the final summary there, as JSON.", params.ANY_FILE)
@option("--json", "Print each answer as a line of JSON.", name="json_lines")
@option(_UNIT_FLAG, "Print a systemd unit for this very command, and exit.", name="print_unit")
@option(
    "--sink ADDRESS",
    "Where answers go too: stdout, FILE.jsonl, FILE.mp4, dashboard[:[HOST:]PORT], "
    "mqtt://HOST/TOPIC or a webhook's https://HOST/PATH; options behind a #. Repeat it for more.",
    name="sink_addresses",
    multiple=True,
)
@option(
    "--smooth KIND:K",
    "Smooth over K frames: ema:8 averages probabilities, majority:5 counts first answers.",
    params.Parsed("KIND:K", parse_smoothing),
)
@option("--min-confidence SCORE", "Mark answers below it as not confident.", click.FloatRange(0, 1))
@params.precision_option
@params.session_options
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    sources: tuple[str, ...],
    top: int | None,
    every: int | None,
    batch_size: int,
    deadline_ms: float,
    preprocess: str,
    stale_after: float,
    answer_timeout: float,
    record_disagreements: Path | None,
    check_every: int,
    max_disagreements: int,
    report: Path | None,
    json_lines: bool,
    print_unit: bool,
    sink_addresses: tuple[str, ...],
    smooth: tuple[SmoothingKind, int] | None,
    min_confidence: float | None,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
) -> None:
    """Answer the newest frame of a camera, again and again.

    The camera may be a stream or a file too.

    Of a live source old frames are dropped and counted; of files and folders every frame is
    answered, in order. A model of clips answers the newest clip. A source that is lost is opened
    anew. SIGTERM ends the loop with status 0.
    """
    from edge_vit.camera.capture import RetryPolicy
    from edge_vit.camera.disagreements import DisagreementSink
    from edge_vit.camera.loop import CameraLoop
    from edge_vit.camera.preprocessing import Preprocessing
    from edge_vit.camera.sinks.addresses import make_sink
    from edge_vit.camera.sinks.json_lines import StdoutSink, json_line
    from edge_vit.camera.smoothing import ConfidenceFloor, Smoothing
    from edge_vit.camera.sources.address import source_maker
    from edge_vit.camera.stages import LoopOptions, Step
    from edge_vit.camera.systemd import Notifier
    from edge_vit.device import open_telemetry
    from edge_vit.tasks import task_of

    makers = [source_maker(source, timeout_s=stale_after) for source in sources]
    opened = Bundle.open(bundle)
    refuse_samples(opened.spec, "edgevit camera")
    clip = opened.spec.preprocess.clip
    for flag, given, fits in (
        ("--every", every, clip is not None),
        ("--record-disagreements", record_disagreements, clip is None),
    ):
        if given is not None and not fits:
            reads = "single images" if clip is None else f"clips of {clip.frames} frames"
            raise SpecError(f"{flag}: {opened.spec.name} reads {reads}. Leave {flag} out")
    if print_unit:
        echo(_unit_of(opened, click.get_current_context().meta[_ARGUMENTS]), nl=False)
        return
    # A stream is opened, probed and read for its first frame, each within `stale_after`.
    retry = RetryPolicy(stale_after_s=stale_after, open_timeout_s=max(15.0, 4 * stale_after))
    with _Signals() as signals, open_telemetry() as telemetry:
        has_json = json_lines or not set(_STDOUT).isdisjoint(sink_addresses)
        to_line = json_line if has_json else _changes()
        sinks: list[Sink] = [StdoutSink(to_line, signals.stop)]
        sinks += [
            make_sink(address, telemetry.read)
            for address in sink_addresses
            if address not in _STDOUT
        ]
        steps: list[Step] = []
        top = top or task_of(opened.spec).default_top
        if smooth is not None:
            steps.append(Smoothing(*smooth, opened.spec, top))
        if min_confidence is not None:
            steps.append(ConfidenceFloor(min_confidence, opened.spec))
        with log.progress() as progress, progress.step("loading the model"):
            wanted = dataclasses.replace(options, batch_size=batch_size)
            session = open_session(opened, precision, backend, wanted, progress)
        if record_disagreements is not None:
            reference = open_session(opened, REFERENCE, "ort", SessionOptions(threads=1))
            sinks.append(
                DisagreementSink(
                    *(reference, opened.spec, record_disagreements),
                    every=check_every,
                    limit=max_disagreements,
                )
            )
        loop = CameraLoop(
            makers,
            session,
            opened.spec,
            sinks=sinks,
            steps=steps,
            prepare=Preprocessing(opened.spec.preprocess, preprocess),
            options=LoopOptions(batch_size, deadline_ms, top, answer_timeout, retry, every),
            notifier=Notifier.from_environment(),
        )
        signals.stop_loop = loop.stop
        _run_loop(loop, signals, telemetry.read, report)
        session.close()


def _unit_of(bundle: Bundle, arguments: list[str]) -> str:
    from edge_vit.camera.systemd import systemd_unit

    program = shutil.which("edgevit")
    inline = [sys.executable, "-c", "from edge_vit.cli import main; main()"]
    start = [program] if program else inline
    rest = [argument for argument in arguments if argument != _UNIT_FLAG]
    return systemd_unit(
        [*start, "camera", *rest], title=bundle.name, folder=Path.cwd(), user=getpass.getuser()
    )


def _changes() -> Callable[[CameraPrediction], bytes | None]:
    """Return a function that gives a line where a source shows something else than before."""
    from edge_vit.camera.summary import prediction_line

    seen: dict[str, object] = {}

    def to_line(prediction: CameraPrediction) -> bytes | None:
        source, key = prediction.frame.source, prediction.shown.key
        is_same = source in seen and seen[source] == key
        seen[source] = key
        return None if is_same else f"{one_line(prediction_line(prediction))}\n".encode()

    return to_line


class _Signals:
    """While open, SIGINT and SIGTERM call `stop_loop`; before there is one, they end the command.

    `number` is that of the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.stop_loop: Callable[[], None] | None = None

    def __enter__(self) -> _Signals:
        self._earlier = {number: signal.signal(number, self._handle) for number in _STOPPING}
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
        self.stop()  # in a thread: the main one may hold the very lock that stopping needs


def _run_loop(
    loop: CameraLoop, signals: _Signals, read: Callable[[], Telemetry], report_path: Path | None
) -> None:
    """Run the loop, and report how it went, however it ended."""
    from edge_vit.camera.summary import summary_lines
    from edge_vit.device import EnergyMeter

    end: Failure | EdgeVitError | None = None
    with EnergyMeter(read, _ENERGY_INTERVAL_S) as meter:
        try:
            loop.run()
        except EdgeVitError as error:
            end = error
    summary = loop.summary()
    for line in (*summary_lines(summary), *_energy_lines(meter.report, summary)):
        _LOG.info("%s", line)
    if report_path is not None:
        _write_report(report_path, summary, meter.report)
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


def _joules_per_answer(energy: EnergyReport, summary: CameraSummary) -> float | None:
    """Joules over the predictions; None where too little of the time was measured."""
    is_whole = energy.measured_s >= _LEAST_MEASURED * energy.duration_s
    if energy.joules is None or not is_whole or not summary.counts.answered:
        return None
    return energy.joules / summary.counts.answered


def _energy_lines(energy: EnergyReport, summary: CameraSummary) -> list[str]:
    """The run's energy, and whether the machine was slowed down; [] where it does not tell."""
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
    """Write `summary`, with the machine that it was taken on and its energy."""
    from edge_vit.measure.environment import read_environment

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
