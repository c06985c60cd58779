"""A task's functions on the rows of a model's only output."""

from __future__ import annotations

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import named
from edge_vit.tasks.prediction import Prediction


def predict(spec: ModelSpec, output, top: int = 5, image: str = "array") -> Prediction:
    """Return the prediction of one row, (size,)."""
    return task_of(spec).decode(spec, named(spec, np.asarray(output)[None]), [image], top=top)[0]


def same(spec: ModelSpec, reference, candidate):
    """Return whether each row is the same prediction."""
    return task_of(spec).same(spec, named(spec, reference), named(spec, candidate))


def divergence(spec: ModelSpec, reference, candidate):
    """Return how far each row of `candidate` is from `reference`."""
    return task_of(spec).divergence(spec, named(spec, reference), named(spec, candidate))
