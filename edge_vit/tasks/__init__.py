"""What a model does: one module or package per task, found by name.

A `Task` decodes outputs into predictions, compares outputs with those of a reference, and holds
all wording that depends on what the outputs mean. No other package asks for a task by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_vit.plugins import Entry, Registry

if TYPE_CHECKING:
    from edge_vit.spec import ModelSpec
    from edge_vit.tasks.base import Task

TASKS: Registry[Task] = Registry(
    "task",
    "edge_vit.tasks",
    {
        "classification": Entry("edge_vit.tasks.classification:TASK", "one class of several"),
        "multi_label": Entry("edge_vit.tasks.multi_label:TASK", "any number of labels"),
        "regression": Entry("edge_vit.tasks.regression:TASK", "one or several numeric scores"),
        "detection": Entry("edge_vit.tasks.detection:TASK", "classes and boxes of objects"),
        "features": Entry("edge_vit.tasks.features:TASK", "a feature vector: a model without head"),
    },
)
"""Name -> entry; other distributions add theirs by entry points of the group `edge_vit.tasks`."""


def task_named(name: str) -> Task:
    """Return the task that is called `name`.

    Raises:
        SpecError: neither edge-vit nor an installed plug-in has it.
    """
    return TASKS.load(name)


def task_of(spec: ModelSpec) -> Task:
    """Return the task of a model."""
    return TASKS.load(spec.task)


def earliest_task(has_probabilities: bool) -> Task:
    """Return the task of a report that names none: the first version had two."""
    return TASKS.load("classification" if has_probabilities else "features")
