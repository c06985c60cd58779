"""``edgevit verify``: every precision measured in one run, and what to ship."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_vit.bundle import Bundle
from edge_vit.cli.log import CommandLog
from edge_vit.cli.options import (
    ABOVE_0,
    AT_LEAST_0,
    PATH,
    POSITIVE,
    bundle_argument,
    data_option,
    json_option,
    max_bad_option,
    num_images_option,
    option,
    session_options,
)
from edge_vit.cli.output import print_json, without_thumbnails
from edge_vit.cli.outputs import ANY_FILE, REPORT_FILE, deliver
from edge_vit.cli.reports import (
    append_markdown,
    keep_reports,
    print_verdict,
    read_report,
    write_report,
    write_text,
)
from edge_vit.data.bad_images import MaxBad
from edge_vit.runtime import SessionOptions

if TYPE_CHECKING:
    from edge_vit.measure.results import VerifyReport


@click.command("verify")
@bundle_argument
@data_option
@num_images_option
@max_bad_option
@option(
    "--max-drop POINTS",
    "Accuracy that may be lost against fp32, in percent of the images.",
    AT_LEAST_0,
    0.5,
)
@option(
    "--max-error PERCENT",
    "Of a regression model: mean difference from fp32, in percent of fp32's spread.",
    AT_LEAST_0,
    5.0,
)
@option(
    "--min-speedup RATIO",
    "How many times faster than FP16 on a GPU, than fp32 on a CPU, it has to be.",
    ABOVE_0,
    1.05,
)
@option(
    "--min-agreement PERCENT",
    "Images whose prediction has to be that of fp32; 0 asks for none.",
    click.FloatRange(min=0, max=100),
    90.0,
)
@option(
    "--look N",
    "How many times this candidate is judged now, on different images; later looks are judged "
    "more strictly.  [default: counted in the bundle's reports/]",
    POSITIVE,
)
@option(
    "--max-p99-ms MS",
    "What 99 of 100 runs may take; 300 runs at least can tell.  [default: not asked]",
    ABOVE_0,
)
@option(
    "--baseline REPORT",
    "An earlier .json report, or a bundle with one, not to fall behind.",
    PATH,
    name="earlier_path",
)
@option(
    "--max-slowdown RATIO",
    "Median latency over that of --baseline that is still allowed.",
    click.FloatRange(min=1),
    1.05,
)
@option("--iterations N", "Timed runs of each precision.", POSITIVE, 200)
@functools.partial(session_options, takes_all=True, wait="spin")
@option(
    "--report/--no-report",
    "Keep the report in the bundle's reports/, as JSON and as HTML.  [default: keep]",
    default=True,
    name="keeps_report",
)
@option("-o, --output FILE", "Write the report to this .html, .md or .json file too.", REPORT_FILE)
@option(
    "--junit FILE",
    "Write the gates as JUnit XML, which a CI shows as tests.",
    ANY_FILE,
    name="junit_path",
)
@option(
    "--markdown FILE",
    "Append the report as Markdown to FILE, such as a CI's step summary.",
    ANY_FILE,
    name="markdown_path",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    bundle: Path,
    data: Path,
    num_images: int | None,
    max_bad: MaxBad,
    look: int | None,
    earlier_path: Path | None,
    iterations: int,
    backend: str,
    options: SessionOptions,
    keeps_report: bool,
    output: Path | None,
    junit_path: Path | None,
    markdown_path: Path | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Judge every precision on your images, and say what to ship.

    Accuracy and latency come from one run, in turns. A limit is kept or broken where the 95 %
    interval of what was measured lies on one side of it. First the question is judged: labels that
    fit, an fp32 that is better than chance, different images that calibration has not seen. Outputs
    below 10 dB signal to noise never pass. Exit status 0: ship it. 3: a gate failed. 5: undecided:
    what questions the evaluation, or how many images or runs would decide.
    """
    from edge_vit.api import NUM_COVERAGE_IMAGES, check_coverage
    from edge_vit.measure.limits import Limits
    from edge_vit.measure.verify import verify
    from edge_vit.report.junit import render_junit

    log: CommandLog = context.obj
    limits["min_agreement"] = limits["min_agreement"] or None
    opened = Bundle.open(bundle)
    earlier = read_report(earlier_path) if earlier_path else None
    with log.progress() as progress:
        report = verify(
            opened,
            data,
            Limits(**limits),
            backend=backend,
            options=options,
            iterations=iterations,
            num_images=num_images,
            max_bad=max_bad,
            earlier=earlier,
            look=look,
            progress=progress,
        )
        coverage = check_coverage(
            opened,
            data,
            num_images=min(num_images or NUM_COVERAGE_IMAGES, NUM_COVERAGE_IMAGES),
            threads=options.threads,
            progress=progress,
        )
    report = dataclasses.replace(report, notes=(*coverage, *report.notes))
    deliver(
        lambda: _print(report, as_json=as_json),
        lambda: keep_reports(report, opened) if keeps_report else None,
        lambda: write_report(report, opened, output) if output else None,
        lambda: write_text(render_junit(report), junit_path) if junit_path else None,
        lambda: append_markdown(report, opened, markdown_path) if markdown_path else None,
    )
    context.exit(report.verdict.exit_status)


def _print(report: VerifyReport, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.replace(report, accuracy=without_thumbnails(report.accuracy)))
    else:
        print_verdict(report)
