"""The loop in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge_vit.camera.summary import CameraSummary, Percentiles
from edge_vit.device.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float | None]
"""Labels and a value; one that is not known is left out."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def metrics_text(summary: CameraSummary, reading: Telemetry | None) -> str:
    """Return how the loop and the machine stand."""
    facts = {"model": summary.model, "backend": summary.backend, "precision": summary.precision}
    families = [
        _family("edgevit_info", "gauge", "What runs.", [(facts, 1)]),
        _family("edgevit_uptime_seconds", "gauge", "Of the loop.", [({}, summary.seconds)]),
        _family("edgevit_fps", "gauge", "Answers a second, lately.", [({}, summary.recent_fps)]),
        _family("edgevit_frames_total", "counter", "What became of frames.", _frames(summary)),
        _family(
            "edgevit_source_running",
            "gauge",
            "Whether a source gives frames.",
            [({"source": s.name}, float(s.state == "running")) for s in summary.sources],
        ),
        _family(
            "edgevit_source_reopened_total",
            "counter",
            "Times that a source was opened anew.",
            [({"source": s.name}, s.num_reopened) for s in summary.sources],
        ),
        _family("edgevit_sink_answers_total", "counter", "What sinks took.", _sinks(summary)),
        _summary("edgevit_latency_seconds", "From capture to answer.", [({}, summary.latency_ms)]),
        _summary(
            "edgevit_stage_seconds",
            "The parts of the latency.",
            [({"stage": stage}, values) for stage, values in summary.stage_ms.items()],
        ),
    ]
    return "".join([*families, *(_sensors(reading) if reading else ())])


def _frames(summary: CameraSummary) -> list[Sample]:
    return [
        ({"source": source.name, "outcome": outcome}, getattr(source.counts, outcome))
        for source in summary.sources
        for outcome in ("answered", "dropped", "failed")
    ]


def _sinks(summary: CameraSummary) -> list[Sample]:
    return [
        ({"sink": sink.name, "outcome": outcome}, getattr(sink, outcome))
        for sink in summary.sinks
        for outcome in ("written", "dropped", "failed")
    ]


def _quantiles(labels: Mapping[str, str], values: Percentiles) -> list[Sample]:
    known = {"0.5": values.p50, "0.9": values.p90, "0.99": values.p99, "0.999": values.p999}
    return [
        ({**labels, "quantile": quantile}, None if value is None else value / 1e3)
        for quantile, value in known.items()
    ]


def _sensors(reading: Telemetry) -> list[str]:
    source = {"source": reading.power_source}
    return [
        _family("edgevit_power_watts", "gauge", "What is drawn.", [(source, reading.power_w)]),
        _family(
            "edgevit_temperature_celsius",
            "gauge",
            "Of each thermal zone.",
            [({"zone": name}, value) for name, value in reading.temperatures_c.items()],
        ),
        _family(
            "edgevit_clock_hertz",
            "gauge",
            "Of GPU, memory and processors.",
            [({"clock": name}, value * 1e6) for name, value in reading.clocks_mhz.items()],
        ),
        _family(
            "edgevit_throttled",
            "gauge",
            "Whether the machine is slowed down.",
            [({}, float(bool(reading.throttling)))],
        ),
        _family(
            "edgevit_throttle_events_total",
            "counter",
            "How often it was slowed down since it started.",
            [({}, reading.num_throttle_events)],
        ),
    ]


def _summary(
    name: str, what: str, latencies: Iterable[tuple[Mapping[str, str], Percentiles]]
) -> str:
    """A summary: quantiles since the start, and sum and count, of which rates are made."""
    lines = []
    for labels, values in latencies:
        samples = [(name, *sample) for sample in _quantiles(labels, values)]
        samples.append((f"{name}_sum", labels, (values.mean or 0) / 1e3 * values.count))
        samples.append((f"{name}_count", labels, values.count))
        lines += [_line(*sample) for sample in samples if sample[2] is not None]
    return _with_help(name, "summary", what, lines)


def _family(name: str, kind: str, what: str, samples: Iterable[Sample]) -> str:
    known = [(labels, value) for labels, value in samples if value is not None]
    return _with_help(name, kind, what, [_line(name, *sample) for sample in known])


def _line(name: str, labels: Mapping[str, str], value: float | None) -> str:
    return f"{name}{_labels(labels)} {float(value or 0)!r}"


def _with_help(name: str, kind: str, what: str, lines: Sequence[str]) -> str:
    """The family of `name` with its head; nothing where there is no line of it."""
    if not lines:
        return ""
    return "\n".join([f"# HELP {name} {what}", f"# TYPE {name} {kind}", *lines]) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"
