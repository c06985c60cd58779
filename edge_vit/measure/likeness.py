"""Which measurements may be compared: the conditions that have to be the same, and what differs.

A ratio of two latencies says something about the models only where everything else was alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_vit.measure.results import AccuracyReport, Environment, LatencyReport
from edge_vit.values import to_json

_OF_THE_RUN = (
    *("batch_size", "threads", "scenario", "interval_ms", "is_on_gpu", "provider"),
    *("device_index", "cuda_graph", "transfers", "timed_on"),
)
_NOT_OF_THE_MACHINE = frozenset({"packages", "memory_gib", "temperature_c", "free_memory_gib"})
"""What may differ, or is compared by itself."""

_RUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-rtx-cu13", "tensorrt-lean-cu13"),
)

Conditions = Mapping[str, str]


def latency_conditions(report: LatencyReport) -> Conditions:
    """Return all that decides a latency beside the model: machine, versions, threads.

    The backend is not among them: which is faster may well be asked. Its version is.
    """
    values: dict[str, Any] = {
        name: getattr(report, name) for name in _OF_THE_RUN if hasattr(report, name)
    }
    values |= machine_conditions(report.environment)
    return {name: _word(value) for name, value in values.items()}


def machine_conditions(environment: Environment) -> dict[str, Any]:
    """Return what decides a latency of the machine and of what runs on it."""
    facts = to_json(environment)
    values = {name: value for name, value in facts.items() if name not in _NOT_OF_THE_MACHINE}
    versions = {name: environment.packages.get(name) for name in _RUNTIMES}
    return values | {name: version for name, version in versions.items() if version}


def accuracy_conditions(report: AccuracyReport) -> Conditions:
    """Return all that decides an accuracy beside the model: the images, and their labels."""
    return {"images": report.data_digest[:12], "labelled": str(report.num_labelled)}


def differences(first: Conditions, second: Conditions) -> tuple[str, ...]:
    """Return what differs, ready to read: ``threads 2, not 4``; nothing where all is alike."""
    names = dict.fromkeys((*first, *second))
    return tuple(
        f"{name.replace('_', ' ')} {second.get(name, 'unknown')}, not {first.get(name, 'unknown')}"
        for name in names
        if first.get(name) != second.get(name)
    )


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in sorted(value.items())) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
