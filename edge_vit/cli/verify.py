"""``edgevit verify``: every precision measured in one run, and what to ship."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import click

from edge_vit.bundle import Bundle
from edge_vit.cli import params, reports
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import deliver, print_json, without_thumbnails, write_file
from edge_vit.cli.params import option
from edge_vit.data.bad_images import MaxBad
from edge_vit.runtime import SessionOptions


@click.command("verify")
@params.bundle_argument
@params.data_options
@option(
    "--max-drop POINTS", "Loss of accuracy against fp32, in percent of the images.", default=0.5
)
@option("--max-error PERCENT", "Of a regression: mean difference over fp32's spread.", default=5.0)
@option("--min-speedup RATIO", "Over FP16 on a GPU, over fp32 on a CPU.", default=1.05)
@option(
    "--min-agreement PERCENT",
    "Images whose prediction has to be that of fp32; 0 asks for none.",
    *(click.FloatRange(min=0, max=100), 90.0),
)
@option(
    "--look N",
    "How many times this candidate is judged now, on different images; later looks are judged "
    "more strictly.  [default: counted in the bundle's reports/]",
)
@option(
    "--max-p99-ms MS",
    "What 99 of 100 runs may take; 300 runs at least can tell.  [default: not asked]",
    params.ABOVE_0,
)
@option(
    "--baseline REPORT", "A .json report, or a bundle with one, not to fall behind.", params.PATH
)
@option("--max-slowdown RATIO", "Over --baseline, of the median.", click.FloatRange(min=1), 1.05)
@option("--iterations N", "Timed runs of each precision.", default=200)
@functools.partial(params.session_options, takes_all=True, wait="spin")
@option(
    "--report/--no-report",
    "Keep the report in the bundle's reports/.  [default: keep]",
    default=True,
)
@params.outputs_option("An .html, .md or .json report, too.", params.REPORT_FILE)
@option("--junit FILE", "Write the gates as JUnit XML, for a CI.", params.ANY_FILE)
@option("--markdown FILE", "Append the report as Markdown, for a CI.", params.ANY_FILE)
@params.json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    bundle: Path,
    data: Path,
    num_images: int | None,
    max_bad: MaxBad,
    look: int | None,
    baseline: Path | None,
    iterations: int,
    backend: str,
    options: SessionOptions,
    report: bool,
    outputs: tuple[Path, ...],
    junit: Path | None,
    markdown: Path | None,
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
    earlier = reports.read_report(baseline) if baseline else None
    with log.progress() as progress:
        found = verify(
            *(opened, data, Limits(**limits)),
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
            *(opened, data),
            num_images=min(num_images or NUM_COVERAGE_IMAGES, NUM_COVERAGE_IMAGES),
            threads=options.threads,
            progress=progress,
        )
    found = dataclasses.replace(found, notes=(*coverage, *found.notes))
    plain = dataclasses.replace(found, accuracy=without_thumbnails(found.accuracy))
    deliver(
        lambda: print_json(plain) if as_json else reports.print_verdict(found),
        lambda: reports.keep_reports(found, opened) if report else None,
        *(functools.partial(reports.write_report, found, opened, path) for path in outputs),
        lambda: write_file(render_junit(found), junit) if junit else None,
        lambda: reports.append_markdown(found, opened, markdown) if markdown else None,
    )
    context.exit(found.verdict.exit_status)
