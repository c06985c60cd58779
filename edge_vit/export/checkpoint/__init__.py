"""Weights from a file that anyone may have made: no code in it runs, and all of it fits or none."""

from edge_vit.export.checkpoint.fit import Fit, choose_weights
from edge_vit.export.checkpoint.loading import (
    describe,
    drop_weights,
    fill,
    load_fit,
    load_weights,
    refuse_misfit,
    refuse_nonfinite,
    usable,
)
from edge_vit.export.checkpoint.misfit import Misfit
from edge_vit.export.checkpoint.positions import SourceGrid
from edge_vit.export.checkpoint.stored import StoredWeights, read_stored

__all__ = [
    "Fit",
    "Misfit",
    "SourceGrid",
    "StoredWeights",
    "choose_weights",
    "describe",
    "drop_weights",
    "fill",
    "load_fit",
    "load_weights",
    "read_stored",
    "refuse_misfit",
    "refuse_nonfinite",
    "usable",
]
