"""What the HTML page shows, section by section, as values; the template only sets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_vit.formats import REFERENCE
from edge_vit.measure.gates import agreement_can_fail
from edge_vit.measure.results import (
    AccuracyReport,
    Disagreement,
    LatencyReport,
    Verdict,
    VerifyReport,
)
from edge_vit.report.accuracy_plots import accuracy_plot, gates_plot
from edge_vit.report.conditions import conditions
from edge_vit.report.details import accuracy_details, latency_details
from edge_vit.report.engines import engines_grid
from edge_vit.report.figure import Figure
from edge_vit.report.grids import (
    Grid,
    accuracy_grid,
    gates_grid,
    is_reference,
    latency_grid,
    name_in,
    speedup_over_fp32,
)
from edge_vit.report.latency_plots import course, course_plot, distribution_plot, num_beyond
from edge_vit.report.precision import precision_figures, recipe_grid
from edge_vit.report.wording import count, is_known, number, percent, ratio, significant
from edge_vit.runtime.trt.sidecar import Engine
from edge_vit.spec import Precision
from edge_vit.spec.table import CalibrationTable
from edge_vit.tasks import task_of

MAX_PICTURES = 12
"""Shown of the candidate; of every other precision half as many, to keep the page small."""


@dataclass(frozen=True)
class KeyFigures:
    """The few numbers of one precision that people look for first: (what, how much)."""

    name: str
    precision: Precision
    is_recommended: bool
    median_ms: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Picture:
    """One image on which the answers differ most, with its text for those who cannot see it."""

    shown: Disagreement
    alt: str
    distance: str


@dataclass(frozen=True)
class Gallery:
    """The worst images of one precision."""

    name: str
    precision: Precision
    reference: str
    pictures: tuple[Picture, ...]
    num_left_out: int


@dataclass(frozen=True)
class Page:
    """The whole page; a section that has nothing to show is None or empty."""

    report: VerifyReport
    key_figures: tuple[KeyFigures, ...]
    gates: Figure | None
    latency: tuple[Figure, ...]
    accuracy: Figure | None
    galleries: tuple[Gallery, ...]
    latency_details: tuple[Grid, ...]
    accuracy_details: tuple[Grid, ...]
    precision: tuple[Figure, ...]
    precision_details: tuple[Grid, ...]
    conditions: tuple[Grid, ...]

    @property
    def is_pixelated(self) -> bool:
        """Whether the pictures are so small that they are enlarged pixel by pixel."""
        return max(self.report.model.preprocess.image_size) <= 64

    @property
    def created(self) -> str:
        """When the report was made, for people."""
        return self.report.created.replace("T", " ").replace("+00:00", " UTC")


def make_page(
    report: VerifyReport, table: CalibrationTable | None, engines: Sequence[Engine] = ()
) -> Page:
    """Return all that the page shows of `report`, plots drawn."""
    compared = any(not is_reference(accuracy) for accuracy in report.accuracy)
    details = [engines_grid(engines)] if engines else []
    if table and table.sites:
        details.insert(0, recipe_grid(table))
    return Page(
        report,
        key_figures(report),
        gates_figure(report),
        latency_figures(report.latency),
        accuracy_figure(report.accuracy) if compared else None,
        galleries(report),
        latency_details(report.latency),
        accuracy_details(report.accuracy, report.verdict, report.model),
        precision_figures(table) if table and table.sites else (),
        tuple(grid for grid in details if grid.rows),
        conditions(report, table),
    )


def key_figures(report: VerifyReport) -> tuple[KeyFigures, ...]:
    """Return the key figures of each precision that was timed."""
    accuracy = {(a.precision, a.backend): a for a in report.accuracy}
    reference = report.accuracy[0] if report.accuracy else None
    figures = []
    for latency in report.latency:
        facts = [("images per second", number(latency.throughput_ips, 0))]
        speedup = speedup_over_fp32(latency, report.latency)
        if latency.precision != REFERENCE and speedup is not None:
            facts.append(("speed-up over fp32", ratio(speedup)))
        measured = accuracy.get((latency.precision, latency.backend))
        if measured and not is_reference(measured):
            facts += _facts_of(measured.top1)
            facts += _agreement_of(measured)
        elif reference and reference.reference == f"{latency.precision} {latency.backend}":
            facts += _facts_of(reference.reference_top1)
            facts.append(("role", "reference"))
        figures.append(
            KeyFigures(
                name_in(latency, report.latency),
                latency.precision,
                _is_recommended(latency, report.verdict),
                significant(latency.latency_ms.p50),
                tuple(facts),
            )
        )
    return tuple(figures)


def _is_recommended(latency: LatencyReport, verdict: Verdict) -> bool:
    place = (latency.precision, latency.backend)
    return place == (verdict.recommended, verdict.recommended_backend or latency.backend)


def _agreement_of(measured: AccuracyReport) -> list[tuple[str, str]]:
    reference = _precision_of(measured)
    if measured.scores and all(score.spread for score in measured.scores):
        error = max(score.mean_error / score.spread for score in measured.scores)
        return [(f"off {reference}, of its spread", percent(error))]
    if not agreement_can_fail(measured):
        return []
    return [(f"same answer as {reference}", percent(measured.agreement))]


def _facts_of(top1: float | None) -> list[tuple[str, str]]:
    return [] if top1 is None else [("top-1", percent(top1))]


def _precision_of(accuracy: AccuracyReport) -> str:
    """Return the reference's precision, without its backend."""
    return accuracy.reference.partition(" ")[0]


