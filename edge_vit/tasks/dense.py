"""A map of any meaning: saliency, a regression for each pixel, features on a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs, Wording
from edge_vit.tasks.maps.numerics import mean_absolute_error
from edge_vit.tasks.maps.task import MIN_CORRELATION, MapTask
from edge_vit.tasks.measures import Measure, MeasureValue, divergence
from edge_vit.tasks.numerics import Float64Array

LOST = "correlation_lost"
"""1 - correlation: what the gate bounds."""


def _correlation(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    return TASK.correlation(spec, reference, candidate)


def _error(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    return mean_absolute_error(*(TASK.values(spec, each) for each in (reference, candidate)))


def worst(candidate: Sequence[Any], reference: Sequence[Any]) -> Mapping[str, MeasureValue]:
    """Return the smallest correlation of an image."""
    return {"correlation_worst": MeasureValue(min(candidate) if candidate else None)}


class Dense(MapTask):
    """A value, or several, for each cell of a grid; nothing is known of what they mean."""

    name = "dense"
    wording = Wording(
        subject="The map",
        agreement=(
            f"Same answer: the correlation of both maps is at least {MIN_CORRELATION}, over all "
            "cells of an image."
        ),
        divergence="1 − correlation {}",
        pictures=(
            "From left to right: the image, the reference's map over it, this precision's map in "
            "the same colours."
        ),
    )
    measures = (
        Measure("mae", "mean absolute error", _error),
        Measure("correlation", "correlation, mean", _correlation),
        Measure("correlation_worst", "correlation, least", summarize=worst, of="correlation"),
        Measure(LOST, "correlation lost", divergence, unit="share", has_row=False),
    )
    loss_measure = LOST


TASK = Dense()
