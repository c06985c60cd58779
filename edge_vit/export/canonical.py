"""ONNX from anywhere -> the one form that every later stage relies on.

The form: input ``images`` uint8 (batch, height, width, 3), outputs named after the task;
opset 19, IR version 10; LayerNormalization as one operator; GELU as its Erf pattern; queries, keys
and values as one MatMul with the attention scale inside, then Split; biases (1, 1, N); no shape
arithmetic but the batch of an Expand; nodes named by place. Each rewrite is exact up to float32
rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import SpecError
from edge_vit.export.meaning import Meaning
from edge_vit.export.rewrites import constants, fuse, linear
from edge_vit.export.rewrites.attention import rewrite_attentions
from edge_vit.export.rewrites.ending import Ending, find_ending, strip_ending
from edge_vit.export.rewrites.naming import forget_names, name_by_place
from edge_vit.export.rewrites.operators import spell_out_newer, write_grid_samples
from edge_vit.graph.beside import choose_beside, describe_rest
from edge_vit.graph.edit import Builder, replace_value
from edge_vit.graph.exact import locations_of, one_line
from edge_vit.graph.large import Spill, to_proto
from edge_vit.graph.sites import Block, Unit, find_blocks, find_units
from edge_vit.graph.walk import dims_of
from edge_vit.graph.weightless import give_weights, without_weights
from edge_vit.spec import PreprocessSpec, TaskName, TensorSpec, image_input, task_output
from edge_vit.tasks import task_named

OPSET = 19
IR_VERSION = 10


@dataclass(frozen=True)
class CanonicalGraph:
    """A graph in canonical form, and what was learnt on the way."""

    model: onnx.ModelProto  # the graph
    inputs: tuple[TensorSpec, ...]  # what it takes
    outputs: tuple[TensorSpec, ...]  # what it gives, the task's own name for each
    batch: int | None  # the batch size that it insists on, or None
    depth: int  # number of blocks
    num_heads: int  # 0, as the two below, where it is not known or differs between blocks
    embed_dim: int  # width of a token
    num_tokens: int  # tokens that attend to each other; within windows they are not counted
    notes: tuple[str, ...]  # what stays as it was, one line each
    meaning: Meaning  # of its output
    is_quantizable: bool  # whether INT8 has linear layers to quantize


def make_canonical(
    proto: onnx.ModelProto,
    preprocess: PreprocessSpec,
    task: TaskName,
    *,
    is_contract: bool = False,
    settle: Callable[[Ending | None], Meaning] | None = None,
    outputs: Sequence[str] = (),
    shapes: Sequence[tuple[int, ...]] = (),
    inputs: Sequence[TensorSpec] = (),
    spill: Spill | None = None,
) -> CanonicalGraph:
    """Return `proto` in canonical form.

    `proto` has one input, normalised float32 (batch, 3, height, width), or with `is_contract`
    ``images`` uint8 (batch, height, width, 3); of clips the frames are behind the batch. Its first
    output is (batch, classes or channels); with the names of `outputs` they may have more axes.
    `settle` returns what the output means, by the end that the graph was found to have; without it
    the end stays. `shapes` are those that the outputs were seen to have, without the batch, where
    the graph does not tell. The weights of a large one go to `spill`, where they stay.

    Raises:
        SpecError: the graph has another input or output, or does not run.
    """
    own = copy.deepcopy(proto)  # the rewrites rename what is shared with the proto it came from
    model = ir.from_proto(_set_opset(constants.resolve_branches(own)))
    graph = model.graph
    forget_names(graph)
    passes.InlinePass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    constants.fold_constants(model)
    _infer_shapes(model)
    constants.drop_idle_casts(graph)
    if spell_out_newer(graph):
        passes.RemoveUnusedNodesPass()(model)
        _infer_shapes(model)
    fuse.restore_reciprocals(graph)
    fuse.restore_softmaxes(graph)
    fuse.fuse_layer_norms(graph)
    fuse.rewrite_gelus(graph)
    linear.split_gemms(graph)
    _infer_shapes(model)
    linear.unflatten_linears(graph)
    passes.RemoveUnusedNodesPass()(model)
    linear.merge_consecutive(graph)
    passes.RemoveUnusedNodesPass()(model)
    notes = (*write_grid_samples(model), *rewrite_attentions(model))
    passes.RemoveUnusedNodesPass()(model)
    for block in find_blocks(graph):
        linear.merge_linears(graph, block.linears("qkv"))
        linear.merge_linears(graph, block.linears("fc1"))  # the gate and the value of a gated MLP
    passes.RemoveUnusedNodesPass()(model)
    _infer_shapes(model)
    constants.keep_batch_dimension(graph)
    linear.shape_biases(graph)
    batch, shapes = _read_outputs(graph, len(outputs), shapes)
    ending = None if outputs else find_ending(graph)
    meaning = settle(ending) if settle else Meaning(task, task_named(task).default_activation)
    if meaning.stripped is not None:
        strip_ending(graph, meaning.stripped)
    images = image_input(preprocess.image_size, batch, preprocess.clip)
    if inputs:
        _set_inputs(graph, inputs, batch)
    elif is_contract:
        graph.inputs[0].name = images.name
    else:
        _add_preprocessing(graph, preprocess, images)
    single = task_output(meaning.task, shapes[0][-1], batch, meaning.activation)
    given = tuple(
        TensorSpec(name, "float32", (batch or "batch", *shape))
        for name, shape in zip(outputs or (single.name,), shapes, strict=True)
    )
    _set_outputs(graph, given)
    passes.RemoveUnusedNodesPass()(model)
    graph.sort()
    blocks = find_blocks(graph)
    name_by_place(graph, blocks, choose_beside(graph, blocks))
    _infer_shapes(model)
    graph.name = "edge-vit"
    result = _finish(model, spill)
    units = find_units(graph)
    notes = (*notes, *_note_unplaced(graph, blocks, units))
    heads, tokens, width = _read_dimensions(find_blocks(graph))
    taken = tuple(replace(t, shape=(batch or "batch", *t.shape[1:])) for t in inputs) or (images,)
    return CanonicalGraph(
        *(result, taken, given, batch, len(blocks), heads, width, tokens, notes, meaning),
        is_quantizable=bool(units),
    )


def _note_unplaced(
    graph: ir.Graph, blocks: tuple[Block, ...], units: tuple[Unit, ...]
) -> tuple[str, ...]:
    """Return a sentence where linear layers are beside the blocks, or there are none at all."""
    beside = [site for unit in units for site in unit.sites if site.role == "linear"]
    rest = describe_rest(graph, units)
    if not units:
        return (
            f"no transformer block and no linear layer on tokens was found ({rest or 'no product'})"
            ": INT8 has nothing to quantize. Take --fp16 in place of --int8",
        )
    if not beside:
        return ()
    where = "beside the blocks" if blocks else "in no block that is known"
    layers = (
        f"{len(beside)} linear layers {where}, each"
        if len(beside) > 1
        else f"1 linear layer {where},"
    )
    return (f"{layers} quantized by itself; in float: {rest}",)


def _add_preprocessing(graph: ir.Graph, spec: PreprocessSpec, tensor: TensorSpec) -> None:
    """Put ``(images - 255 mean) / (255 std)`` and NHWC to NCHW in front of `graph`.

    The old input, float32 (batch, 3, height, width), becomes an inner value; the new one is
    `tensor`: uint8 (batch, height, width, 3) RGB. Clips have their frames behind the batch.
    """
    old = graph.inputs[0]
    kind, shape = ir.TensorType(ir.DataType.UINT8), ir.Shape(tensor.shape)
    images = ir.Value(name=tensor.name, type=kind, shape=shape)
    build = Builder(graph, graph[0])
    mean, std = (np.asarray(numbers, np.float64) * 255 for numbers in (spec.mean, spec.std))
    pixels = build.one("Cast", images, to=int(ir.DataType.FLOAT))
    centred = build.one("Sub", pixels, build.constant(mean.astype(np.float32)))
    scaled = build.one("Mul", centred, build.constant((1 / std).astype(np.float32)))
    *outer, height, width, channels = range(len(tensor.shape))
    normalised = build.one("Transpose", scaled, perm=(*outer, channels, height, width))
    graph.inputs[0] = images
    replace_value(old, normalised)


def _set_inputs(graph: ir.Graph, tensors: Sequence[TensorSpec], batch: int | None) -> None:
    """Let the inputs of `graph`, called like `tensors`, have their shapes, in their order."""
    found = {value.name: value for value in graph.inputs}
    del graph.inputs[:]
    for tensor in tensors:
        value = found[tensor.name]
        value.shape = ir.Shape((batch or "batch", *tensor.shape[1:]))
        graph.inputs.append(value)


def _set_outputs(graph: ir.Graph, tensors: Sequence[TensorSpec]) -> None:
    """Keep the first outputs, as many as `tensors`, and call them what those do."""
    del graph.outputs[len(tensors) :]
    for index, tensor in enumerate(tensors):
        value = graph.outputs[index]
        if (
            value.is_graph_input()  # no node's output, one that is also read, or one named twice
            or len(value.uses()) > 0
            or any(value is other for other in list(graph.outputs)[:index])
        ):
            value = Builder(graph, graph[-1]).one("Identity", value)
            graph.outputs[index] = value
        value.name = tensor.name
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(tensor.shape)


def _set_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if opset >= OPSET:
        return proto
    is_outside = any(locations_of(proto))  # the converter reads no files
    try:
        converted = onnx.version_converter.convert_version(
            without_weights(proto) if is_outside else proto, OPSET
        )
    except Exception as error:  # the converter raises whatever its adapters raise
        raise SpecError(
            f"the graph is of opset {opset} and cannot be brought to {OPSET}: "
            f"{one_line(error)[:200]}. Export it again with opset {OPSET}"
        ) from None
    return give_weights(converted, proto) if is_outside else converted


def _infer_shapes(model: ir.Model) -> None:
    """Note the shape of every value, as far as it follows from the graph."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _read_outputs(
    graph: ir.Graph, num_named: int, seen: Sequence[tuple[int, ...]]
) -> tuple[int | None, list[tuple[int, ...]]]:
    """Return (static batch or None, shape of each named output, or of the only, without batch)."""
    shapes: list[tuple[int, ...]] = []
    for index, output in enumerate(graph.outputs[: num_named or 1]):
        sides = list(output.shape or ())[1:]
        fixed = tuple(side for side in sides if isinstance(side, int))
        if num_named and len(fixed) != len(sides) and index < len(seen):
            fixed = seen[index]
        if not fixed or len(fixed) != len(sides) or (not num_named and len(fixed) > 1):
            wanted = "fixed sides behind the batch" if num_named else "(batch, classes)"
            raise SpecError(f"output {output.name!r} has shape {output.shape}, expected {wanted}")
        shapes.append(fixed)
    (batch, *_) = dims_of(graph.inputs[0])
    return (batch if isinstance(batch, int) else None), shapes


