"""``edgevit report``: the HTML page of a verdict that was saved."""

from __future__ import annotations

from pathlib import Path

import click

from edge_vit.bundle import Bundle
from edge_vit.cli import params
from edge_vit.cli.output import echo
from edge_vit.cli.params import option
from edge_vit.cli.reports import VERIFY_HTML, newest_report, write_report


@click.command("report")
@params.bundle_argument
@params.outputs_option(
    f"Where to write it, .html, .md or .json.  [default: BUNDLE/reports/{VERIFY_HTML}]",
    params.REPORT_FILE,
)
@option("--open", "Show it in the browser.", name="opens")
def command(bundle: Path, outputs: tuple[Path, ...], opens: bool) -> None:
    """Write the HTML report of the latest verdict again.

    Measures nothing: the numbers are those that edgevit verify saved in the bundle.
    """
    opened = Bundle.open(bundle)
    report = newest_report(opened)
    for output in outputs or (opened.reports_path / VERIFY_HTML,):
        write_report(report, opened, output)
        echo(output)
        if opens:
            click.launch(output.absolute().as_uri())
