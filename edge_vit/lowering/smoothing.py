"""Moves outlier channels out of the activations into the weights, without changing the function.

One scale serves a whole activation, so a single channel a hundred times larger than the rest costs
all others their resolution. Where something before a linear layer can take a factor per channel,
the input channel is divided by s and the weight's row multiplied by it: norm -> linear through the
norm's gain and bias, V -> proj through the value columns of qkv, since attention mixes tokens and
never channels, and value -> fc2 of a gated MLP through the columns of fc1, since its gate treats
each channel alone. Layers that share one input share its factors.

``s = amax_x ** strength / rms_w ** (1 - strength)``: SmoothQuant (Xiao et al. 2023), but for the
weight's row by its root mean square, since rounding noise of the activation reaches the output by
the row's energy; on the models of benchmarks/real_models.py that is worth 0.2 dB.

At strength 0.5 the smoothed ranges depend on the product of a channel's two sizes alone, which no
rescaling of the channel changes: weights with outliers of that kind quantize as if they had none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_vit.errors import ArtifactError
from edge_vit.graph import walk
from edge_vit.graph.channels import ChannelSource, find_channel_source
from edge_vit.graph.edit import add_behind, add_constant, replace_input
from edge_vit.graph.sites import Block, Role, Site, Unit, find_units
from edge_vit.graph.walk import Array, Linear
from edge_vit.spec.table import UNDO_CENTRE, SiteScales

SMOOTHING_ORDER: tuple[Role, ...] = ("proj", "fc2", "linear", "qkv", "fc1")
"""A layer goes before the one whose columns take its factors: huge value columns would distort the
row ranges that norm -> qkv reads."""

_SMALLEST = 1e-12  # a channel below it on either side is dead and stays as it is


@dataclass(frozen=True)
class SmoothingTarget:
    """What in front of linear layers can take a factor per channel of the input that they share."""

    sites: tuple[Site, ...]  # the layers that are quantized
    others: tuple[Linear, ...]  # that read the same input, and go on in floating point
    source: ChannelSource  # takes the factors

    @property
    def width(self) -> int:
        """How many channels the input has."""
        return self.sites[0].linear.shape[0]

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All layers that read the input."""
        return (*(site.linear for site in self.sites), *self.others)

    @property
    def is_shiftable(self) -> bool:
        """Whether a constant per channel can be taken from the input as well."""
        have_bias = all(linear.add is not None for linear in self.linears)
        return have_bias and self.source.offset is not None


def smooth_layers(graph: ir.Graph, sites: Mapping[str, SiteScales]) -> None:
    """Smooth `graph` by the divisors, offsets and corrections of `sites`; empty ones do nothing.

    Its weights change; its function does too only by the corrections, which are for the mean error
    of INT8: a layer that stays in floating point takes none.
    """
    units = find_units(graph)
    targets = [target for unit in units for target in find_smoothing_targets(unit)]
    found = {site.name for target in targets for site in target.sites}
    for name in {name for name, s in sites.items() if s.divisors} - found:
        raise _misfit(name, "smooths")
    for target in targets:  # in the order of SMOOTHING_ORDER
        first, *rest = (sites[site.name] for site in target.sites)
        for site, scales in zip(target.sites[1:], rest, strict=True):
            if (scales.divisors, scales.offsets) != (first.divisors, first.offsets):
                raise _misfit(site.name, f"smooths {target.sites[0].name} otherwise than")
        if first.divisors:
            if len(first.divisors) != target.width:
                raise _misfit(target.sites[0].name, "smooths")
            smooth(graph, target, np.array(first.divisors), np.array(first.offsets))
    for site in (site for unit in units for site in unit.sites):
        correction = np.array(sites[site.name].correction, np.float32)
        if len(correction) and sites[site.name].is_quantized:
            if site.linear.add is None or len(correction) != len(site.linear.bias):
                raise _misfit(site.name, "corrects the bias of")
            replace_bias(graph, site.linear, site.linear.bias + correction)


def smoothing_order(unit: Unit) -> list[Site]:
    """Return the layers of `unit` in the order in which they are smoothed."""
    if isinstance(unit, Block):
        return sorted(unit.sites, key=lambda site: SMOOTHING_ORDER.index(site.role))
    return list(reversed(unit.sites))


