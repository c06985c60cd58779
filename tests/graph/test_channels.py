"""What scales channel by channel is found, whatever it is written as, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import parse, run

from edge_vit.graph.channels import ChannelSource, find_channel_source
from edge_vit.graph.edit import add_constant
from edge_vit.graph.walk import array_of

WIDTH = 6
RANDOM = np.random.default_rng(0)


def vector(width: int = WIDTH, *leading: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 2, (*leading, width))


LINEAR = {"w": RANDOM.standard_normal((4, WIDTH)), "b": vector(WIDTH, 1, 1)}
WIDE = {"w": RANDOM.standard_normal((4, 2 * WIDTH)), "b": vector(2 * WIDTH, 1, 1)}
QKV = {"w": RANDOM.standard_normal((4, 3 * WIDTH)), "b": vector(3 * WIDTH, 1, 1)} | {
    "sizes": np.full(3, WIDTH),
    "heads": np.array([0, 0, 2, 3]),
    "tokens": np.array([0, 0, WIDTH]),
}
RMS = "s = Mul(x, x) m = ReduceMean(s, last) r = Sqrt(m) n = Div(x, r)"
ATTENTION = """
    p = MatMul(x, w) q = Add(p, b) a, c, v = Split<axis = -1>(q, sizes)
    ha = Reshape(a, heads) ta = Transpose<perm = [0, 2, 1, 3]>(ha)
    hc = Reshape(c, heads) tc = Transpose<perm = [0, 2, 3, 1]>(hc)
    hv = Reshape(v, heads) tv = Transpose<perm = [0, 2, 1, 3]>(hv)
    s = MatMul(ta, tc) {probabilities}
    o = MatMul(pr, tv) t = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(t, tokens)
