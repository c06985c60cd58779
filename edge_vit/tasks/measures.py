"""Measures of a task: one number per image, of which a report gives the mean with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_vit.spec import ModelSpec
from edge_vit.tasks.numerics import FloatArray

Compare = Callable[[ModelSpec, Mapping[str, FloatArray], Mapping[str, FloatArray]], Any]
"""(spec, reference, candidate) -> a number for each image, NaN where there is none, (rows,)."""

Judge = Callable[[ModelSpec, Mapping[str, FloatArray], Sequence[Any]], Any]
"""(spec, outputs, truth of each image or None) -> the same of one model alone, (rows,)."""


@dataclass(frozen=True)
class MeasureValue:
    """A measure over all images; what is None is not known.

    Attributes:
        value: of the candidate.
        low: lower end of its 95 % interval.
        high: upper end.
        reference: the same measure of the reference, where it is one that truth decides.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reference: float | None = None


Summarize = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, MeasureValue]]
"""(candidate's values by image, reference's, empty without truth) -> by name every measure over all
images that is made of these values."""


@dataclass(frozen=True)
class Measure:
    """What is measured of each image; one of `compare` and `judge` is given.

    Attributes:
        name: in JSON.
        title: head of its row in a table, with its unit.
        compare: of the candidate against the reference.
        judge: of each of the two against the truth; a number, or what JSON takes.
        unit: ``share`` is shown in percent, ``number`` with three digits.
        has_row: whether a table shows it; False where the report has a row for it already.
        summarize: over all images; None for the mean of those that have a number.
        of: name of the measure whose values by image it sums up in its own way.
    """

    name: str
    title: str
    compare: Compare | None = None
    judge: Judge | None = None
    unit: Literal["share", "number"] = "number"
    has_row: bool = True
    summarize: Summarize | None = None
    of: str = ""
