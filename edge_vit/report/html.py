"""A report as one self-contained HTML page: no address outside it, no script, day and night."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_vit.explain.values import Explanation
from edge_vit.files import write_atomically
from edge_vit.formats import REFERENCE, all_formats
from edge_vit.measure.compare import Comparison
from edge_vit.measure.gates import agreement_can_fail
from edge_vit.measure.measured import measures_of, task_of_report
from edge_vit.measure.results import AccuracyReport, Disagreement, LatencyReport, VerifyReport
from edge_vit.optional import require
from edge_vit.printable import printable
from edge_vit.report import plots
from edge_vit.report.attention import attention_grid, attention_pictures
from edge_vit.report.compared import letters, named_grids, pareto_plot
from edge_vit.report.conditions import conditions
from edge_vit.report.details import accuracy_details, latency_details
from edge_vit.report.grids import (
    accuracy_grid,
    gates_grid,
    is_of_candidate,
    is_reference,
    latency_grid,
    name_in,
    recommendation,
    score_error,
    speedup_over_fp32,
    verdict_lines,
)
from edge_vit.report.machine import engines_grid
from edge_vit.report.precision import precision_figures, recipe_grid
from edge_vit.report.svg import PURPOSE, Figure
from edge_vit.report.wording import (
    OUTCOME_WORDS,
    count,
    is_known,
    number,
    percent,
    ratio,
    significant,
)
from edge_vit.runtime.trt.store import Engine
from edge_vit.spec.table import CalibrationTable
from edge_vit.tasks import task_of

MAX_PICTURES = 12
"""Shown of the candidate; of every other precision half as many, to keep the page small."""

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
    """Return the page of `report`, with the layers of its table and what TensorRT made of them."""
    return fill_template(
        "report.html",
        page=_make_page(report, table, engines),
        report=report,
        verdict=report.verdict,
        lines=verdict_lines(report.verdict),
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
        notes=dict.fromkeys(note for entry in comparison.entries for note in entry.notes),
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
    """Return the template `name` with `values` in it; text in them stays text."""
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
    """Write the page to `path`, completely or not at all."""
    write_atomically(Path(path), printable(render_html(report, table, engines)).encode())


def _make_page(
    report: VerifyReport, table: CalibrationTable | None, engines: Sequence[Engine] = ()
) -> dict[str, Any]:
    """Return all that the page shows of `report`, plots drawn."""
    details = [engines_grid(engines)] if engines else []
    if table and table.sites:
        details.insert(0, recipe_grid(table))
    task, preprocess = task_of(report.model), report.model.preprocess
    accuracy = None
    if not all(map(is_reference, report.accuracy)):
        caption = "Dot: measured share of the images. Bar: its 95 % interval (Wilson)."
        plot, grid = plots.accuracy_plot(report.accuracy), accuracy_grid(report.accuracy)
        accuracy = Figure("Same answers?", plot, caption, grid)
    return {
        "created": report.created.replace("T", " ").replace("+00:00", " UTC"),
        "is_pixelated": not task.is_drawn and max(preprocess.image_size) <= 64,
        "about_pictures": task.wording.pictures,
        "is_wide": task.is_drawn or preprocess.clip is not None,  # several pictures side by side
        "key_figures": _key_figures(report),
        "gates": _gates_figure(report),
        "latency": _latency_figures(report.latency),
        "accuracy": accuracy,
        "galleries": _galleries(report),
        "latency_details": latency_details(report.latency),
        "accuracy_details": accuracy_details(report.accuracy, report.verdict, report.model),
        "precision": precision_figures(table) if table and table.sites else (),
        "precision_details": [grid for grid in details if grid.rows],
        "conditions": conditions(report, table),
    }


def _key_figures(report: VerifyReport) -> list[dict[str, Any]]:
    """The few numbers of each precision that people look for first."""
    accuracy = {(a.precision, a.backend): a for a in report.accuracy}
    first = report.accuracy[0] if report.accuracy else None
    verdict, figures = report.verdict, []
    for latency in report.latency:
        place = (latency.precision, latency.backend)
        facts = [("images per second", number(latency.throughput_ips, 0))]
        speedup = speedup_over_fp32(latency, report.latency)
        if latency.precision != REFERENCE and speedup is not None:
            facts.append(("speed-up over fp32", ratio(speedup)))
        measured = accuracy.get(place)
        if measured and not is_reference(measured):
            facts += [("top-1", percent(measured.top1))] if measured.top1 is not None else []
            facts += _judged(measured, of_reference=False)
            facts += _agreement_of(measured)
        elif first and first.reference == " ".join(place):
            if first.reference_top1 is not None:
                facts.append(("top-1", percent(first.reference_top1)))
            facts += _judged(first, of_reference=True)
            facts.append(("role", "reference"))
        recommended = (verdict.recommended, verdict.recommended_backend or latency.backend)
        figures.append(
            {
                "name": name_in(latency, report.latency),
                "precision": latency.precision,
                "is_recommended": place == recommended,
                "median_ms": significant(latency.latency_ms.p50),
                "facts": facts,
            }
        )
    return figures


def _judged(measured: AccuracyReport, *, of_reference: bool) -> list[tuple[str, str]]:
    """Return the measure of which the gate bounds the loss, where there is truth."""
    known, task = measures_of(measured.task), task_of_report(measured)
    gated = known.get(task.loss_of(measured.measures))
    if gated is None or gated.name == task.unlabelled_loss or gated.of not in measured.measures:
        return []
    found = measured.measures[gated.of]
    value = found.reference if of_reference else found.value
    return [] if value is None else [(known[gated.of].title, f"{100 * value:.1f} %")]


def _agreement_of(measured: AccuracyReport) -> list[tuple[str, str]]:
    reference, error = _precision_of(measured), score_error(measured)
    if error is not None:
        return [(f"off {reference}, of its spread", percent(error / 100))]
    if not agreement_can_fail(measured):
        return []
    return [(f"same answer as {reference}", percent(measured.agreement))]


def _precision_of(accuracy: AccuracyReport) -> str:
    """The reference's precision, without its backend."""
    return accuracy.reference.partition(" ")[0]


