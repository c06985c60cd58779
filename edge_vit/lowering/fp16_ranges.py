"""Which nodes float16 would overflow, and the proof that the others hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.bundle import Golden
from edge_vit.bundle.record import HalfProof
from edge_vit.errors import BackendError
from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.expose import add_extremes, float_values, read_amax, round_as_half
from edge_vit.graph.sites import find_sites
from edge_vit.graph.walk import Array
from edge_vit.lowering.fp16 import HALF_MAX
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import KEPT_NODES, UNDO_CENTRE, SiteScales
from edge_vit.tasks import task_of
from edge_vit.tasks.numerics import cosine

MAX_IN_HALF = 8192.0
"""Largest |x| that is left in float16: eight times below overflow, for images that calibration has
not seen; above it neighbouring float16 values are 8 apart."""


def observe_amax(
    model: onnx.ModelProto, spec: ModelSpec, images: Sequence[Array], threads: int | None = None
) -> dict[str, float]:
    """Return the largest |x| of every float32 value of the graph, by name, over `images`.

    They are uint8 (height, width, 3) RGB, as preprocessed, and run one at a time.
    """
    names = float_values(model)
    session = open_exact_session(add_extremes(model, names), threads)
    wanted = [output.name for output in session.get_outputs()][len(model.graph.output) :]
    amax = dict.fromkeys(names, 0.0)
    for image in images:
        outputs = session.run(wanted, feed_image(spec, image))
        for name, value in read_amax(names, outputs).items():
            amax[name] = max(amax[name], value)
    return amax


def choose_fp32_nodes(
    model: onnx.ModelProto, amax: Mapping[str, float], limit: float = MAX_IN_HALF
) -> dict[str, str]:
    """Return the nodes that must stay in float32, as few as possible, each with its reason.

    A node stays where what it reads or makes passes `limit`, or where float16 cannot hold one of
    its constants. A LayerNormalization stays whole.
    """
    unheld = {t.name: reason for t in model.graph.initializer if (reason := _why_unheld(t))}
    found: dict[str, str] = {}
    for node in model.graph.node:
        largest = max((amax.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if largest > limit:
            found[node.name] = f"reaches {largest:,.0f}, float16 ends at {HALF_MAX:,.0f}"
        reasons = [unheld[name] for name in node.input if name in unheld]
        if reasons and node.op_type != "Add":  # a mask goes as low as float16 does
            found[node.name] = reasons[0]
    return found | dict.fromkeys(_angles(model.graph), "float16 has too few digits for its angle")


def choose_split_nodes(
    model: onnx.ModelProto,
    table: Mapping[str, SiteScales],
    reach: Mapping[str, Array],
    limit: float = MAX_IN_HALF,
) -> dict[str, str]:
    """Return the nodes of the INT8 graph that must stay in float32 though their sum need not.

    Layers with kept channels add two products up, each of which may reach farther than the sum. How
    far is bounded by the input's channels, whatever their signs.

    `reach`: largest |x| of each channel of a layer's input, (K,), by layer.
    """
    found: dict[str, str] = {}
    for site in find_sites(ir.from_proto(model).graph):
        linear, scales = site.linear, table[site.name]
        if not scales.kept_channels:
            continue
        product, total = (f"{site.name}/{part}" for part in KEPT_NODES[1:])
        add = (linear.add and linear.add.name) or f"{linear.matmul.name}/{UNDO_CENTRE}"
        own = [linear.matmul.name or "", add]
        is_kept = np.isin(np.arange(len(linear.weight)), scales.kept_channels)
        # For TensorRT the level that stands for 0 is subtracted.
        far = reach[site.name] + abs(scales.activation_zero * scales.activation_scale)
        for channels, nodes in ((is_kept, [product]), (~is_kept, own)):
            bound = far[channels] @ np.abs(linear.weight[channels]) + np.abs(linear.bias)
            if (largest := float(bound.max())) > limit:
                why = f"may reach {largest:,.0f}, float16 ends at {HALF_MAX:,.0f}"
                found |= dict.fromkeys([*nodes, total], why)
    return found


def _angles(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the nodes that make a sine or cosine of an input, such as a timestep up to 1,000.

    Behind 512 the numbers of float16 are half a radian apart.
    """
    makers = {name: node for node in graph.node for name in node.output}
    stack = [node for node in graph.node if node.op_type in ("Sin", "Cos")]
    seen = set[str]()
    while stack:
        node = stack.pop()
        if node.name not in seen:
            seen.add(node.name)
            yield node.name
            stack.extend(makers[name] for name in node.input if name in makers)


class HalfEmulator:
    """Runs a float16 graph as a GPU computes it, and finds where it overflows.

    ONNX Runtime's own run of such a graph on a CPU proves nothing: it keeps float32 between the
    nodes that it fuses.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._names = [output.name for output in model.graph.output]
        self._session = open_exact_session(self._emulate(model), None, as_written=True)

    def _emulate(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A function, so that the graph in between is freed before the session is opened."""
        emulated, self._rounded = round_as_half(model)
        return add_extremes(emulated, self._rounded)

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], tuple[str, ...]]:
        """Return the outputs, and the names of the nodes whose output is infinite or NaN."""
        values = self._session.run(None, dict(feeds))
        outputs = dict(zip(self._names, values, strict=False))
        amax = read_amax(self._rounded, values[len(outputs) :])
        overflowed = [node for name, node in self._rounded.items() if not np.isfinite(amax[name])]
        if not overflowed and not all(np.isfinite(output).all() for output in outputs.values()):
            overflowed = ["the output"]  # NaN from a node in float32
        return outputs, tuple(overflowed)


def prove_half(
    model: onnx.ModelProto, spec: ModelSpec, golden: Golden, float32_nodes: int = 0
) -> HalfProof:
    """Return how float16 and fp32 outputs compare over the golden images, node by node."""
    lowest, emulator = 1.0, HalfEmulator(model)
    task, exact = task_of(spec), golden.named(spec)
    for index, image in enumerate(golden.images):
        outputs, overflowed = emulator.run(feed_image(spec, image))
        if overflowed:
            raise BackendError(
                f"FP16 overflows at {', '.join(overflowed[:3])} on a golden image, which the "
                "calibration images did not show. Run: edgevit calibrate, with more images"
            )
        one = {name: output[index : index + 1] for name, output in exact.items()}
        first = {name: output[:1] for name, output in outputs.items()}  # of a fixed batch
        wanted, got = task.aligned(spec, one, first)
        for name in one:
            lowest = min(lowest, float(cosine(*(x[name].reshape(1, -1) for x in (wanted, got)))[0]))
    return HalfProof(len(golden.images), lowest, float32_nodes)


def _why_unheld(constant: onnx.TensorProto) -> str:
    """Return why float16 cannot hold a constant; empty where it can."""
    if constant.data_type != onnx.TensorProto.FLOAT:
        return ""
    values = ir.serde.deserialize_tensor(constant).numpy()
    largest = float(np.abs(values).max(initial=0.0))
    if largest > HALF_MAX:
        return f"its constant {constant.name} holds {largest:,.3g}"
    if values.size == 1 and largest and not np.float16(largest):
        return f"its constant {constant.name} holds {largest:.3g}, which float16 takes for 0"
    return ""
