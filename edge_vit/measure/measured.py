"""The measures of a task, collected image by image and summed up with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.measure.results import AccuracyReport
from edge_vit.measure.statistics import wilson_interval
from edge_vit.spec import ModelSpec, TaskName
from edge_vit.tasks import earliest_task, task_named, task_of
from edge_vit.tasks.base import Outputs, Task
from edge_vit.tasks.measures import Measure, MeasureValue, Summarize, mean_value

Columns = dict[str, Any]
"""Name of a measure -> two lists as JSON takes them: of the candidate, and of the reference."""

LABELS_ON, SCORES = "labels on", "scores by image"
"""Two more columns: indices of the labels that are on, and numeric scores, of each image."""

_SHARED = {0.0: 0.0, 1.0: 1.0}


def collect(
    columns: Columns, spec: ModelSpec, reference: Outputs, candidate: Outputs, truth: Sequence[Any]
) -> None:
    """Add the images of one batch to `columns`; `truth` is None where it is not known."""
    task = task_of(spec)
    for measure in task.measures:
        ours, theirs = columns.setdefault(measure.name, [[], []])
        if measure.compare is not None:
            ours += _plain(measure.compare(spec, reference, candidate))
        elif measure.judge is not None and any(each is not None for each in truth):
            ours += _plain(measure.judge(spec, candidate, truth))
            theirs += _plain(measure.judge(spec, reference, truth))
    for side, outputs in enumerate((candidate, reference)):
        if (labels := task.labels_on(spec, outputs)) is not None:
            on = [np.flatnonzero(row).tolist() for row in labels]
            columns.setdefault(LABELS_ON, [[], []])[side].extend(on)
        if (scores := task.scores(spec, outputs)) is not None:
            columns.setdefault(SCORES, [[], []])[side].extend(scores.astype(float).tolist())


def join_columns(first: Columns, second: Columns) -> Columns:
    """Return the images of both, in that order."""
    none = ((), ())
    return {
        name: [
            [*one, *other]
            for one, other in zip(first.get(name, none), second.get(name, none), strict=True)
        ]
        for name in {**first, **second}
    }


def sum_up(task: TaskName, columns: Columns) -> dict[str, MeasureValue]:
    """Return every measure of `task` that has a value over the images of `columns`."""
    found: dict[str, MeasureValue] = {}
    sums: dict[tuple[str, Summarize], Mapping[str, MeasureValue]] = {}
    for measure in task_named(task).measures:
        name = measure.of or measure.name
        ours, theirs = columns.get(name, ((), ()))
        if measure.summarize is None:
            value = mean_of(ours, theirs)
        else:  # once for all measures that are made of these values
            key = (name, measure.summarize)
            if key not in sums:
                sums[key] = measure.summarize(ours, theirs)
            value = sums[key].get(measure.name, MeasureValue(None))
        if value.value is not None:
            found[measure.name] = value
    return found


def mean_of(values: Sequence[Any], reference: Sequence[Any]) -> MeasureValue:
    """Return the mean of `values` that are numbers, with its two-sided 95 % interval.

    Of values that are all 0 or 1 it is the score interval of a share, of others the normal one.
    """
    known, other = _known(values), _known(reference)
    if not known:
        return MeasureValue(None)
    count, mean = len(known), math.fsum(known) / len(known)
    if all(value in (0.0, 1.0) for value in known):
        low, high = wilson_interval(math.fsum(known), count)
        return MeasureValue(mean, low, high, math.fsum(other) / len(other) if other else None)
    return mean_value(known, other)


def measures_of(task: TaskName | None) -> Mapping[str, Measure]:
    """Return the measures of a report's task by name; none where the report has no task."""
    return {each.name: each for each in task_named(task).measures} if task is not None else {}


def task_of_report(report: AccuracyReport) -> Task:
    """Return the task of a report; one of format 1 or 2 has none, and shows it by its figures."""
    return task_named(report.task) if report.task else earliest_task(report.kl_mean is not None)


def _plain(values: Any) -> list[Any]:
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    # One object for each 0 and 1: of many images these are most of what is kept.
    return [_SHARED.get(value, value) if isinstance(value, float) else value for value in plain]


def _known(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]
