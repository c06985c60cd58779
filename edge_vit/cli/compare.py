"""``edgevit compare``: reports side by side, like with like."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_vit.cli import params
from edge_vit.cli.output import deliver, json_text, print_grids, print_json, write_file
from edge_vit.cli.params import option
from edge_vit.cli.reports import read_measured
from edge_vit.errors import SpecError

if TYPE_CHECKING:
    from edge_vit.measure.compare import Comparison


@click.command("compare")
@click.argument("reports", metavar="REPORT...", nargs=-1, required=True, type=params.PATH)
@option("--strict", "Refuse reports whose conditions are unlike, with exit status 1.")
@params.outputs_option("An .html, .md or .json report, too.", params.REPORT_FILE)
@params.json_option
def command(
    reports: tuple[Path, ...], strict: bool, outputs: tuple[Path, ...], as_json: bool
) -> None:
    """Put reports side by side: like with like, and what differs.

    REPORT is a .json report of verify, bench or eval, or a bundle, whose latest verdict counts. The
    others are held against the first. Where device, power mode, clocks, versions, threads, batch or
    images differ, no ratio is given, but what differs. "No difference" is a possible answer.
    """
    from edge_vit.measure.compare import compare

    names = _short_names(reports)
    measured = [read_measured(path, name) for path, name in zip(reports, names, strict=True)]
    comparison = compare(measured)
    unlike = [change for change in comparison.changes if change.unlike]
    if strict and unlike:
        first = unlike[0]
        raise SpecError(
            f"{first.report} and {first.base} are not alike: {first.place} {first.measure}: "
            f"{'; '.join(first.unlike)}. Measure both under the same conditions"
        )
    deliver(
        lambda: _print(comparison, as_json=as_json),
        *(functools.partial(_write, comparison, path) for path in outputs),
    )


def _print(comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        print_json(comparison)
        return
    from edge_vit.report.compared import all_grids

    print_grids(*all_grids(comparison))


def _write(comparison: Comparison, path: Path) -> None:
    if path.suffix == ".json":
        text = f"{json_text(comparison)}\n"
    elif path.suffix == ".md":
        from edge_vit.report.markdown import render_comparison_markdown

        text = render_comparison_markdown(comparison)
    else:
        from edge_vit.report.html import render_comparison

        text = render_comparison(comparison)
    write_file(text, path)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each: the file's own, or the path where several have that, numbered."""
    files = Counter(path.name for path in paths)
    names: list[str] = []
    for index, path in enumerate(paths):
        name = path.name if files[path.name] == 1 else str(path)
        repeats = paths[:index].count(path)
        names.append(f"{name} ({repeats + 1})" if repeats else name)
    return names
