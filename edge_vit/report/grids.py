"""Reports as grids of words: what the terminal prints and the page shows is the same table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_vit.formats import REFERENCE
from edge_vit.measure.gates import agreement_can_fail
from edge_vit.measure.measured import measures_of, task_of_report
from edge_vit.measure.recorder import runs_needed
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, Verdict
from edge_vit.measure.statistics import wilson_interval
from edge_vit.report.wording import (
    MISSING,
    OUTCOME_WORDS,
    count,
    listing,
    measured,
    number,
    percent,
    ratio,
    short_digest,
    significant,
    span,
)
from edge_vit.tasks.measures import Measure, MeasureValue

Row = tuple[str, ...]

TOO_FEW = "n/a"
"""Stands for a percentile that fewer than ten runs lie beyond."""


@dataclass(frozen=True)
class Grid:
    """A table of finished words.

    Attributes:
        title: what it shows.
        columns: one heading per column.
        rows: as many cells each as there are columns.
        num_words: the first columns that hold words; all others hold numbers, set to the right.
        note: the conditions, without which the numbers mean nothing.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    num_words: int = 1
    note: str = ""


def is_reference(report: AccuracyReport) -> bool:
    """Say whether `report` compares the reference with itself."""
    return report.reference == f"{report.precision} {report.backend}"


def accuracy_grid(reports: Sequence[AccuracyReport]) -> Grid:
    """Return one column for the reference and one for each precision held against it.

    Args:
        reports: at least one, all of the same images and the same reference.
    """
    measures: Row = (
        *("top-1", "top-5", "same answer", "95 % interval (%)", "cosine, mean", "cosine, least"),
        *("SQNR (dB)", "KL (nats)", "lost", "gained", "each label (%)", "error (% of spread)"),
    )
    more = [each for each in measures_of(reports[0].task).values() if each.has_row]
    measures += tuple(f"{each.title} (%)" if each.unit == "share" else each.title for each in more)
    columns = [(*_reference_column(reports[0]), *_measured(reports[0], more, of_reference=True))]
    columns += [
        (*_accuracy_column(report), *_measured(report, more))
        for report in reports
        if not is_reference(report)
    ]
    return side_by_side("Accuracy", measures, columns, accuracy_conditions(reports[0]))


def _reference_column(report: AccuracyReport) -> Row:
    return (
        report.reference,
        percent(report.reference_top1),
        percent(report.reference_top5),
        "reference",
        *(MISSING,) * 9,
    )


def _measured(
    report: AccuracyReport, measures: Sequence[Measure], *, of_reference: bool = False
) -> Row:
    """Return the cell of each of `measures`."""
    cells = []
    for measure in measures:
        found = report.measures.get(measure.name, MeasureValue(None))
        value = found.reference if of_reference else found.value
        is_share = measure.unit == "share" and value is not None
        cells.append(f"{100 * (value or 0):.2f}" if is_share else significant(value))
    return tuple(cells)


def _accuracy_column(report: AccuracyReport) -> Row:
    low, high = wilson_interval(report.num_agreeing, report.num_images)
    labelled, has_direction = report.num_labelled > 0, task_of_report(report).has_direction
    says_something = agreement_can_fail(report)
    return (
        f"{report.precision} {report.backend}",
        percent(report.top1),
        percent(report.top5),
        percent(report.agreement) if says_something else MISSING,
        f"{100 * low:.2f} – {100 * high:.2f}" if says_something else MISSING,
        number(report.cosine_mean, 6) if has_direction else MISSING,
        number(report.cosine_min, 6) if has_direction else MISSING,
        "equal" if report.sqnr_db is None else number(report.sqnr_db, 1),
        significant(report.kl_mean),
        str(report.num_lost) if labelled else MISSING,
        str(report.num_gained) if labelled else MISSING,
        MISSING if report.label_agreement is None else f"{100 * report.label_agreement:.2f}",
        _score_error(report),
    )


def _score_error(report: AccuracyReport) -> str:
    """Return the largest error of a score, in percent of the spread of the reference's values."""
    if not report.scores or any(score.spread == 0 for score in report.scores):
        return MISSING
    return significant(max(100 * score.mean_error / score.spread for score in report.scores))


def side_by_side(title: str, measures: Sequence[str], columns: Sequence[Row], note: str) -> Grid:
    """Return `columns` (a heading, then one cell per measure) as a grid with a row per measure.

    Short columns are filled up; measures of which no column says anything are left out.
    """
    cells = [column[1:] + (MISSING,) * (len(measures) + 1 - len(column)) for column in columns]
    rows = zip(measures, *cells, strict=True)
    said = tuple(row for row in rows if any(cell != MISSING for cell in row[1:]))
    return Grid(title, ("", *(column[0] for column in columns)), said, 1, note)


