"""A report as one self-contained HTML page: no address outside it, no script, day and night."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_vit.explain.values import Explanation
from edge_vit.files import write_atomically
from edge_vit.formats import all_formats
from edge_vit.measure.compare import Comparison
from edge_vit.measure.results import VerifyReport
from edge_vit.optional import require
from edge_vit.printable import printable
from edge_vit.report.attention import attention_grid, attention_pictures
from edge_vit.report.compared import letters, named_grids, pareto_plot
from edge_vit.report.grids import recommendation
from edge_vit.report.page import make_page
from edge_vit.report.svg import PURPOSE, Figure
from edge_vit.report.wording import OUTCOME_WORDS, percent
from edge_vit.runtime.trt.store import Engine
from edge_vit.spec.table import CalibrationTable

_TONES: dict[str | None, str] = {
    **dict.fromkeys(("slower", "worse"), "fail"),
    **dict.fromkeys(("faster", "better"), "pass"),
    "no difference": "same",
    None: "undecided",
}
"""What is said of two reports, and the colour that it is said in."""


def render_html(
    report: VerifyReport, table: CalibrationTable | None = None, engines: Sequence[Engine] = ()
) -> str:
    """Return the page of `report`, with the layers of its table and what TensorRT made of them.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    return fill_template(
        "report.html",
        page=make_page(report, table, engines),
        report=report,
        verdict=report.verdict,
        words=OUTCOME_WORDS,
        recommended=recommendation(report.verdict),
    )


def render_comparison(comparison: Comparison) -> str:
    """Return reports side by side as a page of the same kind."""
    plot, grids = pareto_plot(comparison), named_grids(comparison)
    caption = "Each point is a precision on a backend. Dashed: what no other point beats."
    pareto = Figure("Accuracy over latency", plot, caption, grids["entries"]) if plot else None
    return fill_template(
        "compare.html",
        comparison=comparison,
        signs=letters(comparison),
        tones=_TONES,
        pareto=pareto,
        **grids,
    )


def render_attention(explanations: Sequence[Explanation], name: str) -> str:
    """Return the attention maps of the model `name`, at least one, as a page of the same kind."""
    return fill_template(
        "attention.html",
        model=name,
        precision=explanations[0].candidate.precision,
        maps=[(each, attention_pictures(each)) for each in explanations],
        grid=attention_grid(explanations),
    )


def fill_template(name: str, **values: Any) -> str:
    """Return the template `name` with `values` in it; text in them stays text.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", PURPOSE)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.globals["formats"] = all_formats()
    text: str = environment.get_template(name).render(**values)
    return text


def write_html(
    report: VerifyReport,
    path: Path | str,
    table: CalibrationTable | None = None,
    engines: Sequence[Engine] = (),
) -> None:
    """Write the page to `path`, completely or not at all.

    Raises:
        ArtifactError: the disk refuses.
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    write_atomically(Path(path), printable(render_html(report, table, engines)).encode())
