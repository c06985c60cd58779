"""Queries with masks in ONNX files: class logits beside mask logits, known by their names."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from edge_vit.errors import SpecError
from edge_vit.export.sources.request import SourceRequest
from edge_vit.graph.expose import keep_needed
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import INSTANCES, PANOPTIC, SEGMENTATION

OUTPUTS = ("class_logits", "mask_logits")

_UNIVERSAL = (SEGMENTATION, INSTANCES, PANOPTIC)
_PAIRS: tuple[tuple[str, str, Activation, tuple[TaskName, ...]], ...] = (
    ("class_queries_logits", "masks_queries_logits", "softmax", _UNIVERSAL),  # transformers' names
    (*OUTPUTS, "softmax", _UNIVERSAL),
    ("labels", "masks", "sigmoid", (INSTANCES,)),  # RF-DETR
)


@dataclass(frozen=True)
class Queries:
    """A graph whose outputs are class logits (batch, queries, columns) and mask logits."""

    model: ModelProto
    task: TaskName
    num_classes: int
    activation: Activation
    remarks: tuple[str, ...]


def take_queries(request: SourceRequest, model: ModelProto) -> Queries | None:
    """Return `model` with queries and masks alone; None without them, or for another task."""
    ranks = {
        output.name: len(output.type.tensor_type.shape.dim)
        for output in model.graph.output
        if output.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    pairs = (p for p in _PAIRS if ranks.get(p[0]) == 3 and ranks.get(p[1]) == 4)
    found = next(pairs, None)
    if found is None or request.task not in (None, *found[3]):
        return None
    classes, masks, activation, tasks = found
    given = {output.name: output for output in model.graph.output}
    width = given[classes].type.tensor_type.shape.dim[2].dim_value
    if not width:
        raise SpecError(
            f"{request.address}: output {classes!r} has an open last side, expected the number of "
            "classes. Export it with that fixed"
        )
    left_out = [name for name in given if name not in (classes, masks)]
    kept = [given[classes], given[masks]]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    task = request.task or tasks[0]
    remarks: tuple[str, ...] = (f"left out: {', '.join(left_out)}",) if left_out else ()
    if request.task is None and len(tasks) > 1:
        remarks += (f"its queries are read as {task}. Add --task for {' or '.join(tasks[1:])}",)
    columns = int(task_named(task).width_of(("batch", "queries", width)))
    return Queries(
        keep_needed(model) if left_out else model,
        task,
        task_named(task).num_labels(columns, activation),
        activation,
        remarks,
    )