def _read_dimensions(blocks: tuple[Block, ...]) -> tuple[int, int, int]:
    """Return (heads, tokens, width), each 0 where it is not known or differs between blocks."""
    heads, tokens, widths = set[object](), set[object](), set[object]()
    for block in blocks:
        scores, root = dims_of(block.attention.scores.outputs[0]), dims_of(block.root)
        heads.add(scores[1] if len(scores) == 4 else 0)
        tokens.add(root[1] if len(root) == 3 else 0)
        widths.add(root[-1] if len(root) in (3, 4) else 0)
    return _only_number(heads), _only_number(tokens), _only_number(widths)


def _only_number(found: set[object]) -> int:
    (number, *others) = found or {0}
    return number if isinstance(number, int) and not others else 0


def _finish(model: ir.Model, spill: Spill | None) -> onnx.ModelProto:
    """Return the model as it is written: opset, IR version, checked."""
    if foreign := sorted({f"{node.domain}.{node.op_type}" for node in model.graph if node.domain}):
        raise SpecError(
            f"the graph uses {', '.join(foreign)}, which one runtime alone knows. Take the file "
            "from before that runtime's optimizer, of standard operators"
        )
    model.opset_imports.clear()
    model.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edge-vit", ""
    proto = to_proto(model, spill)
    try:
        onnx.checker.check_model(without_weights(proto), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise SpecError(
            f"the graph cannot be written in float32 and opset {OPSET}: "
            f"{one_line(error)}. Export it in float32, with opset {OPSET}"
        ) from None
    return proto
