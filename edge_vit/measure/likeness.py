"""Which measurements may be compared: the conditions that have to be the same, and what differs.

A ratio of two latencies says something about the models only where everything else was alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_vit.measure.results import AccuracyReport, LatencyReport
from edge_vit.values import to_json

_OF_THE_RUN = (
    *("batch_size", "threads", "scenario", "interval_ms", "is_on_gpu", "provider"),
    "cuda_graph",
)
_OF_THE_GPU = ("gpu", "compute_capability", "driver", "cuda", "tensorrt", "l4t")
_NOT_OF_THE_MACHINE = frozenset({*_OF_THE_GPU, "packages", "memory_gib", "python"})
"""What may differ, or counts by itself."""

_RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "ort": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "trt": ("tensorrt",),
    "rtx": ("tensorrt-rtx-cu13",),
}
"""Packages that do the work of each backend: what else is installed makes nothing slower."""

Conditions = Mapping[str, str]


def latency_conditions(report: LatencyReport) -> Conditions:
    """Return all that decides a latency beside the model: machine, versions, threads.

    The backend is not among them: which is faster may well be asked. Its version is. What the
    images show is not either: a Vision Transformer takes as long for noise. What was timed in turns
    with it is: other sessions in between empty the caches, which can cost a small model a third.
    """
    machine, packages = to_json(report.environment), report.environment.packages
    values: dict[str, Any] = {name: getattr(report, name) for name in _OF_THE_RUN}
    values |= {name: fact for name, fact in machine.items() if name not in _NOT_OF_THE_MACHINE}
    values["in_turns_with"] = sorted(report.interleaved_with)
    values["python"] = report.environment.python.rpartition(".")[0]
    values |= {n: packages[n] for n in _RUNTIMES.get(report.backend, ()) if n in packages}
    if report.is_on_gpu:
        values |= {name: machine[name] for name in _OF_THE_GPU}
    return {name: _word(value) for name, value in values.items()}


def latency_differences(first: LatencyReport, second: LatencyReport) -> tuple[str, ...]:
    """Return what differs between the conditions of two latencies; nothing where all is alike.

    Of two backends the versions say nothing, for they are of different packages, and nor does the
    provider, which only ONNX Runtime has.
    """
    conditions = [latency_conditions(report) for report in (first, second)]
    if first.backend != second.backend:
        of_one = {package for packages in _RUNTIMES.values() for package in packages} | {"provider"}
        conditions = [{n: v for n, v in c.items() if n not in of_one} for c in conditions]
    return differences(*conditions)


def accuracy_conditions(report: AccuracyReport) -> Conditions:
    """Return all that decides an accuracy beside the model: the images, and their labels."""
    return {"images": report.data_digest[:12], "labelled": str(report.num_labelled)}


def differences(first: Conditions, second: Conditions) -> tuple[str, ...]:
    """Return what differs, ready to read: ``threads 2, not 4``; nothing where all is alike."""
    return tuple(
        f"{name.replace('_', ' ')} {second.get(name, 'unknown')}, not {first.get(name, 'unknown')}"
        for name in dict.fromkeys((*first, *second))
        if first.get(name) != second.get(name)
    )


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)