def longest(
    title: str, columns: Row, rows: Sequence[Row], most: int, noun: str, num_words: int = 1
) -> Grid:
    """Return the first `most` of `rows` as a grid that says how many more `noun` there are."""
    left_out = len(rows) - most
    note = f"{left_out} more {noun} are in the JSON report." if left_out > 0 else ""
    return Grid(title, columns, tuple(rows[:most]), num_words, note)


def accuracy_conditions(report: AccuracyReport) -> str:
    """Return in words which images were compared, and what that can and cannot say."""
    sentences = [
        f"{count(report.num_images, 'image')} of {report.data} "
        f"(digest {short_digest(report.data_digest)}), {report.num_labelled} of them labelled, "
        f"against {report.reference}."
    ]
    if report.num_labelled:
        sentences.append(
            "Lost: the reference was right and this precision is wrong; gained: the opposite."
        )
    else:
        sentences.append(task_of_report(report).wording.agreement)
    if report.num_calibrated_on:
        sentences.append(
            f"{count(report.num_calibrated_on, 'image')} also served for calibration, "
            "so these rates flatter INT8. No gate counts them."
        )
    return " ".join(sentences)


def latency_grid(reports: Sequence[LatencyReport]) -> Grid:
    """Return one column per precision, with its speed-up over fp32 where that ran too.

    Args:
        reports: at least one, all of the same run.
    """
    measures: Row = (
        *("p50 (ms)", "p90 (ms)", "p99 (ms)", "mean (ms)", "min (ms)", "max (ms)"),
        *("images/s", "speed-up over fp32"),
    )
    columns = []
    for report in reports:
        summary = report.latency_ms
        times = (summary.p50, summary.p90, summary.p99, summary.mean, summary.min, summary.max)
        columns.append(
            (
                f"{report.precision} {report.backend}",
                *(significant(time) for time in times[:2]),
                significant(times[2]) if report.iterations >= runs_needed(99) else TOO_FEW,
                *(significant(time) for time in times[3:]),
                number(report.throughput_ips, 1),
                ratio(speedup_over_fp32(report, reports)),
            )
        )
    return side_by_side("Latency", measures, columns, latency_conditions(reports[0]))


def speedup_over_fp32(report: LatencyReport, reports: Sequence[LatencyReport]) -> float | None:
    """Return median of fp32 / median of `report`, None where fp32 did not run beside it."""
    for other in reports:
        if other.precision == REFERENCE and other.backend == report.backend:
            return other.latency_ms.p50 / report.latency_ms.p50
    return None


def latency_conditions(report: LatencyReport) -> str:
    """Return in words how the time was taken."""
    turns = turns_of(report)
    return (
        f"Batch {report.batch_size}, {count(report.threads, 'thread')}, "
        f"{count(report.iterations, 'timed run')} after {report.warmup} of warm-up, {turns}, "
        f"on {report.environment.device}. The speed-up is the ratio of the medians."
    )


def place_of(report: AccuracyReport | LatencyReport | Gate) -> str:
    """Return precision and backend; the latter is not known of gates of format 1."""
    return f"{report.precision} {report.backend}".strip()


def recommendation(verdict: Verdict) -> str:
    """Return what to ship: the precision, and on which backend where that is known."""
    if not verdict.recommended_backend:
        return verdict.recommended
    return f"{verdict.recommended} on {verdict.recommended_backend}"


def name_in(
    report: AccuracyReport | LatencyReport, reports: Sequence[AccuracyReport | LatencyReport]
) -> str:
    """Return how a plot calls `report`: its precision, and its backend where there are several."""
    is_only = len({other.backend for other in reports}) == 1
    return report.precision if is_only else place_of(report)


def turns_of(report: LatencyReport) -> str:
    """Return what took turns with `report`: its precisions, or how many where some ran twice."""
    others = report.interleaved_with
    if len(set(others)) == len(others) and report.precision not in others:
        return f"in turns with {listing(others)}" if others else "alone"
    return f"in turns with {len(others)} others"


def gates_grid(verdict: Verdict) -> Grid:
    """Return one row per gate, with its limit, its value and the interval of the value."""
    rows = tuple(
        (
            gate.name,
            place_of(gate),
            " ".join(OUTCOME_WORDS[gate.outcome]),
            measured(gate.limit),
            measured(gate.value),
            span(gate.low, gate.high),
            MISSING if gate.images_needed is None else number(gate.images_needed, 0),
        )
        for gate in verdict.gates
    )
    columns = (
        *("gate", "precision", "outcome", "limit", "measured", "95 % bounds"),
        "images needed",
    )
    return Grid("Gates", columns, rows, 3)
