"""The loop in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edge_vit.camera.summary import CameraSummary, Percentiles
from edge_vit.device.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_QUANTILES = {"0.5": "p50", "0.9": "p90", "0.99": "p99", "0.999": "p999"}

Sample = tuple[str, Mapping[str, str], float | None]
"""What follows the family's name, labels, and a value; one that is not known is left out."""


def metrics_text(summary: CameraSummary, reading: Telemetry | None) -> str:
    """Return how the loop and the machine stand."""
    info = {"model": summary.model, "backend": summary.backend, "precision": summary.precision}
    frames = {source.name: source.counts for source in summary.sources}
    running = {source.name: float(source.state == "running") for source in summary.sources}
    reopened = {source.name: source.num_reopened for source in summary.sources}
    sinks = {sink.name: sink for sink in summary.sinks}
    stages = [
        sample
        for stage, values in summary.stage_ms.items()
        for sample in _quantiles({"stage": stage}, values)
    ]
    outcomes = _outcomes("source", frames, "answered", "dropped", "failed")
    taken = _outcomes("sink", sinks, "written", "dropped", "failed")
    latency = _quantiles({}, summary.latency_ms)
    families: list[tuple[str, str, str, Iterable[Sample]]] = [
        ("info", "gauge", "What runs.", [("", info, 1)]),
        ("uptime_seconds", "gauge", "Of the loop.", _one(summary.seconds)),
        ("fps", "gauge", "Predictions a second, lately.", _one(summary.recent_fps)),
        ("frames_total", "counter", "What became of frames.", outcomes),
        ("source_running", "gauge", "Whether a source gives frames.", _each("source", running)),
        ("source_reopened_total", "counter", "Times it was lost.", _each("source", reopened)),
        ("sink_answers_total", "counter", "What sinks took.", taken),
        ("latency_seconds", "summary", "From capture to prediction.", latency),
        ("stage_seconds", "summary", "The parts of the latency.", stages),
    ]
    if reading is not None:
        clocks = {name: mhz * 1e6 for name, mhz in reading.clocks_mhz.items()}
        zones = _each("zone", reading.temperatures_c)
        power = _each("source", {reading.power_source: reading.power_w})
        is_throttled, events = float(bool(reading.throttling)), reading.num_throttle_events
        families += [
            ("power_watts", "gauge", "What is drawn.", power),
            ("temperature_celsius", "gauge", "Of each thermal zone.", zones),
            ("clock_hertz", "gauge", "Of GPU, memory and processors.", _each("clock", clocks)),
            ("throttled", "gauge", "Whether the machine is slowed down.", _one(is_throttled)),
            ("throttle_events_total", "counter", "Times it was slowed down.", _one(events)),
        ]
    return "".join(_family(*family) for family in families)


def _one(value: float | None) -> list[Sample]:
    return [("", {}, value)]


def _each(label: str, values: Mapping[str, float | None]) -> list[Sample]:
    return [("", {label: name}, value) for name, value in values.items()]


def _outcomes(label: str, counted: Mapping[str, Any], *outcomes: str) -> list[Sample]:
    return [
        ("", {label: name, "outcome": outcome}, getattr(counts, outcome))
        for name, counts in counted.items()
        for outcome in outcomes
    ]


def _quantiles(labels: Mapping[str, str], values: Percentiles) -> list[Sample]:
    """The samples of a summary: quantiles since the start, and the sum and count for rates."""
    known = {name: getattr(values, field) for name, field in _QUANTILES.items()}
    return [
        *(("", {**labels, "quantile": q}, ms / 1e3) for q, ms in known.items() if ms is not None),
        ("_sum", labels, (values.mean or 0) / 1e3 * values.count),
        ("_count", labels, values.count),
    ]


def _family(name: str, kind: str, what: str, samples: Iterable[Sample]) -> str:
    """The family of `name` with its head; nothing where no value is known."""
    lines = []
    for suffix, labels, value in samples:
        if value is not None:
            pairs = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
            lines.append(
                f"edgevit_{name}{suffix}{f'{{{pairs}}}' if pairs else ''} {float(value)!r}"
            )
    head = [f"# HELP edgevit_{name} {what}", f"# TYPE edgevit_{name} {kind}"]
    return "\n".join([*head, *lines, ""]) if lines else ""