def find_smoothing_targets(unit: Unit) -> tuple[SmoothingTarget, ...]:
    """Return where `unit` can be smoothed, in the order in which that has to happen."""
    groups: dict[ir.Value, list[Site]] = {}
    for site in smoothing_order(unit):
        groups.setdefault(site.linear.input, []).append(site)
    targets = (_find_target(value, tuple(sites)) for value, sites in groups.items())
    return tuple(target for target in targets if target is not None)


def choose_divisors(channel_amax: Array, weight: Array, strength: float) -> npt.NDArray[np.float32]:
    """Return s, (K,): what each input channel, of `channel_amax`, is to be divided by.

    At strength 0 all difficulty is left in the activation, at 1 it moves into the weight.
    """
    activations = np.asarray(channel_amax, np.float64)
    rows = np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=1))
    live = (activations > _SMALLEST) & (rows > _SMALLEST)
    divisors = np.ones_like(activations)
    divisors[live] = activations[live] ** strength / rows[live] ** (1 - strength)
    return divisors.astype(np.float32)


def smooth(
    graph: ir.Graph, target: SmoothingTarget, divisors: Array, offsets: Array | None = None
) -> None:
    """Let the input of `target` be ``(x - offsets) / divisors``, its output be as before.

    `divisors` are (K,) and above 0, `offsets` (K,) or empty.
    """
    factors = np.asarray(divisors, np.float32)
    centres = np.zeros_like(factors)
    if offsets is not None and len(offsets):
        if not target.is_shiftable:
            raise _misfit(target.sites[0].name, "shifts")
        centres = np.asarray(offsets, np.float32)
    for linear in target.linears:
        if centres.any():
            undone = centres.astype(np.float64) @ linear.weight
            replace_bias(graph, linear, (linear.bias + undone).astype(np.float32))
        _replace(graph, linear.matmul, 1, linear.weight * factors[:, None])
    for part in target.source.slices:
        array = walk.array_of(part.node.inputs[part.index]).copy()
        mine = array[..., part.start : part.start + len(factors)]
        mine[...] = (mine - (centres if part == target.source.offset else 0)) / factors
        _replace(graph, part.node, part.index, array)


def replace_bias(graph: ir.Graph, linear: Linear, bias: Array) -> None:
    """Let `linear` add `bias`, (N,), in place of its own, or where it has none."""
    if linear.add is None:
        name = f"{linear.matmul.name}/{UNDO_CENTRE}"
        shape = (1, 1, -1) if len(walk.dims_of(linear.output)) > 2 else (-1,)
        constant = add_constant(graph, f"{name}.1", bias.reshape(shape))
        add_behind(graph, linear.matmul, constant, name)
        return
    index = walk.constant_index(linear.add)
    # On tokens as `shape_biases` has it. A layer on rows, (batch, N), has to stay one.
    is_on_tokens = len(walk.dims_of(linear.output)) > 2
    rank = 3 if is_on_tokens else max(1, len(walk.array_shape(linear.add.inputs[index])))
    _replace(graph, linear.add, index, bias.reshape(*[1] * (rank - 1), -1))


def _misfit(site: str, verb: str) -> ArtifactError:
    return ArtifactError(
        f"the calibration table {verb} {site}, where the graph has nothing to take it. "
        "Run: edgevit calibrate"
    )


def _find_target(value: ir.Value, sites: tuple[Site, ...]) -> SmoothingTarget | None:
    """Return what takes the factors of `sites`, the layers of one block that read `value`."""
    source = find_channel_source(value, sites[0].linear.shape[0])
    readers = [walk.find_linear(use.node) if use.idx == 0 else None for use in value.uses()]
    linears = [linear for linear in readers if linear is not None]
    if source is None or len(linears) < len(readers) or value.is_graph_output():
        return None
    mine = {site.linear.matmul for site in sites}
    others = tuple(linear for linear in linears if linear.matmul not in mine)
    return SmoothingTarget(sites, others, source)


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    """Let `node` read `array` in place of its constant input `index`; other readers keep theirs."""
    data, name = np.asarray(array, np.float32), f"{node.name}.{index}/smoothed"
    while name in graph.initializers:  # the values of qkv are smoothed first, its input afterwards
        name += "/smoothed"
    replace_input(node, index, add_constant(graph, name, data))
