"""How the loop went, in lines for people."""

from __future__ import annotations

from edge_vit.camera.summary import CameraSummary, Percentiles
from edge_vit.camera.values import CameraPrediction, SourceStatus

_CLOCKS = {"driver": "the driver's stamp", "arrival": "the frame's arrival"}


def summary_lines(summary: CameraSummary) -> list[str]:
    """Return what there is to say at the end."""
    counts = summary.counts
    lines = [
        f"{counts.answered} of {counts.captured} frames answered, {counts.dropped} dropped, "
        f"{counts.failed} failed, in {summary.seconds:.1f} s: {summary.fps:.1f} a second",
    ]
    if counts.answered:
        clocks = " and ".join(_CLOCKS[clock] for clock in summary.clocks)
        lines.append(f"latency from {clocks} to the answer: {_percentiles(summary.latency_ms)}")
        lines.append(f"age when the model began: {_percentiles(summary.age_ms)}")
        parts = ", ".join(
            f"{stage} {parts.p50:.2f}"
            for stage, parts in summary.stage_ms.items()
            if parts.p50 is not None
        )
        lines.append(f"its parts, p50 in ms: {parts}")
    lines.append(
        f"{summary.model} in {summary.precision} on {summary.backend}, threads {summary.threads}, "
        f"batch {summary.batch_size}; preprocessing: {summary.preprocessing}"
    )
    if summary.degraded:
        lines.append(f"a fallback runs: {summary.degraded}")
    lines += [_source_line(source) for source in summary.sources]
    for sink in summary.sinks:
        if sink.dropped or sink.failed:
            why = f" ({sink.last_error})" if sink.last_error else ""
            lines.append(
                f"{sink.name}: {sink.written} written, {sink.dropped} dropped, "
                f"{sink.failed} failed{why}"
            )
    return lines


def prediction_line(prediction: CameraPrediction) -> str:
    """Return one line that says what was seen, where and how late."""
    frame = prediction.frame
    what = prediction.shown.line + ("" if prediction.is_confident else " (unsure)")
    # Of a file the latency is the time in queues, which does not matter.
    latency = f"  {frame.stamps.latency_ms:.1f} ms" if frame.is_live else ""
    return f"{frame.source} #{frame.number}: {what}{latency}"


def _source_line(source: SourceStatus) -> str:
    given = source.format
    if given is None:
        return f"{source.name}: never opened. {source.last_error}".strip()
    size = f"{given.width}x{given.height}" if given.width else "any size"
    rate = f" at {given.rate:.4g} frames/s" if given.rate else ""
    line = f"{source.name}: {size}{rate}, colour: {given.colour}"
    if source.num_reopened:
        times = "once" if source.num_reopened == 1 else f"{source.num_reopened} times"
        line += f"; opened anew {times}, last because: {source.last_error}"
    if source.undecoded:
        line += f"; left out {source.left_out}"
    return line


def _percentiles(latency: Percentiles) -> str:
    named = {"p50": latency.p50, "p90": latency.p90, "p99": latency.p99, "p99.9": latency.p999}
    shown = [f"{name} {value:.1f}" for name, value in named.items() if value is not None]
    return ", ".join(shown) + f", max {latency.max:.1f} ms"
