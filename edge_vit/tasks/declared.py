"""The task of a model, from its library, the end of its graph and the user's options."""

from __future__ import annotations

from edge_vit.errors import SpecError
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks import TASKS, task_named

CLASSES, FEATURES, DETECTION = "classification", "features", "detection"
"""The task of a model with a head by default, of one without, of a detector."""

DENSE, DEPTH = "dense", "depth"
"""The task of a map by default, and of one of distances."""

SEGMENTATION, INSTANCES, PANOPTIC = (
    *("segmentation", "instance_segmentation", "panoptic_segmentation"),
)
"""The tasks of masks: a class for each pixel, objects, and both."""
DENOISING, DECODING = "denoising", "decoding"
"""The task of a step of diffusion; of a decoder of latents."""

_REMARKS = {
    "multi_label": "its configuration says multi-label: each label is on or off by itself",
    "regression": "its configuration says regression: its outputs are numeric scores",
}


def task_of_head(num_classes: int | None) -> TaskName:
    """Return the task of a model whose head has so many classes; None where that is not known."""
    return FEATURES if num_classes == 0 else CLASSES


def task_of_problem(problem_type: str | None) -> TaskName:
    """Return the task that a library calls `problem_type`; classes where it does not say."""
    for name in TASKS.shipped:
        if problem_type in task_named(name).aliases:
            return name
    return CLASSES


def settle_task(
    address: str,
    requested: TaskName | None,
    declared: TaskName,
    size: int,
    ending: str = "",
    activation: Activation | None = None,
) -> tuple[TaskName, tuple[str, ...]]:
    """Return the task of a model with one output of `size`, and notes on it.

    What is `requested` by the user goes before what the source has `declared`. `ending` is the name
    of the graph's last operator, where it is an `activation`.
    """
    if requested == CLASSES and size == 1:
        raise SpecError(
            f"--task classification: {address} has 1 output, expected at least 2 classes. "
            "Take --task regression for a score, --task multi_label for one label, on or off"
        )
    if requested is not None:
        return requested, ()
    if declared != CLASSES:
        return declared, (_REMARKS[declared],) if declared in _REMARKS else ()
    if activation == "sigmoid":
        if size == 1:
            what, other = "1 label, on or off", "If it is a score, add --task regression"
        else:
            what = f"{size} labels, each on or off by itself"
            other = "If they are classes of which one is right, add --task classification"
        return "multi_label", (f"the model ends in {ending}: {what}. {other}",)
    if size == 1:
        return "regression", (
            "the model has 1 output, which is taken as a numeric score. If it is the logit of one "
            "label, on or off, add --task multi_label",
        )
    return CLASSES, ()
