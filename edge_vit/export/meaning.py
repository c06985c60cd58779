"""What a model's output means: settled once at export, from all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_vit.errors import SpecError
from edge_vit.export.rewrites.ending import Ending
from edge_vit.export.sources import SourceRequest
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import settle_task

_SUM_TOLERANCE = 1e-3
_NORM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Meaning:
    """The task of a model, and what turns the graph's output into probabilities."""

    task: TaskName
    activation: Activation  # that is applied outside of the graph
    stripped: Ending | None = None  # the end of the graph that is taken off
    remarks: tuple[str, ...] = ()


def settle_meaning(
    request: SourceRequest,
    declared: TaskName,
    ending: Ending | None,
    outputs: NDArray[np.floating],
    activation: Activation | None = None,
) -> Meaning:
    """Return what the output of a model means.

    What the user states goes first, then what the source declares (`declared`, classification where
    it does not know better, and `activation`), then the end of the graph, then what the `outputs`
    of the model itself look like, (images, size), the first of several.
    """
    if outputs.ndim > 2:
        return _settle_named(request, declared, activation, outputs)
    end = (ending.name, ending.activation) if ending is not None else ("", None)
    task, remarks = settle_task(request.address, request.task, declared, outputs.shape[1], *end)
    _check_threshold(request, task)
    address, stated = request.address, f"--activation {request.activation}"
    is_applied = request.activation not in (None, "none")
    if not task_named(task).gives_probabilities:
        if is_applied:
            raise SpecError(
                f"{stated}: {address} gives {task}, which has no probabilities. "
                "Leave --activation out, or say --task"
            )
        return Meaning(task, "none", None, remarks)
    if ending is None and activation is not None and request.activation is None:
        return Meaning(task, task_named(task).default_activation if request.task else activation)
    if ending is None:
        activation, found = _look(request, task, outputs)
        return Meaning(task, activation, None, (*remarks, *found))
    if is_applied:
        raise SpecError(
            f"{stated}: {address} ends in {ending.name} itself, and would have two of them. "
            "Leave --activation out"
        )
    gives = "log-probabilities" if ending.is_log else "probabilities"
    remark = (
        f"the model ends in {ending.name} and gives {gives}: taken off, the graph gives logits "
        f"and {ending.activation} is applied once, outside of it"
    )
    return Meaning(task, ending.activation, ending, (*remarks, remark))


def _settle_named(
    request: SourceRequest,
    declared: TaskName,
    activation: Activation | None,
    outputs: NDArray[np.floating],
) -> Meaning:
    """Return the meaning of several outputs, whose task the source knows."""
    if request.task not in (None, declared):
        raise SpecError(
            f"--task {request.task}: {request.address} gives {declared}. Leave --task out"
        )
    _check_threshold(request, declared)
    chosen = request.activation or activation
    if chosen is not None:
        return Meaning(declared, chosen)
    chosen, remark = task_named(declared).guess_activation(outputs)
    return Meaning(declared, chosen, None, (remark,) if remark else ())


def _check_threshold(request: SourceRequest, task: TaskName) -> None:
    threshold, nms = request.threshold, request.nms
    if nms is not None and not task_named(task).has_boxes:
        raise SpecError(
            f"--nms {nms:g}: {request.address} gives {task}, which has no boxes. Leave --nms out"
        )
    if nms is not None and not 0 < nms < 1:
        raise SpecError(f"--nms: got {nms:g}, expected an IoU above 0 and below 1")
    if threshold is None:
        return
    if not task_named(task).has_threshold:
        raise SpecError(
            f"--threshold {threshold:g}: {request.address} gives {task}, where nothing is on or "
            "off. Leave --threshold out, or say --task"
        )
    if wanted := task_named(task).refuse_threshold(threshold):
        raise SpecError(f"--threshold: got {threshold:g}, expected {wanted}")


def _look(
    request: SourceRequest, task: TaskName, outputs: NDArray[np.floating]
) -> tuple[Activation, tuple[str, ...]]:
    """Return the activation, and what the numbers tell where the graph's end does not."""
    wide = np.asarray(outputs, np.float64)
    stated, usual = request.activation, task_named(task).default_activation
    within = bool((wide >= 0).all() and (wide <= 1 + 1e-6).all())
    seen = f"on {len(wide)} images"
    if stated == "none" and not within:
        raise SpecError(
            f"--activation none: {request.address} gives {wide.min():.3g} to {wide.max():.3g} "
            f"{seen}, expected probabilities from 0 to 1. Leave --activation out for logits"
        )
    sums, is_vector = wide.sum(axis=1), wide.shape[1] > 1
    is_whole = within and is_vector and np.allclose(sums, 1, atol=_SUM_TOLERANCE)
    if is_whole and stated in (None, "none"):
        return "none", (
            f"the outputs add up to 1 {seen}: they are probabilities, and no {usual} is applied. "
            "INT8 is judged on them, since the graph does not show its logits",
        )
    if is_whole:
        return stated or usual, (
            f"the outputs are probabilities already, they add up to 1 {seen}: --activation "
            f"{stated} is applied to them all the same",
        )
    if stated is not None:
        return stated, ()
    is_even = sums.min() > 0 and np.ptp(sums) < _SUM_TOLERANCE * sums.mean()
    remark = ""
    if is_vector and is_even and (wide >= 0).all():
        remark = (
            f"the outputs are not negative and add up to {sums.mean():.4g} {seen}, but are taken "
            "as logits. If they are probabilities, let the model give them from 0 to 1"
        )
    elif within:
        remark = (
            f"all outputs are from 0 to 1 {seen}, but taken as logits. If they are probabilities "
            f"of labels, add --task multi_label --activation none"
        )
    elif is_vector and np.allclose(np.linalg.norm(wide, axis=1), 1, atol=_NORM_TOLERANCE):
        remark = (
            f"the outputs have length 1 {seen}, as feature vectors have, but are taken as logits. "
            "If they are features, add --num-classes 0"
        )
    elif task_named(task).has_classes and bool((wide <= 1e-6).all()):
        total = np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1)) + wide.max(1)
        if np.allclose(total, 0, atol=_SUM_TOLERANCE):
            remark = f"the outputs are log-probabilities {seen}: softmax makes them whole"
    return usual, (remark,) if remark else ()
