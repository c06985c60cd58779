"""Reports as grids of words: what the terminal prints and the page shows is the same table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_vit.formats import REFERENCE
from edge_vit.measure.gates import agreement_can_fail
from edge_vit.measure.measured import measures_of, task_of_report
from edge_vit.measure.recorder import runs_needed
from edge_vit.measure.results import (
    AccuracyReport,
    FindingOutcome,
    Gate,
    LatencyReport,
    Outcome,
    Verdict,
)
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

TOO_FEW = "n/a"  # stands for a percentile that fewer than ten runs lie beyond


@dataclass(frozen=True)
class Grid:
    """A table of finished words."""

    title: str
    columns: Row
    rows: tuple[Row, ...]
    num_words: int = 1  # columns of words; those behind hold numbers, set to the right
    note: str = ""  # the conditions, without which the numbers mean nothing


def side_by_side(
    title: str, columns: Sequence[tuple[str, Mapping[str, str]]], note: str = ""
) -> Grid:
    """Return `columns`, a heading with its cells by measure, as a grid with a row per measure.

    Measures of which no column says anything are left out.
    """
    measures = dict.fromkeys(measure for _, cells in columns for measure in cells)
    rows = [
        (measure, *(cells.get(measure, MISSING) for _, cells in columns)) for measure in measures
    ]
    said = tuple(row for row in rows if any(cell != MISSING for cell in row[1:]))
    return Grid(title, ("", *(heading for heading, _ in columns)), said, 1, note)


def longest(
    title: str, columns: Row, rows: Sequence[Row], most: int, noun: str, num_words: int = 1
) -> Grid:
    """Return the first `most` of `rows` as a grid that says how many more `noun` there are."""
    left_out = len(rows) - most
    note = f"{left_out} more {noun} are in the JSON report." if left_out > 0 else ""
    return Grid(title, columns, tuple(rows[:most]), num_words, note)


def accuracy_grid(reports: Sequence[AccuracyReport]) -> Grid:
    """Return one column for the reference and one for each precision held against it."""
    first = reports[0]
    more = [each for each in measures_of(first.task).values() if each.has_row]
    columns = [(first.reference, _reference_column(first) | _measured(first, more, "reference"))]
    columns += [
        (place_of(report), _accuracy_column(report) | _measured(report, more, "value"))
        for report in reports
        if not is_reference(report)
    ]
    return side_by_side("Accuracy", columns, accuracy_conditions(first))


def _reference_column(report: AccuracyReport) -> dict[str, str]:
    return {
        "top-1": percent(report.reference_top1),
        "top-5": percent(report.reference_top5),
        "same answer": "reference",
    }


def _accuracy_column(report: AccuracyReport) -> dict[str, str]:
    low, high = wilson_interval(report.num_agreeing, report.num_images)
    cells = {
        "top-1": percent(report.top1),
        "top-5": percent(report.top5),
        "same answer": percent(report.agreement),
        "95 % interval (%)": f"{100 * low:.2f} – {100 * high:.2f}",
        "cosine, mean": number(report.cosine_mean, 6),
        "cosine, least": number(report.cosine_min, 6),
        "SQNR (dB)": "equal" if report.sqnr_db is None else number(report.sqnr_db, 1),
        "KL (nats)": significant(report.kl_mean),
        "lost": str(report.num_lost) if report.num_labelled else MISSING,
        "gained": str(report.num_gained) if report.num_labelled else MISSING,
        "each label (%)": MISSING,
        "error (% of spread)": significant(score_error(report)),
    }
    if report.label_agreement is not None:
        cells["each label (%)"] = f"{100 * report.label_agreement:.2f}"
    if not agreement_can_fail(report):
        cells["same answer"] = cells["95 % interval (%)"] = MISSING
    task = task_of_report(report)
    if not task.has_direction:
        cells["cosine, mean"] = cells["cosine, least"] = MISSING
    if task.is_drawn:  # its divergence is of boxes or pixels
        cells["KL (nats)"] = MISSING
    return cells


def _measured(report: AccuracyReport, measures: Sequence[Measure], which: str) -> dict[str, str]:
    """Return the `which`, value or reference, of each of `measures`."""
    cells = {}
    for measure in measures:
        value = getattr(report.measures.get(measure.name, MeasureValue(None)), which)
        if measure.unit == "share":
            words = MISSING if value is None else f"{100 * value:.2f}"
            cells[f"{measure.title} (%)"] = words
        elif measure.unit == "count":
            cells[measure.title] = number(value, 0)
        else:
            cells[measure.title] = significant(value)
    return cells


def score_error(report: AccuracyReport) -> float | None:
    """Return the largest error of a score, in percent of the spread of the reference's values."""
    if not report.scores or any(score.spread == 0 for score in report.scores):
        return None
    return max(100 * score.mean_error / score.spread for score in report.scores)


def accuracy_conditions(report: AccuracyReport) -> str:
    """Return in words which images were compared, and what that can and cannot say."""
    task = task_of_report(report)
    name = task.loss_of(report.measures)
    needs_truth = all(each.compare is None for each in task.measures if each.name == name)
    is_judged = name not in ("", task.unlabelled_loss)
    judged = ("with their truth" if needs_truth else "without truth") if is_judged else None
    sentences = [
        f"{count(report.num_images, 'image')} of {report.data} "
        f"(digest {short_digest(report.data_digest)}), "
        f"{judged or f'{report.num_labelled} of them labelled'}, "
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
    """Return one column per precision of one run, with its speed-up over fp32 where that ran."""
    columns = []
    for report in reports:
        summary, is_enough = report.latency_ms, report.iterations >= runs_needed(99)
        cells = {
            "p50 (ms)": significant(summary.p50),
            "p90 (ms)": significant(summary.p90),
            "p99 (ms)": significant(summary.p99) if is_enough else TOO_FEW,
            "mean (ms)": significant(summary.mean),
            "min (ms)": significant(summary.min),
            "max (ms)": significant(summary.max),
            "images/s": number(report.throughput_ips, 1),
            "speed-up over fp32": ratio(speedup_over_fp32(report, reports)),
        }
        columns.append((place_of(report), cells))
    first = reports[0]
    note = (
        f"Batch {first.batch_size}, {count(first.threads, 'thread')}, "
        f"{count(first.iterations, 'timed run')} after {first.warmup} of warm-up, "
        f"{turns_of(first)}, on {first.environment.device}. The speed-up is the ratio of the "
        "medians."
    )
    return side_by_side("Latency", columns, note)


def speedup_over_fp32(report: LatencyReport, reports: Sequence[LatencyReport]) -> float | None:
    """Return median of fp32 / median of `report`, None where fp32 did not run beside it."""
    for other in reports:
        if other.precision == REFERENCE and other.backend == report.backend:
            return other.latency_ms.p50 / report.latency_ms.p50
    return None


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


def verdict_lines(verdict: Verdict) -> list[tuple[Outcome | FindingOutcome, str, str, str]]:
    """Return outcome, place, name and sentence of every finding and gate, findings first."""
    findings = [(f.outcome, "evaluation", f.name, f.sentence) for f in verdict.findings]
    return [*findings, *((g.outcome, place_of(g), g.name, g.sentence) for g in verdict.gates)]


def is_reference(report: AccuracyReport) -> bool:
    """Return whether `report` compares the reference with itself."""
    return report.reference == f"{report.precision} {report.backend}"


def is_of_candidate(each: AccuracyReport | Gate, verdict: Verdict) -> bool:
    """Return whether a report or a gate is of the candidate, where the verdict took it to run."""
    return (each.precision, each.backend) == (verdict.candidate, verdict.backend or each.backend)


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
