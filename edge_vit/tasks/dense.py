"""A map of any meaning: saliency, a regression for each pixel, features on a grid."""

from __future__ import annotations

from edge_vit.tasks.base import Wording
from edge_vit.tasks.maps.measures import AGAINST_REFERENCE, loss_measure
from edge_vit.tasks.maps.task import MIN_CORRELATION, MapTask
from edge_vit.tasks.measures import divergence

LOST = "correlation_lost"  # 1 - correlation: what the gate bounds


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
    measures = (*AGAINST_REFERENCE, loss_measure(LOST, "correlation lost", divergence))
    loss_measure = LOST


TASK = Dense()
