"""What `edgevit bench` measured, as grids: percentiles, stages, cold start and energy."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.measure.percentiles import runs_needed
from edge_vit.measure.results import LatencyReport
from edge_vit.report.grids import Grid, Row, latency_conditions, place_of
from edge_vit.report.wording import MISSING, number, significant, span

NOT_ENOUGH = "n/a"


def percentiles_grid(report: LatencyReport) -> Grid:
    """Return each percentile with its 95 % interval, then mean and extremes."""
    summary = report.latency_ms
    rows: list[Row] = [
        (
            f"p{percentile.percent:g}",
            NOT_ENOUGH if percentile.ms is None else significant(percentile.ms),
            span(percentile.low_ms, percentile.high_ms),
        )
        for percentile in report.percentiles
    ]
    for name, value in (("mean", summary.mean), ("min", summary.min), ("max", summary.max)):
        rows.append((name, significant(value), MISSING))
    missing = [p.percent for p in report.percentiles if p.ms is None]
    note = f"{report.label[:1].upper()}{report.label[1:]}. " if report.label else ""
    note += latency_conditions(report).removesuffix(" The speed-up is the ratio of the medians.")
    note += f" Timed on {report.timed_on}."
    if missing:
        wanted = ", ".join(f"p{p:g} {number(runs_needed(p), 0)}" for p in missing)
        note += f" {NOT_ENOUGH}: too few runs; wanted: {wanted}."
    title = f"Latency of {place_of(report)}: {report.scenario}"
    return Grid(title, ("", "ms", "95 % interval"), tuple(rows), 1, note)


def stages_grid(report: LatencyReport) -> Grid:
    """Return where the time went, as far as it is known."""
    rows = tuple(
        (
            stage.name,
            significant(stage.p50_ms),
            significant(stage.p90_ms),
            significant(stage.mean_ms),
        )
        for stage in report.stages
    )
    note = (
        "run is the call of the model, copies included; end-to-end is from a decoded image to its "
        "answer, as for a camera's frame."
        if any(stage.name == "end-to-end" for stage in report.stages)
        else ""
    )
    return Grid("Stages", ("", "p50 (ms)", "p90 (ms)", "mean (ms)"), rows, 1, note)


def figures_grid(report: LatencyReport) -> Grid:
    """Return throughput, how steady it was, cold start and energy, as far as they are known."""
    variation = report.variation
    rows: list[Row] = [
        ("throughput", f"{number(report.throughput_ips, 1)} images/s"),
        ("variation", MISSING if variation is None else f"{100 * variation:.1f} %"),
    ]
    cold = report.cold_start
    if cold is not None:
        total = cold.process_ms + cold.load_ms + cold.first_run_ms
        rows += [
            (
                "cold start",
                f"{significant(total)} ms: {significant(cold.process_ms)} process, "
                f"{significant(cold.load_ms)} load, {significant(cold.first_run_ms)} first run",
            ),
            (
                "memory, at most",
                MISSING
                if cold.memory_peak_mib is None
                else f"{number(cold.memory_peak_mib, 0)} MiB until the first answer",
            ),
        ]
    if report.energy is not None:
        energy = report.energy
        rows.append(
            (
                "energy",
                f"{significant(1000 * energy.joules_per_image)} mJ per image at "
                f"{significant(energy.mean_w)} W ({energy.source})",
            )
        )
    return Grid("Figures", ("", ""), tuple(rows), 2)


def bench_grids(report: LatencyReport) -> Sequence[Grid]:
    """Return all grids of one timing, those left out that say nothing."""
    grids = [percentiles_grid(report), stages_grid(report), figures_grid(report)]
    return [grid for grid in grids if len(grid.rows) > (grid.title == "Stages")]


def warning_lines(report: LatencyReport) -> Sequence[str]:
    """Return each warning as one line."""
    return [f"{warning.name}: {warning.sentence}" for warning in report.warnings]
