"""Tasks of models: one module or package each, found by name.

A `Task` decodes outputs into predictions, compares outputs with those of a reference, and holds
all wording that depends on what the outputs mean. No other package asks for a task by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_vit.plugins import Registry

if TYPE_CHECKING:
    from edge_vit.spec import ModelSpec
    from edge_vit.tasks.base import Task

TASKS: Registry[Task] = Registry(
    "task",
    "edge_vit.tasks",
    {
        "classification": "edge_vit.tasks.classification:TASK",
        "multi_label": "edge_vit.tasks.classification:MULTI_LABEL",
        "regression": "edge_vit.tasks.regression:TASK",
        "detection": "edge_vit.tasks.detection:TASK",
        "segmentation": "edge_vit.tasks.segmentation:TASK",
        "instance_segmentation": "edge_vit.tasks.segmentation:INSTANCES",
        "panoptic_segmentation": "edge_vit.tasks.segmentation:PANOPTIC",
        "dense": "edge_vit.tasks.dense:TASK",
        "depth": "edge_vit.tasks.depth:TASK",
        "denoising": "edge_vit.tasks.generation.task:DENOISING",
        "decoding": "edge_vit.tasks.generation.task:DECODING",
        "features": "edge_vit.tasks.features:TASK",
    },
)
"""Tasks by name; other distributions add theirs by entry points of the group `edge_vit.tasks`."""


def task_named(name: str) -> Task:
    """Return the task that is called `name`."""
    return TASKS.load(name)


def task_of(spec: ModelSpec) -> Task:
    """Return the task of a model."""
    return TASKS.load(spec.task)


def earliest_task(has_probabilities: bool) -> Task:
    """Return the task of a report that names none: the first version had two."""
    return TASKS.load("classification" if has_probabilities else "features")
