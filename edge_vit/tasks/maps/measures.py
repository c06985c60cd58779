"""Measures of any map against the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.maps.numerics import correlation, mean_absolute_error
from edge_vit.tasks.measures import Compare, Measure, MeasureValue, mean_value
from edge_vit.tasks.numerics import Float64Array, FloatArray

WORST = "correlation_worst"


def _both(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> tuple[FloatArray, FloatArray]:
    name = spec.outputs[0].name
    return reference[name], candidate[name]


def _error(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    return mean_absolute_error(*_both(spec, reference, candidate))


def _correlation(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    return correlation(*_both(spec, reference, candidate))


def _least(candidate: Sequence[Any], reference: Sequence[Any]) -> Mapping[str, MeasureValue]:
    return {WORST: MeasureValue(min(candidate) if candidate else None)}


def loss_measure(name: str, title: str, compare: Compare) -> Measure:
    """Return a measure in shares, of which the gate bounds the mean over images.

    Shares of 0 in every image are what was measured, and no draws of a coin.
    """

    def mean(candidate: Sequence[Any], reference: Sequence[Any]) -> Mapping[str, MeasureValue]:
        return {name: mean_value(candidate)}

    return Measure(name, title, compare, unit="share", has_row=False, summarize=mean, of=name)


AGAINST_REFERENCE = (
    Measure("mae", "mean absolute error", _error),
    Measure("correlation", "correlation, mean", _correlation),
    Measure(WORST, "correlation, least", summarize=_least, of="correlation"),
)
