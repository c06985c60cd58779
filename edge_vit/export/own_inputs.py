"""Inputs that a model makes itself, for one that takes no images: steps of its own sampling."""

from __future__ import annotations

import numpy as np

from edge_vit.export.reference import runner_of
from edge_vit.export.sources import Source
from edge_vit.spec import ModelSpec, TensorSpec
from edge_vit.spec.samples import Rows
from edge_vit.tasks import task_named
from edge_vit.tasks.base import Outputs

FIRST_SEED = 10**15
"""Of those that golden samples are made of: no address of seeds reaches it."""


def own_samples(source: Source, count: int) -> tuple[str, Rows]:
    """Return what they are, in words, and `count` samples spread over what the model is fed.

    The model of `source` itself makes them.
    """
    run_all, _ = runner_of(source)
    (name,), task = source.outputs, task_named(source.task)

    def run(rows: Rows) -> Outputs:
        return {name: run_all(rows)[0]}

    # What the graph's own shape is, one run tells
    shapes = [(t.name, t.dtype, tuple(map(int, t.shape[1:]))) for t in source.inputs]
    output = run(np.zeros(1, np.dtype(shapes)))[name]
    spec = ModelSpec(
        name=source.name,
        source=source.address,
        task=source.task,
        labels=(),
        inputs=source.inputs,
        outputs=(TensorSpec(name, "float32", ("batch", *output.shape[1:])),),
        preprocess=source.preprocess,
        sampling=source.sampling,
    )
    made: list[Rows] = []
    while sum(map(len, made)) < count:
        made.append(task.inputs_of(spec, run, FIRST_SEED + len(made))[1])
    rows = np.concatenate(made)
    places = np.linspace(0, len(rows) - 1, count).round().astype(int)
    return f"{count} samples of its own", rows[places]
