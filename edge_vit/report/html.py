"""A report as one self-contained HTML page: no address outside it, no script, day and night."""

from __future__ import annotations

from pathlib import Path

from edge_vit.files import write_atomically
from edge_vit.measure.results import VerifyReport
from edge_vit.optional import require
from edge_vit.report.page import make_page
from edge_vit.report.svg import PURPOSE
from edge_vit.report.wording import OUTCOME_WORDS, percent
from edge_vit.table import CalibrationTable

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(report: VerifyReport, table: CalibrationTable | None = None) -> str:
    """Return the page as text.

    Args:
        report: what `verify` measured.
        table: of the bundle that was measured, for where the precision went and why.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", PURPOSE)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = make_page(report, table)
    text: str = environment.get_template("report.html").render(
        page=page, report=report, verdict=report.verdict, words=OUTCOME_WORDS
    )
    return text


def write_html(
    report: VerifyReport, path: Path | str, table: CalibrationTable | None = None
) -> None:
    """Write the page to `path`, completely or not at all.

    Raises:
        ArtifactError: the disk refuses.
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    write_atomically(Path(path), render_html(report, table).encode())