def _gates_figure(report: VerifyReport) -> Figure | None:
    gates = [gate for gate in report.verdict.gates if is_known(gate.value)]
    if not gates:
        return None
    caption = (
        "Dot: measured. Bar: from the lower to the upper 95 % bound. Dashed: the limit. "
        "Shaded: where the gate passes."
    )
    title, grid = "Measured against the limits", gates_grid(report.verdict)
    return Figure(title, plots.gates_plot(gates), caption, grid)


def _latency_figures(reports: Sequence[LatencyReport]) -> tuple[Figure, ...]:
    """The distribution of the latency; nothing where no run was kept."""
    reports = [report for report in reports if report.samples_ms]
    if not reports:
        return ()
    num_samples = sum(len(report.samples_ms) for report in reports)
    caption = (
        f"Each height counts timed runs. Line: median. Dotted: p99. {plots.num_beyond(reports)} of "
        f"{count(num_samples, 'run')} are slower than the axis reaches."
    )
    plot, grid = plots.distribution_plot(reports), latency_grid(reports)
    return (Figure("Distribution", plot, caption, grid),)


def _galleries(report: VerifyReport) -> list[dict[str, Any]]:
    """The images on which each precision differs most, the candidate's first."""
    verdict, measure = report.verdict, task_of(report.model).wording.divergence
    compared = [a for a in report.accuracy if a.worst and not is_reference(a)]
    compared.sort(key=lambda a: (not is_of_candidate(a, verdict), a.precision != verdict.candidate))
    galleries = []
    for accuracy in compared:
        most = MAX_PICTURES if is_of_candidate(accuracy, verdict) else MAX_PICTURES // 2
        reference = _precision_of(accuracy)
        pictures = [
            {
                "shown": worst,
                "alt": _alt(worst, reference, accuracy.precision),
                "distance": measure.format(significant(worst.divergence)) + _scores(worst),
            }
            for worst in accuracy.worst[:most]
        ]
        galleries.append(
            {
                "name": name_in(accuracy, report.accuracy),
                "precision": accuracy.precision,
                "reference": reference,
                "pictures": pictures,
                "num_left_out": len(accuracy.worst) - len(pictures),
            }
        )
    return galleries


def _scores(worst: Disagreement) -> str:
    """Both scores of a regression model, nothing of other tasks."""
    pairs = zip(worst.reference_scores, worst.candidate_scores, strict=True)
    shown = ", ".join(f"{significant(a.value)} became {significant(b.value)}" for a, b in pairs)
    return f": {shown}" if shown else ""


def _alt(worst: Disagreement, reference: str, candidate: str) -> str:
    """What a picture shows and what both precisions make of it, for who cannot see it."""
    parts = [f"Image {worst.image} as the model sees it"]
    if worst.label is not None:
        parts.append(f"true label {worst.label}")
    for precision, answers in ((reference, worst.reference), (candidate, worst.candidate)):
        if answers:
            parts.append(f"{precision} answers {answers[0].label}, {percent(answers[0].score, 1)}")
    return "; ".join(parts)
