"""The small questions: what is a linear layer, a constant, a mere rearrangement."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import parse

from edge_vit.graph.walk import find_linears, is_movement, movement_root, scalar_of, scaled_by

W = np.arange(24.0).reshape(4, 6)


def linear_of(nodes, **constants):
    model = parse(f"(float[n,3,4] x, float[6] v) => (y) {{ {nodes} }}", w=W, **constants)
    found = list(find_linears(model.graph).values())
    return found[0] if found else None


@pytest.mark.parametrize(
    ("nodes", "bias", "wanted"),
    [
        ("y = MatMul(x, w)", None, np.zeros(6)),
        ("m = MatMul(x, w) y = Add(m, b)", np.arange(6.0), np.arange(6.0)),
        ("m = MatMul(x, w) y = Add(b, m)", np.arange(6.0)[None, None], np.arange(6.0)),
        ("m = MatMul(x, w) y = Add(m, b)", 0.5, np.full(6, 0.5)),
    ],
    ids=["none", "vector", "left", "scalar"],
)
def test_a_linear_layer_has_the_bias_that_is_added(nodes, bias, wanted):
    linear = linear_of(nodes, **({} if bias is None else {"b": bias}))
    np.testing.assert_array_equal(linear.weight, W)
    np.testing.assert_array_equal(linear.bias, wanted)
    assert linear.input.name == "x"
    assert linear.output.name == "y"


@pytest.mark.parametrize(
    "nodes",
    [
        "m = MatMul(x, w) y = Add(m, v)",
        "m = MatMul(x, w) y = Add(m, b)",
        "m = MatMul(x, w) a = Add(m, c) z = Relu(m) y = Add(a, z)",
    ],
    ids=["computed", "per-token", "read-twice"],
)
def test_an_addition_that_is_no_bias_is_not_the_layers(nodes):
    linear = linear_of(nodes, b=np.zeros((3, 6)), c=np.zeros(6))
    assert linear.add is None
    assert linear.output.name == "m"


@pytest.mark.parametrize(
    "nodes",
    ["y = MatMul(x, cube)", "t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)", "y = Relu(x)"],
    ids=["weight-of-three-dimensions", "two-activations", "no-product"],
)
def test_what_is_no_linear_layer(nodes):
    assert linear_of(nodes, cube=np.ones((1, 4, 2))) is None


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ("y = Mul(x, two)", 2.0),
        ("y = Mul(two, x)", 2.0),
        ("y = Div(x, two)", 0.5),
        ("y = Div(two, x)", None),
        ("y = Mul(x, four)", None),
        ("y = Mul(x, x)", None),
        ("y = Add(x, two)", None),
    ],
)
def test_scaled_by_one_number(nodes, wanted):
    model = parse(f"(float[n,4] x) => (y) {{ {nodes} }}", two=np.array([[2.0]]), four=np.ones(4))
    (node,) = model.graph
    found = scaled_by(node)
    assert found == (None if wanted is None else (model.graph.inputs[0], wanted))


def test_a_scalar_is_a_constant_of_one_element():
    model = parse("(float[n,4] x) => (y) { y = Mul(x, two) }", two=np.array([[2.0]]))
    (node,) = model.graph
    assert [scalar_of(value) for value in (*node.inputs, None)] == [None, 2.0, None]


def test_rearrangements_lead_back_to_their_root():
    model = parse(
        """(float[n,3,4] x) => (y) {
            r = Relu(x)
            t = Transpose<perm=[0,2,1]>(r)
            s = Reshape(t, flat)
            p, q = Split<axis=1, num_outputs=2>(s)
            g = Gather<axis=1>(q, first)
            y = Unsqueeze(g, one)
        }""",
        flat=np.array([-1, 12]),
        first=np.array(0),
        one=np.array([1]),
    )
    assert movement_root(model.graph.outputs[0]).name == "r"


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ("y = Reshape(x, flat)", True),
        ("s = Shape(x) y = Reshape(x, s)", False),
        ("y = Gather(table, i)", False),
        ("y = Relu(x)", False),
    ],
    ids=["constant-target", "computed-target", "look-up", "relu"],
)
def test_a_movement_moves_its_first_input_and_knows_where_to(nodes, wanted):
    model = parse(
        f"(float[n,12] x) => (y) {{ j = ArgMax<axis=1, keepdims=0>(x) i = Identity(j) {nodes} }}",
        flat=np.array([-1, 12]),
        table=np.ones((12, 2)),
    )
    assert is_movement(model.graph.outputs[0].producer()) == wanted
