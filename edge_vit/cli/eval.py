"""``edgevit eval``: the answers of one precision against those of fp32."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import click

from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import deliver, echo, print_json, write_json
from edge_vit.cli.params import option
from edge_vit.cli.reports import print_accuracy
from edge_vit.data.bad_images import MaxBad
from edge_vit.data.parts import Part
from edge_vit.errors import SpecError
from edge_vit.formats import find_format
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec import Precision

_LOG = logging.getLogger(__name__)


def _parse_part(text: str) -> Part:
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return Part(int(index), int(count))
    raise SpecError(f"{text!r} is not of the form I/N, such as 1/16 to 16/16")


@click.command("eval")
@params.bundle_argument
@params.data_options
@params.precision_option
@params.session_options
@option(
    "--shard I/N", "Evaluate part I of N, for edgevit merge.", params.Parsed("I/N", _parse_part)
)
@params.outputs_option("Write JSON; meanwhile FILE.state of the first, to resume from.")
@option(
    "--ray N", "Evaluate in N parts on a Ray cluster: RAY_ADDRESS, or here.", name="num_ray_parts"
)
@option("--resume", "Go on from FILE.state, if it is there.", name="is_resumed")
@params.json_option
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    data: Path,
    num_images: int | None,
    max_bad: MaxBad,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    shard: Part | None,
    outputs: tuple[Path, ...],
    num_ray_parts: int | None,
    is_resumed: bool,
    as_json: bool,
) -> None:
    """Compare the answers of a precision with those of fp32.

    With -o an evaluation that was interrupted, even by a power cut, goes on with --resume. A large
    set of images can be evaluated in parts, on one machine or many: edgevit eval ... --shard 1/16
    -o part1.json, and so on, then edgevit merge part*.json. Which part an image belongs to follows
    from its content.
    """
    if not outputs and (shard or is_resumed):
        raise click.UsageError(f"{'--shard' if shard else '--resume'} needs -o FILE, got none")
    if num_ray_parts is not None and (shard or is_resumed):
        raise click.UsageError("--ray makes all the parts: it goes without --shard and --resume")
    from edge_vit.api import NUM_COVERAGE_IMAGES, check_coverage
    from edge_vit.measure.accuracy_report import report_of
    from edge_vit.measure.evaluation import Evaluation, Evaluator, state_path_of

    what = Evaluation(str(bundle), str(data), precision, backend, options, num_images, max_bad)
    state_path = state_path_of(outputs[0]) if outputs else None
    with log.progress() as progress:
        if num_ray_parts is not None:
            from edge_vit.cluster import evaluate_on_ray

            totals = evaluate_on_ray(what, num_ray_parts, progress=progress)
            for note in report_of(totals).notes:
                progress.note(note)
        else:
            with Evaluator(what) as evaluator:
                if evaluator.remark:
                    progress.note(evaluator.remark)
                totals = evaluator.evaluate(
                    shard or Part(), state_path=state_path, is_resumed=is_resumed, progress=progress
                )
        if shard is None and find_format(totals.subject.precision).is_quantized:
            looked_at = min(num_images or NUM_COVERAGE_IMAGES, NUM_COVERAGE_IMAGES)
            for note in check_coverage(bundle, data, num_images=looked_at, progress=progress):
                progress.note(note)
    if shard is None:
        report = report_of(totals)
        deliver(
            lambda: print_accuracy(report, as_json=as_json),
            *(functools.partial(write_json, report, path) for path in outputs),
        )
    else:
        (index, count), num_images = totals.part, totals.num_images
        for output in outputs:
            totals.write(output)
        if as_json:
            print_json({"file": str(outputs[0]), "part": totals.part, "num_images": num_images})
        else:
            echo(f"{outputs[0]}: part {index} of {count}, {num_images:,} images")
            _LOG.info("When all %d are there: edgevit merge FILE...", count)
    if state_path is not None:
        state_path.unlink(missing_ok=True)
