"""Reports in and out of a bundle, for the commands that make and rewrite them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edge_vit.bundle import TABLE, Bundle
from edge_vit.cli import output
from edge_vit.errors import ArtifactError, MissingDependencyError
from edge_vit.files import refuse_os_errors
from edge_vit.printable import one_line, printable

if TYPE_CHECKING:
    from edge_vit.measure.compare import Measured
    from edge_vit.measure.results import AccuracyReport, VerifyReport
    from edge_vit.spec.table import CalibrationTable

VERIFY_JSON, VERIFY_HTML = "verify.json", "verify.html"

_LOG = logging.getLogger(__name__)


def print_verdict(report: VerifyReport) -> None:
    """Print the measurements, notes on them, and the verdict."""
    from edge_vit.report.grids import accuracy_grid, latency_grid
    from edge_vit.report.terminal import verdict_panel

    output.print_grids(accuracy_grid(report.accuracy), latency_grid(report.latency))
    for note in report.notes:
        output.echo(f"· {one_line(note)}")
    output.print_tables(verdict_panel(report.verdict))


def print_accuracy(report: AccuracyReport, *, as_json: bool) -> None:
    """Print `report` on stdout, as a table or as JSON without pictures."""
    if as_json:
        output.print_json(output.without_thumbnails([report])[0])
        return
    from edge_vit.report.details import drops_grid, task_grids
    from edge_vit.report.grids import accuracy_grid, is_reference
    from edge_vit.report.wording import OUTCOME_WORDS

    grids = [] if is_reference(report) else [drops_grid([report]), *task_grids(report)]
    output.print_grids(accuracy_grid([report]), *(grid for grid in grids if grid.rows))
    for finding in report.findings:
        output.echo(f"{' '.join(OUTCOME_WORDS[finding.outcome])}: {finding.sentence}")


def write_report(report: VerifyReport, bundle: Bundle, path: Path) -> None:
    """Write `report` to `path`, as HTML, Markdown or JSON by its name."""
    from edge_vit.report.html import write_html
    from edge_vit.report.markdown import render_markdown
    from edge_vit.report.saved import write_json
    from edge_vit.runtime.trt.store import list_engines

    if path.suffix == ".md":
        output.write_file(render_markdown(report, matching_table(report, bundle)), path, "Report")
        return
    if path.suffix == ".json":
        write_json(report, path)
    else:
        engines = tuple(list_engines(bundle.path / "engines"))
        write_html(report, path, matching_table(report, bundle), engines)
    _LOG.info("Report: %s", path)


def append_markdown(report: VerifyReport, bundle: Bundle, path: Path) -> None:
    """Append `report` as Markdown to `path`, as a CI's summary wants it."""
    from edge_vit.report.markdown import render_markdown

    text = render_markdown(report, matching_table(report, bundle))
    with refuse_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(printable(text))
    _LOG.info("Written: %s", path)


def keep_reports(report: VerifyReport, bundle: Bundle) -> None:
    """Write `report` into `bundle`; a failure to write is a warning, and costs no verdict."""
    from edge_vit.measure.spending import record_look

    for name in (VERIFY_JSON, VERIFY_HTML):
        path = bundle.reports_path / name
        try:
            write_report(report, bundle, path)
        except (ArtifactError, MissingDependencyError) as error:
            _LOG.warning("%s was not written: %s", path, error)
    try:
        record_look(bundle, report)
    except ArtifactError as error:
        look = report.verdict.look
        _LOG.warning(
            "That this was look %d was not recorded: %s. Say so next time with: --look %d",
            *(look, error, look + 1),
        )


def read_report(path: Path) -> VerifyReport:
    """Return the report in the file `path`, or the newest in the bundle `path`."""
    from edge_vit.report.saved import read_json

    return newest_report(Bundle.open(path)) if path.is_dir() else read_json(path)


def read_measured(path: Path, name: str) -> Measured:
    """Return the measurements in the file or bundle at `path`, under `name`."""
    from edge_vit.measure.compare import measured_of
    from edge_vit.report.saved import read_measured as read_file

    if path.is_dir():
        return measured_of(newest_report(Bundle.open(path)), name)
    return read_file(path, name)


def newest_report(bundle: Bundle) -> VerifyReport:
    """Return the report that was saved last in `bundle`."""
    from edge_vit.report.saved import read_json

    saved = bundle.reports_path.glob("verify*.json")
    newest = max(saved, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        raise ArtifactError(
            f"{bundle.path} holds no saved verdict. Run: edgevit verify {bundle.path} --data DIR"
        )
    return read_json(newest)


def matching_table(report: VerifyReport, bundle: Bundle) -> CalibrationTable | None:
    """Return the table that the report's INT8 was made from, where the bundle still has it."""
    if bundle.digest != report.bundle_digest:
        _LOG.warning("%s has changed since it was verified: its layers are left out", bundle.path)
        return None
    try:
        return bundle.read_table() if bundle.has(TABLE) else None
    except ArtifactError as error:
        _LOG.warning("the layers are left out: %s", error)
        return None
