"""The loop in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edge_vit.camera.summary import CameraSummary, Percentiles
from edge_vit.device.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_QUANTILES = {"0.5": "p50", "0.9": "p90", "0.99": "p99", "0.999": "p999"}

Sample = tuple[Mapping[str, str], float | None]
"""Labels and a value; one that is not known is left out."""


def metrics_text(summary: CameraSummary, reading: Telemetry | None) -> str:
    """Return how the loop and the machine stand."""
    facts = {"model": summary.model, "backend": summary.backend, "precision": summary.precision}
    sources = {source.name: source for source in summary.sources}
    sinks = {sink.name: sink for sink in summary.sinks}
    frames = {name: source.counts for name, source in sources.items()}
    running = {name: float(source.state == "running") for name, source in sources.items()}
    reopened = {name: source.num_reopened for name, source in sources.items()}
    stages = [({"stage": stage}, values) for stage, values in summary.stage_ms.items()]
    taken = _outcomes("sink", sinks, "written", "dropped", "failed")
    families = [
        _family("info", "gauge", "What runs.", [(facts, 1)]),
        _family("uptime_seconds", "gauge", "Of the loop.", [({}, summary.seconds)]),
        _family("fps", "gauge", "Answers a second, lately.", [({}, summary.recent_fps)]),
        _family(
            *("frames_total", "counter", "What became of frames."),
            _outcomes("source", frames, "answered", "dropped", "failed"),
        ),
        _family(
            *("source_running", "gauge", "Whether a source gives frames."),
            _labelled("source", running),
        ),
        _family(
            *("source_reopened_total", "counter", "Times that a source was opened anew."),
            _labelled("source", reopened),
        ),
        _family("sink_answers_total", "counter", "What sinks took.", taken),
        _summary("latency_seconds", "From capture to answer.", [({}, summary.latency_ms)]),
        _summary("stage_seconds", "The parts of the latency.", stages),
    ]
    if reading is not None:
        power = _labelled("source", {reading.power_source: reading.power_w})
        temperatures = _labelled("zone", reading.temperatures_c)
        clocks = {name: mhz * 1e6 for name, mhz in reading.clocks_mhz.items()}
        slowed: list[Sample] = [({}, float(bool(reading.throttling)))]
        events = "How often it was slowed down since it started."
        families += [
            _family("power_watts", "gauge", "What is drawn.", power),
            _family("temperature_celsius", "gauge", "Of each thermal zone.", temperatures),
            _family(
                *("clock_hertz", "gauge", "Of GPU, memory and processors."),
                _labelled("clock", clocks),
            ),
            _family("throttled", "gauge", "Whether the machine is slowed down.", slowed),
            _family(
                "throttle_events_total", "counter", events, [({}, reading.num_throttle_events)]
            ),
        ]
    return "".join(families)


def _labelled(label: str, values: Mapping[str, float | None]) -> list[Sample]:
    return [({label: name}, value) for name, value in values.items()]


def _outcomes(label: str, counted: Mapping[str, Any], *outcomes: str) -> list[Sample]:
    return [
        ({label: name, "outcome": outcome}, getattr(counts, outcome))
        for name, counts in counted.items()
        for outcome in outcomes
    ]


def _summary(
    name: str, what: str, latencies: Iterable[tuple[Mapping[str, str], Percentiles]]
) -> str:
    """A summary: quantiles since the start, and sum and count, of which rates are made."""
    lines = []
    for labels, values in latencies:
        for quantile, field in _QUANTILES.items():
            value_ms = getattr(values, field)
            if value_ms is not None:
                lines.append(_line(name, {**labels, "quantile": quantile}, value_ms / 1e3))
        lines.append(_line(f"{name}_sum", labels, (values.mean or 0) / 1e3 * values.count))
        lines.append(_line(f"{name}_count", labels, values.count))
    return _with_help(name, "summary", what, lines)


def _family(name: str, kind: str, what: str, samples: Iterable[Sample]) -> str:
    lines = [_line(name, labels, value) for labels, value in samples if value is not None]
    return _with_help(name, kind, what, lines)


def _with_help(name: str, kind: str, what: str, lines: list[str]) -> str:
    """The family of `name` with its head; nothing where there is no line of it."""
    head = [f"# HELP edgevit_{name} {what}", f"# TYPE edgevit_{name} {kind}"]
    return "\n".join([*head, *lines, ""]) if lines else ""


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels.items())
    return f"edgevit_{name}{f'{{{pairs}}}' if pairs else ''} {float(value)!r}"
