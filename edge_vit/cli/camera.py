"""``edgevit camera``: the newest frame in, an answer out, for weeks."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_vit.bundle import Bundle
from edge_vit.cli.camera_sinks import make_steps, open_sinks, parse_smoothing
from edge_vit.cli.log import CommandLog
from edge_vit.cli.options import (
    ABOVE_0,
    AT_LEAST_0,
    POSITIVE,
    Parsed,
    bundle_argument,
    option,
    precision_option,
    session_options,
)
from edge_vit.cli.output import echo
from edge_vit.cli.outputs import ANY_FILE, ANY_FOLDER
from edge_vit.data.registry import frame_forms
from edge_vit.formats import REFERENCE
from edge_vit.printable import one_line
from edge_vit.runtime import SessionOptions, open_session
from edge_vit.spec import Precision

if TYPE_CHECKING:
    from edge_vit.camera.sink import Sink
    from edge_vit.camera.smoothing import SmoothingKind
    from edge_vit.camera.values import CameraPrediction

_LOG = logging.getLogger(__name__)
_ARGUMENTS = "edge_vit.camera.arguments"
_UNIT_FLAG = "--print-systemd-unit"


class _KeepsArguments(click.Command):
    """A command that remembers how it was called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


@click.command("camera", cls=_KeepsArguments)
@bundle_argument
@option(
    "--source ADDRESS",
    f"{frame_forms()}; options behind a #, such as csi://0#width=1920,height=1080. "
    "Repeat it for more.",
    name="sources",
    multiple=True,
    required=True,
)
@option("--top N", "Answers.", POSITIVE, 5)
@option("--batch N", "Frames that one run takes at most.", POSITIVE, 1, name="batch_size")
@option(
    "--deadline MS",
    "How long a run waits for more frames.  [default: 0]",
    AT_LEAST_0,
    0.0,
    show_default=False,
    name="deadline_ms",
)
@option(
    "--preprocess",
    "auto takes the fastest whose pixels are those of pillow, the reference.",
    ["auto", "reduced", "cropped", "pillow"],
    "auto",
)
@option(
    "--stale-after S",
    "Open a live source anew after so many seconds without a frame.",
    ABOVE_0,
    5.0,
)
@option(
    "--answer-timeout S",
    "Exit with status 4 after so many seconds without an answer; 0 for never.",
    AT_LEAST_0,
    60.0,
)
@option(
    "--record-disagreements DIR",
    "Keep frames there that fp32 on the CPU answers differently.",
    ANY_FOLDER,
)
@option("--check-every N", "With --record-disagreements: every so many frames.", POSITIVE, 100)
@option(
    "--max-disagreements N", "With --record-disagreements: keep so many at most.", POSITIVE, 500
)
@option("--report FILE", "Write the final summary there, as JSON.", ANY_FILE, name="report_path")
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
    Parsed("KIND:K", parse_smoothing),
    name="smoothing",
)
@option(
    "--min-confidence SCORE",
    "Mark answers below this probability, 0 to 1, as not confident.",
    click.FloatRange(0, 1),
    name="floor",
)
@precision_option
@session_options
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    sources: tuple[str, ...],
    top: int,
    batch_size: int,
    deadline_ms: float,
    preprocess: str,
    stale_after: float,
    answer_timeout: float,
    record_disagreements: Path | None,
    check_every: int,
    max_disagreements: int,
    report_path: Path | None,
    json_lines: bool,
    print_unit: bool,
    sink_addresses: tuple[str, ...],
    smoothing: tuple[SmoothingKind, int] | None,
    floor: float | None,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
) -> None:
    """Answer the newest frame of a camera, again and again.

    The camera may be a stream or a file too.

    Of a live source old frames are dropped and counted; of files and folders every frame is
    answered, in order. A source that is lost is opened anew. SIGTERM ends the loop with status 0.
    """
    from edge_vit.camera.capture import RetryPolicy
    from edge_vit.camera.loop import CameraLoop
    from edge_vit.camera.preprocessing import Preprocessing
    from edge_vit.camera.sinks.json_lines import json_line
    from edge_vit.camera.sources.address import source_maker
    from edge_vit.camera.stages import LoopOptions
    from edge_vit.camera.systemd import Notifier
    from edge_vit.cli.camera_run import Signals, run_loop

    makers = [source_maker(source, timeout_s=stale_after) for source in sources]
    opened = Bundle.open(bundle)
    if print_unit:
        echo(_unit_of(opened, click.get_current_context().meta[_ARGUMENTS]), nl=False)
        return
    # A stream is opened, probed and read for its first frame, each within `stale_after`.
    retry = RetryPolicy(stale_after_s=stale_after, open_timeout_s=max(15.0, 4 * stale_after))
    settings = LoopOptions(batch_size, deadline_ms, top, answer_timeout, retry)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stdout = json_line if json_lines else _changes()
        sinks = stack.enter_context(open_sinks(sink_addresses, signals.stop, stdout))
        with log.progress() as progress, progress.step("loading the model"):
            wanted = dataclasses.replace(options, batch_size=batch_size)
            session = open_session(opened, precision, backend, wanted, progress)
        if record_disagreements is not None:
            sinks.append(
                _disagreements(opened, record_disagreements, check_every, max_disagreements)
            )
        loop = CameraLoop(
            makers,
            session,
            opened.spec,
            sinks=sinks,
            steps=make_steps(smoothing, floor, opened.spec, top),
            prepare=Preprocessing(opened.spec.preprocess, preprocess),
            options=settings,
            notifier=Notifier.from_environment(),
        )
        signals.stop_loop = loop.stop
        run_loop(loop, signals, report_path)
        session.close()


def _unit_of(bundle: Bundle, arguments: list[str]) -> str:
    """The unit that runs this command, called with `arguments`."""
    from edge_vit.camera.systemd import systemd_unit

    program = shutil.which("edgevit")
    inline = [sys.executable, "-c", "from edge_vit.cli import main; main()"]
    start = [program] if program else inline
    rest = [argument for argument in arguments if argument != _UNIT_FLAG]
    return systemd_unit(
        [*start, "camera", *rest], title=bundle.name, folder=Path.cwd(), user=getpass.getuser()
    )


def _disagreements(bundle: Bundle, folder: Path, every: int, limit: int) -> Sink:
    """The sink that has fp32 on the CPU answer too."""
    from edge_vit.camera.disagreements import DisagreementSink

    reference = open_session(bundle, REFERENCE, "ort", SessionOptions(threads=1))
    return DisagreementSink(reference, bundle.spec, folder, every=every, limit=limit)


def _changes() -> Callable[[CameraPrediction], bytes | None]:
    """What was seen, when it is not what was seen before."""
    from edge_vit.camera.summary import prediction_line

    seen: dict[str, object] = {}

    def to_line(prediction: CameraPrediction) -> bytes | None:
        source, key = prediction.frame.source, prediction.shown.key
        is_same = source in seen and seen[source] == key
        seen[source] = key
        return None if is_same else f"{one_line(prediction_line(prediction))}\n".encode()

    return to_line
