"""Moves outlier channels out of the activations into the weights, without changing the function.

One scale serves a whole activation, so a single channel a hundred times larger than the rest costs
all others their resolution. Where the operator before a linear layer can take a factor per channel,
the input channel is divided by s and the weight's row multiplied by it: LayerNorm -> linear through
gamma and beta, V -> proj through the value columns of qkv, since attention mixes tokens and never
channels. ``s = amax_x ** strength / rms_w ** (1 - strength)``: SmoothQuant (Xiao et al. 2023), but
for the weight's row by its root mean square, since rounding noise of the activation reaches the
output by the row's energy; on the models of benchmarks/real_models.py that is worth 0.2 dB.

At strength 0.5 the folded ranges depend on the product of a channel's two sizes alone, which no
rescaling of the channel changes: weights with outliers of that kind quantize as if they had none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_vit.errors import ArtifactError
from edge_vit.graph.constant import add_constant
from edge_vit.graph.sites import Block, Site, find_blocks
from edge_vit.graph.walk import Array, Linear, array_of, consumers, data_input, is_constant
from edge_vit.table import SiteScales

FOLD_ORDER = ("proj", "qkv", "fc1", "fc2")
"""V -> proj goes first: huge value columns would distort the row ranges that LN -> qkv reads. In
front of fc2 there is something to fold only where a norm stands."""

_NORM_BIAS = 2  # which input of a LayerNormalization it is

_SMALLEST = 1e-12  # a channel below it on either side is dead and stays as it is


@dataclass(frozen=True)
class FoldTarget:
    """What in front of a linear layer can take a factor per channel.

    Attributes:
        site: the layer.
        norm: the LayerNormalization that makes its input, or None.
        qkv: the layer whose last columns are the values that attention hands to `site`, or None.
        is_shiftable: a constant per channel can be taken from the input as well, since both sides
            have a bias; of values, since each row of the attention's probabilities sums to 1.
    """

    site: Site
    norm: ir.Node | None
    qkv: Linear | None
    is_shiftable: bool


def apply_folds(graph: ir.Graph, sites: Mapping[str, SiteScales]) -> None:
    """Fold `graph` by the divisors, offsets and corrections of `sites`; empty ones change nothing.

    Its weights change; its function does too only by the corrections.

    Raises:
        ArtifactError: a site cannot be folded in this graph.
    """
    blocks = find_blocks(graph)
    targets = [target for block in blocks for target in find_fold_targets(block)]
    for name in {name for name, s in sites.items() if s.divisors} - {t.site.name for t in targets}:
        raise _misfit(name, "folds")
    for target in targets:  # in the order of FOLD_ORDER
        scales = sites[target.site.name]
        if scales.divisors:
            if len(scales.divisors) != target.site.linear.weight.shape[0]:
                raise _misfit(target.site.name, "folds")
            apply_fold(graph, target, np.array(scales.divisors), np.array(scales.offsets))
    for site in (site for block in blocks for site in block.sites):
        correction = np.array(sites[site.name].correction, np.float32)
        if len(correction):
            if site.linear.add is None or len(correction) != len(site.linear.bias):
                raise _misfit(site.name, "corrects the bias of")
            replace_bias(graph, site.linear, site.linear.bias + correction)


def find_fold_targets(block: Block) -> tuple[FoldTarget, ...]:
    """Return where `block` can be folded, in the order in which folding has to happen."""
    found = []
    for role in FOLD_ORDER:
        sites = [site for site in block.sites if site.role == role]
        if len(sites) != 1:
            continue  # several layers share one input and would each want factors of their own
        target = _norm_before(sites[0])
        if target is None and role == "proj":
            target = _values_before(block, sites[0])
        if target is not None:
            found.append(target)
    return tuple(found)


def choose_divisors(channel_amax: Array, weight: Array, strength: float) -> npt.NDArray[np.float32]:
    """Return s, (K,): what each input channel is to be divided by.

    Args:
        channel_amax: (K,), of the layer's input.
        weight: (K, N).
        strength: 0 leaves all difficulty in the activation, 1 moves it into the weight.
    """
    activations = np.asarray(channel_amax, np.float64)
    rows = np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=1))
    live = (activations > _SMALLEST) & (rows > _SMALLEST)
    divisors = np.ones_like(activations)
    divisors[live] = activations[live] ** strength / rows[live] ** (1 - strength)
    return divisors.astype(np.float32)


def apply_fold(
    graph: ir.Graph, target: FoldTarget, divisors: Array, offsets: Array | None = None
) -> None:
    """Let the input of `target` be ``(x - offsets) / divisors``, its output be as before.

    Args:
        graph: that holds the target.
        target: what to fold.
        divisors: (K,), above 0.
        offsets: (K,); None or empty for none.

    Raises:
        ArtifactError: there are offsets, and nowhere to put them.
    """
    factors, linear = np.asarray(divisors, np.float32), target.site.linear
    centres = np.zeros_like(factors)
    if offsets is not None and len(offsets):
        if not target.is_shiftable:
            raise _misfit(target.site.name, "shifts")
        centres = np.asarray(offsets, np.float32)
        undone = centres.astype(np.float64) @ linear.weight
        replace_bias(graph, linear, (linear.bias + undone).astype(np.float32))
    _replace(graph, linear.matmul, 1, linear.weight * factors[:, None])
    if target.norm is not None:
        for index in range(1, len(target.norm.inputs)):
            value = target.norm.inputs[index]
            if value is not None:
                array = array_of(value) - (centres if index == _NORM_BIAS else 0)
                _replace(graph, target.norm, index, array / factors)
    if target.qkv is not None:
        qkv, width = target.qkv, len(factors)
        weight, bias = qkv.weight.copy(), qkv.bias.copy()
        weight[:, -width:] /= factors
        bias[-width:] = (bias[-width:] - centres) / factors
        _replace(graph, qkv.matmul, 1, weight)
        if qkv.add is not None:
            replace_bias(graph, qkv, bias)


def replace_bias(graph: ir.Graph, linear: Linear, bias: Array) -> None:
    """Let `linear`, which has a bias, add `bias`, (N,), in place of its own."""
    assert linear.add is not None, "the layer has no bias"
    inputs = enumerate(linear.add.inputs)
    index = next(i for i, value in inputs if value is not None and is_constant(value))
    _replace(graph, linear.add, index, bias.reshape(1, 1, -1))


def _misfit(site: str, verb: str) -> ArtifactError:
    return ArtifactError(
        f"the calibration table {verb} {site}, where the graph has nothing to take it. "
        "Run: edgevit calibrate"
    )


def _norm_before(site: Site) -> FoldTarget | None:
    node = site.linear.input.producer()
    if node is None or node.op_type != "LayerNormalization":
        return None
    if len(list(consumers(site.linear.input))) != 1:
        return None  # somebody else reads the normalised tokens too
    has_bias = len(node.inputs) > _NORM_BIAS and node.inputs[_NORM_BIAS] is not None
    return FoldTarget(site, node, None, has_bias and site.linear.add is not None)


def _values_before(block: Block, site: Site) -> FoldTarget | None:
    """Return the target of V -> proj where both sides keep the channels in one order.

    That is where the values are the last part of a Split, go to heads by Reshape and Transpose, and
    come back by Transpose and Reshape: what canonical attention does.
    """
    layers, heads = block.linears("qkv"), block.attention.context.inputs[1]
    merged = site.linear.input.producer()
    if len(layers) != 1 or heads is None or merged is None or merged.op_type != "Reshape":
        return None
    tokens = data_input(merged).producer()
    spread = _heads_above(heads)
    if spread is None or tokens is None or not _swaps_heads(tokens):
        return None
    split = data_input(spread).producer()
    is_value = (
        split is not None
        and split.op_type == "Split"
        and split.outputs[-1] is data_input(spread)
        and data_input(split) is layers[0].output
        and data_input(tokens) is block.attention.context.outputs[0]
    )
    if not is_value:
        return None
    sums_to_one = data_input(block.attention.context) is block.attention.softmax.outputs[0]
    have_bias = layers[0].add is not None and site.linear.add is not None
    return FoldTarget(site, None, layers[0], sums_to_one and have_bias)


def _heads_above(value: ir.Value) -> ir.Node | None:
    """Return the Reshape of the ``Reshape -> Transpose`` that spreads tokens to heads `value`."""
    transpose = value.producer()
    if transpose is None or not _swaps_heads(transpose):
        return None
    reshape = data_input(transpose).producer()
    return reshape if reshape is not None and reshape.op_type == "Reshape" else None


def _swaps_heads(node: ir.Node) -> bool:
    """Say whether `node` swaps tokens and heads of (batch, tokens, heads, channels), or back."""
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [0, 2, 1, 3]


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    """Let `node` read `array` in place of its constant input `index`; other readers keep theirs."""
    data, name = np.asarray(array, np.float32), f"{node.name}.{index}/folded"
    while name in graph.initializers:  # the values of qkv are folded first, its input afterwards
        name += "/folded"
    node.replace_input_with(index, add_constant(graph, name, data))
