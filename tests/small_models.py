"""The facts of models that are never made: what a fake session needs."""

from __future__ import annotations

from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output


def make_model(task="classification", size=4, batch=None, labels=()) -> ModelSpec:
    """Return a model of 8×8 pixels with `size` outputs."""
    return ModelSpec(
        name="tiny",
        source="edgevit:tiny",
        task=task,
        labels=labels,
        inputs=(image_input((8, 8), batch),),
        outputs=(task_output(task, size, batch),),
        preprocess=PreprocessSpec((8, 8), crop_pct=1.0),
    )
