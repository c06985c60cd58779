"""Measures of a task: one number per image, of which a report gives the mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_vit.spec import ModelSpec
from edge_vit.tasks.numerics import Float64Array, FloatArray

Z_TWO_SIDED = 1.959963984540054  # normal quantile at 0.975, for a two-sided 95 % interval

Compare = Callable[[ModelSpec, Mapping[str, FloatArray], Mapping[str, FloatArray]], Any]
"""(spec, reference, candidate) -> a number for each image, NaN where there is none, (rows,)."""

Judge = Callable[[ModelSpec, Mapping[str, FloatArray], Sequence[Any]], Any]
"""(spec, outputs, truth of each image or None) -> the same of one model alone, (rows,)."""


def divergence(
    spec: ModelSpec, reference: Mapping[str, FloatArray], candidate: Mapping[str, FloatArray]
) -> Float64Array:
    """Return how far each row of `candidate` is from `reference`, as the task of `spec` has it."""
    from edge_vit.tasks import task_of  # whose tasks hold measures

    return task_of(spec).divergence(spec, reference, candidate)


@dataclass(frozen=True)
class MeasureValue:
    """A measure over all images; what is None is not known."""

    value: float | None  # of the candidate
    low: float | None = None  # lower end of its 95 % interval
    high: float | None = None  # upper end
    # The same measure of the reference, where it is one that truth decides
    reference: float | None = None


def mean_value(values: Sequence[float], reference: Sequence[float] = ()) -> MeasureValue:
    """Return the mean of `values`, one for each image, with its normal 95 % interval."""
    if not len(values):
        return MeasureValue(None)
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    half = Z_TWO_SIDED * math.sqrt(squares / max(len(values) - 1, 1) / len(values))
    other = math.fsum(reference) / len(reference) if len(reference) else None
    return MeasureValue(mean, mean - half, mean + half, other)


Summarize = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, MeasureValue]]
"""(candidate's values by image, reference's, empty without truth) -> by name every measure over all
images that is made of these values."""


@dataclass(frozen=True)
class Measure:
    """A number for each image, by `compare` or by `judge`."""

    name: str  # in JSON
    title: str  # head of its row in a table, with its unit
    compare: Compare | None = None  # of the candidate against the reference
    judge: Judge | None = None  # of each of the two against the truth; a number, or what JSON takes
    # A share is shown in percent, a number with three digits, a count without decimals
    unit: Literal["share", "number", "count"] = "number"
    # Whether a table shows it; False where the report has a row for it already
    has_row: bool = True
    # Over all images; None for the mean of those that have a number
    summarize: Summarize | None = None
    of: str = ""  # name of the measure whose values by image it sums up in its own way


def summed(titles: Mapping[str, str], judge: Judge, summarize: Summarize) -> tuple[Measure, ...]:
    """Return measures in shares, by name with their titles, of what `judge` gives of each image."""
    first = next(iter(titles))
    return tuple(
        Measure(
            *(name, title, None, judge if name == first else None),
            unit="share",
            summarize=summarize,
            of=first,
        )
        for name, title in titles.items()
    )