def gates_figure(report: VerifyReport) -> Figure | None:
    """Return the gates that have a value on their axes, or None where there are none."""
    gates = [gate for gate in report.verdict.gates if is_known(gate.value)]
    if not gates:
        return None
    caption = (
        "Dot: measured. Bar: from the lower to the upper 95 % bound. Dashed: the limit. "
        "Shaded: where the gate passes."
    )
    return Figure(
        "Measured against the limits", gates_plot(gates), caption, gates_grid(report.verdict)
    )


def latency_figures(reports: Sequence[LatencyReport]) -> tuple[Figure, ...]:
    """Return the distribution of the latency and its course; nothing where no run was kept."""
    reports = [report for report in reports if report.samples_ms]
    if not reports:
        return ()
    beyond = num_beyond(reports)
    num_samples = sum(len(report.samples_ms) for report in reports)
    caption = (
        "Each height counts timed runs. Line: median. Dotted: p99. "
        f"{beyond} of {count(num_samples, 'run')} are slower than the axis reaches."
    )
    distribution = Figure(
        "Distribution", distribution_plot(reports), caption, latency_grid(reports)
    )
    course_caption = (
        "Line: median of neighbouring runs. Shaded: their middle 80 %. Level lines mean that the "
        "machine was steady, so that the precisions can be compared."
    )
    return distribution, Figure(
        "In the course of the run", course_plot(reports), course_caption, course_grid(reports)
    )


def course_grid(reports: Sequence[LatencyReport]) -> Grid:
    """Return the medians that the course plot draws, one block of rows per precision."""
    rows = tuple(
        (name_in(report, reports), number(turn, 0), *map(significant, (low, middle, high)))
        for report in reports
        for turn, low, middle, high in zip(*course(report.samples_ms), strict=True)
    )
    columns = ("precision", "turn", "p10 (ms)", "median (ms)", "p90 (ms)")
    return Grid("In the course of the run", columns, rows)


def accuracy_figure(reports: Sequence[AccuracyReport]) -> Figure:
    """Return the rates of every precision with their intervals."""
    caption = "Dot: measured share of the images. Bar: its 95 % interval (Wilson)."
    return Figure("Same answers?", accuracy_plot(reports), caption, accuracy_grid(reports))


def galleries(report: VerifyReport) -> tuple[Gallery, ...]:
    """Return the worst images of each precision, the candidate's first."""
    compared = [a for a in report.accuracy if a.worst and not is_reference(a)]
    verdict = report.verdict
    chosen = (verdict.candidate, verdict.backend)
    compared.sort(
        key=lambda a: ((a.precision, a.backend) != chosen, a.precision != verdict.candidate)
    )
    return tuple(_gallery(a, report) for a in compared)


def _gallery(accuracy: AccuracyReport, report: VerifyReport) -> Gallery:
    verdict = report.verdict
    is_candidate = (accuracy.precision, accuracy.backend) == (
        verdict.candidate,
        verdict.backend or accuracy.backend,
    )
    most = MAX_PICTURES if is_candidate else MAX_PICTURES // 2
    reference, name = _precision_of(accuracy), name_in(accuracy, report.accuracy)
    measure = task_of(report.model).wording.divergence
    pictures = tuple(
        Picture(
            worst,
            picture_alt(worst, reference, accuracy.precision),
            measure.format(significant(worst.divergence)) + _scores(worst),
        )
        for worst in accuracy.worst[:most]
    )
    return Gallery(
        name, accuracy.precision, reference, pictures, len(accuracy.worst) - len(pictures)
    )


def _scores(worst: Disagreement) -> str:
    """Return both scores of a regression model, nothing of other tasks."""
    pairs = zip(worst.reference_scores, worst.candidate_scores, strict=True)
    shown = ", ".join(f"{significant(a.value)} became {significant(b.value)}" for a, b in pairs)
    return f": {shown}" if shown else ""


def picture_alt(worst: Disagreement, reference: str, candidate: str) -> str:
    """Return what a picture shows and what both precisions make of it."""
    parts = [f"Image {worst.image} as the model sees it"]
    if worst.label is not None:
        parts.append(f"true label {worst.label}")
    for precision, answers in ((reference, worst.reference), (candidate, worst.candidate)):
        if answers:
            parts.append(f"{precision} answers {answers[0].label}, {percent(answers[0].score, 1)}")
    return "; ".join(parts)
