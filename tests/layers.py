"""A linear layer as calibration sees it, made up."""

from __future__ import annotations

import numpy as np

from edge_vit.calibration.gram import Gram
from edge_vit.calibration.layer import Layer
from edge_vit.lowering.qdq import QMAX, round_scale


def gram_of(rows, weights=None) -> Gram:
    """Return the sums over rows, float32 (R, K), each times its weight, (R,)."""
    gram = Gram.empty(rows.shape[1])
    gram.add(rows, np.ones(len(rows), np.float32) if weights is None else weights)
    return gram


def layer_of(rows, weight, **changes) -> Layer:
    outputs = weight.shape[1]
    facts = {
        "name": "block0/fc1",
        "weight": weight.astype(np.float32),
        "column_factors": np.ones(outputs, np.float32),
        "low": rows.min(axis=0),
        "high": rows.max(axis=0),
        "is_foldable": True,
        "is_shiftable": True,
        "has_bias": True,
    }
    return Layer(**(facts | changes))


def weight_scales(weight) -> np.ndarray:
    """Return the scale of each column of a weight (K, N) that holds its largest value, (N,)."""
    return round_scale(np.abs(weight).max(axis=0).astype(np.float64) / QMAX)
