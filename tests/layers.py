"""A linear layer as calibration sees it, made up."""

from __future__ import annotations

import numpy as np

from edge_vit.calibration.layer import Layer


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
