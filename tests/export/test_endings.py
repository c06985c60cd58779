"""What a graph does to its logits at its end: found, taken off, and given back bit for bit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from small_graphs import ops, parse, run

from edge_vit.export.rewrites.ending import find_ending, strip_ending

SIZE = 4
LOGITS = "l = Mul(x, three)"
CONSTANTS = {
    "three": np.full(SIZE, 3.0),
    "one": 1.0,
    "ten": 10.0,
    "hundred": 100.0,
    "minus": -1.0,
    "tiny": 1e-4,
    "most": 0.9999,
    "half": 0.5,
    "last": np.array([-1]),
    "first": np.array([0]),
    "spatial": np.array([0, SIZE, 1, 1]),
    "flat": np.array([0, SIZE]),
    "two": np.array([2, 3]),
}


def graph_of(*nodes: str, size: int = SIZE):
    text = f"(float[batch,{size}] x) => (y) {{ {LOGITS} {' '.join(nodes)} }}"
    used = {name: value for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", text)}
    return parse(text, **(used | {"three": np.full(size, 3.0)}))


ENDINGS = {
    "softmax": ("softmax", False, "y = Softmax<axis = -1>(l)"),
    "softmax by number": ("softmax", False, "y = Softmax<axis = 1>(l)"),
    "softmax behind identity": ("softmax", False, "p = Softmax(l)", "y = Identity(p)"),
    "softmax behind a cast": (
        *("softmax", False),
        *("p = Softmax(l)", "d = Cast<to = 11>(p)", "y = Cast<to = 1>(d)"),
    ),
    "softmax over channels of a map": (
        *("softmax", False),
        *("m = Reshape(l, spatial)", "p = Softmax<axis = 1>(m)", "y = Reshape(p, flat)"),
    ),
    "softmax behind squeeze": (
        *("softmax", False),
        *("m = Reshape(l, spatial)", "p = Softmax<axis = -3>(m)", "y = Squeeze(p, two)"),
    ),
    "log softmax": ("softmax", True, "y = LogSoftmax(l)"),
    "log of a softmax": ("softmax", True, "p = Softmax(l)", "y = Log(p)"),
    "exp of a log softmax": ("softmax", False, "p = LogSoftmax(l)", "y = Exp(p)"),
    "softmax in full": (
        *("softmax", False),
        *("e = Exp(l)", "t = ReduceSum<keepdims = 1>(e, last)", "y = Div(e, t)"),
    ),
    "softmax in full, shifted": (
        *("softmax", False, "h = ReduceMax<keepdims = 1>(l, last)", "s = Sub(l, h)"),
        *("e = Exp(s)", "t = ReduceSum<keepdims = 1>(e, last)", "y = Div(e, t)"),
    ),
    "log softmax in full": (
        *("softmax", True, "e = Exp(l)", "t = ReduceSum<keepdims = 1>(e, last)"),
        *("g = Log(t)", "y = Sub(l, g)"),
    ),
    "log softmax by log-sum-exp": (
        *("softmax", True),
        *("t = ReduceLogSumExp<keepdims = 1>(l, last)", "y = Sub(l, t)"),
    ),
    "sigmoid": ("sigmoid", False, "y = Sigmoid(l)"),
    "log sigmoid": ("sigmoid", True, "p = Sigmoid(l)", "y = Log(p)"),
    "sigmoid in full": (
        *("sigmoid", False),
        *("n = Neg(l)", "e = Exp(n)", "t = Add(e, one)", "y = Div(one, t)"),
    ),
    "sigmoid by reciprocal": (
        *("sigmoid", False),
        *("n = Neg(l)", "e = Exp(n)", "t = Add(one, e)", "y = Reciprocal(t)"),
    ),
    "clipped": ("softmax", False, "p = Softmax(l)", "y = Clip(p, tiny, most)"),
    "clipped sigmoid in percent": (
        *("sigmoid", False, "p = Sigmoid(l)", "c = Clip(p, tiny, most)", "y = Mul(c, hundred)"),
    ),
    "percentages": ("softmax", False, "p = Softmax(l)", "y = Mul(p, hundred)"),
    "percentages of a map": (
        *("softmax", False, "m = Reshape(l, spatial)", "p = Softmax<axis = 1>(m)"),
        *("q = Mul(p, hundred)", "f = Reshape(q, flat)", "y = Div(f, ten)"),
    ),
    "sigmoid as a quotient": ("sigmoid", False, "e = Exp(l)", "t = Add(e, one)", "y = Div(e, t)"),
}


@pytest.mark.parametrize(("activation", "is_log", "nodes"), [
    pytest.param(activation, is_log, nodes, id=name)
    for name, (activation, is_log, *nodes) in ENDINGS.items()
])  # fmt: skip
def test_an_end_is_found_and_given_back(activation, is_log, nodes):
    model = graph_of(*nodes)
    wanted = run(model)
    ending = find_ending(model.graph)
    assert ending is not None
    assert (ending.activation, ending.is_log) == (activation, is_log)
    strip_ending(model.graph, ending)
    logits = run(model)
    np.testing.assert_allclose(ending.restore(logits), wanted, rtol=1e-4, atol=1e-6)
    left = graph_of("y = Identity(l)")
    np.testing.assert_allclose(logits, run(left), rtol=1e-6)


NONE = {
    "logits": ("y = Identity(l)",),
    "softmax over the batch": ("y = Softmax<axis = 0>(l)",),
    "softmax over pixels": (
        *("m = Reshape(l, spatial)", "p = Softmax<axis = 2>(m)", "y = Reshape(p, flat)"),
    ),
    "a gate, x times sigmoid": ("p = Sigmoid(l)", "y = Mul(l, p)"),
    "a sum over the batch": (
        *("e = Exp(l)", "t = ReduceSum<keepdims = 1>(e, first)", "y = Div(e, t)"),
    ),
    "another sum": ("e = Exp(l)", "t = ReduceSum<keepdims = 1>(l, last)", "y = Div(e, t)"),
    "scaled probabilities": ("p = Softmax(l)", "y = Mul(p, three)"),
    "rounded to half": (*("h = Cast<to = 10>(l)", "p = Softmax(h)", "y = Cast<to = 1>(p)"),),
    "clipped hard": ("p = Softmax(l)", "y = Clip(p, half, one)"),
    "negative log-probabilities": ("p = LogSoftmax(l)", "y = Mul(p, minus)"),
    "exponentials": ("y = Exp(l)",),
}


@pytest.mark.parametrize("nodes", NONE.values(), ids=NONE)
def test_what_is_no_end_stays(nodes):
    assert find_ending(graph_of(*nodes).graph) is None


def test_a_softmax_of_one_class_hides_its_logits():
    assert find_ending(graph_of("y = Softmax(l)", size=1).graph) is None
    assert find_ending(graph_of("y = Sigmoid(l)", size=1).graph).activation == "sigmoid"
    squeezed = graph_of("p = Sigmoid(l)", "s = Squeeze(p, last)", "y = Flatten(s)", size=1)
    assert find_ending(squeezed.graph).activation == "sigmoid"


def test_of_two_softmaxes_the_last_is_taken_off():
    model = graph_of("p = Softmax(l)", "y = Softmax(p)")
    wanted = run(model)
    ending = find_ending(model.graph)
    strip_ending(model.graph, ending)
    np.testing.assert_allclose(ending.restore(run(model)), wanted, rtol=1e-5)
    assert run(model).sum(axis=1) == pytest.approx(1)


def test_logits_that_are_read_elsewhere_too_are_kept():
    model = parse(
        f"(float[batch,{SIZE}] x) => (y, z) {{ {LOGITS} y = Softmax(l) z = Relu(l) }}",
        three=CONSTANTS["three"],
    )
    strip_ending(model.graph, find_ending(model.graph))
    assert len(model.graph.outputs) == 1
    assert ops(model)["Relu"] == 1
    np.testing.assert_allclose(run(model), run(graph_of("y = Identity(l)")), rtol=1e-6)