"""
SLICES = "p = MatMul(x, w) a = Slice(p, {first}, axis) c = Slice(p, {second}, axis)"
ENDS = {"z": [0], "h": [WIDTH], "h2": [WIDTH - 1], "e": [2**63 - 1], "axis": [-1]}


def graph(nodes: str, width: int, **constants) -> ir.Model:
    """Return a graph from ``x``, (batch, 6, `width`), to ``y`` whose nodes are `nodes`."""
    return parse(f"(float[N, 6, {width}] x) => (y) {{ {nodes} z0 = Identity(y) }}", **constants)


def divide(model: ir.Model, source: ChannelSource, factors, centres=0.0) -> None:
    for number, handle in enumerate(source.slices):
        array = array_of(handle.node.inputs[handle.index]).copy()
        mine = array[..., handle.start : handle.start + len(factors)]
        mine[...] = (mine - (centres if handle == source.offset else 0)) / factors
        new = add_constant(model.graph, f"folded{number}", array)
        handle.node.replace_input_with(handle.index, new)


SOURCES = {
    "LayerNormalization": (
        "y = LayerNormalization(x, g, c)",
        WIDTH,
        {"g": vector(), "c": vector()},
        True,
    ),
    "LayerNormalization without a bias": (
        "y = LayerNormalization(x, g)",
        WIDTH,
        {"g": vector()},
        0,
    ),
    "RMSNorm": (f"{RMS} y = Mul(n, g)", WIDTH, {"g": vector()}, False),
    "RMSNorm, gain first": (f"{RMS} y = Mul(g, n)", WIDTH, {"g": vector(WIDTH, 1, 1)}, False),
    "RMSNorm with a bias": (
        f"{RMS} k = Mul(n, g) y = Add(c, k)",
        WIDTH,
        {"g": vector(), "c": vector()},
        True,
    ),
    "RMSNorm times a number": (
        f"{RMS} k = Mul(n, g) y = Mul(k, two)",
        WIDTH,
        {"g": vector(), "two": 2.0},
        False,
    ),
    "bias before a number": (
        f"{RMS} k = Mul(n, g) l = Add(k, c) y = Div(l, two)",
        WIDTH,
        {"g": vector(), "c": vector(), "two": 2.0},
        False,
    ),
    "positions behind a gain": (
        "k = Mul(x, g) y = Add(k, c)",
        WIDTH,
        {"g": vector(), "c": vector(WIDTH, 1, 6)},
        True,
    ),
    "linear layer": ("p = MatMul(x, w) y = Add(p, b)", 4, LINEAR, True),
    "linear layer, ReLU": ("p = MatMul(x, w) q = Add(p, b) y = Relu(q)", 4, LINEAR, False),
    "gated, value second": (
        "p = MatMul(x, w) q = Add(p, b) a, v = Split<axis = 2>(q, sizes) "
        "s = Sigmoid(a) g = Mul(a, s) y = Mul(g, v)",
        4,
        WIDE | {"sizes": np.full(2, WIDTH)},
        False,
    ),
    "gated, value first, equal parts": (
        "p = MatMul(x, w) v, a = Split<axis = -1, num_outputs = 2>(p) s = Sigmoid(a) y = Mul(v, s)",
        4,
        {"w": WIDE["w"]},
        False,
    ),
    "gated by slices": (
        f"{SLICES.format(first='z, h', second='h, e')} s = Sigmoid(a) y = Mul(s, c)",
        4,
        {"w": WIDE["w"], **ENDS},
        False,
    ),
    "values": (ATTENTION.format(probabilities="pr = Softmax<axis = -1>(s)"), 4, QKV, True),
    "values, rows that do not sum to 1": (
        ATTENTION.format(probabilities="pr = Sigmoid(s)"),
        4,
        QKV,
        False,
    ),
    "values, softmax over the queries": (
        ATTENTION.format(probabilities="pr = Softmax<axis = 2>(s)"),
        4,
        QKV,
        False,
    ),
}


@pytest.mark.parametrize(("nodes", "width", "constants", "shifts"), SOURCES.values(), ids=SOURCES)
def test_dividing_the_handles_divides_the_channels_alone(nodes, width, constants, shifts):
    model = graph(nodes, width, last=[-1], **constants)
    exact, factors = run(model), vector() ** 3
    source = find_channel_source(model.graph.outputs[0], WIDTH)
    assert source is not None
    assert (source.offset is not None) == bool(shifts)
    divide(model, source, factors)
    np.testing.assert_allclose(run(model), exact / factors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "width", "constants"),
    [case[:3] for case in SOURCES.values() if case[3]],
    ids=[name for name, case in SOURCES.items() if case[3]],
)
def test_an_offset_shifts_them(nodes, width, constants):
    model = graph(nodes, width, last=[-1], **constants)
    exact, factors, centres = run(model), vector(), vector() - 1
    source = find_channel_source(model.graph.outputs[0], WIDTH)
    divide(model, source, factors, centres)
    np.testing.assert_allclose(run(model), (exact - centres) / factors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "width", "constants"),
    [
        pytest.param("y = Add(x, x)", WIDTH, {}, id="nothing of its own"),
        pytest.param(f"{RMS} y = Identity(n)", WIDTH, {}, id="a norm without a gain"),
        pytest.param("y = Mul(x, two)", WIDTH, {"two": 2.0}, id="one number for all"),
        pytest.param("y = Add(x, c)", WIDTH, {"c": vector()}, id="a bias behind nothing"),
        pytest.param(
            "p = MatMul(x, w) s = Sigmoid(p) y = Mul(p, s)",
            4,
            {"w": LINEAR["w"]},
            id="SiLU, which keeps no factor",
        ),
        pytest.param(
            "p = MatMul(x, w) y = Mul(x, p)",
            WIDTH,
            {"w": RANDOM.standard_normal((WIDTH, 1))},
            id="one column that multiplies all channels",
        ),
        pytest.param(
            "p = MatMul(x, w) r = Relu(p) y = Mul(r, r)", 4, {"w": LINEAR["w"]}, id="squared ReLU"
        ),
        pytest.param(
            "p = MatMul(x, w) r = Relu(p) y = Add(r, p)", 4, {"w": LINEAR["w"]}, id="read twice"
        ),
        pytest.param(
            "k = Mul(x, g) y = Add(k, one)",
            WIDTH,
            {"g": vector(), "one": 1.0},
            id="one number added to all",
        ),
        pytest.param(
            "p = MatMul(x, w) a = Slice(p, z, h, axis) c = Slice(p, h2, e2, axis) "
            "s = Sigmoid(a) y = Mul(c, s)",
            4,
            {"w": WIDE["w"], **ENDS, "e2": [2 * WIDTH - 1]},
            id="slices that overlap",
        ),
        pytest.param(
            ATTENTION.format(probabilities="pr = Softmax<axis = -1>(s)") + "k = Add(v, v)",
            4,
            QKV,
            id="values that somebody else reads",
        ),
        pytest.param(
            ATTENTION.format(probabilities="pr = Softmax<axis = -1>(s)"),
            4,
            QKV | {"tokens": np.array([0, -1, 2 * WIDTH])},
            id="tokens that are merged too",
        ),
    ],
)
def test_finds_nothing_where_a_factor_would_change_more(nodes, width, constants):
    model = graph(nodes, width, last=[-1], **constants)
    assert find_channel_source(model.graph.outputs[0], WIDTH) is None
