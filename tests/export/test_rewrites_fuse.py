"""LayerNorm and GELU in every form that exporters break them into, and what only looks so."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import ops, parse, run

from edge_vit.export.rewrites.fuse import (
    fuse_layer_norms,
    restore_reciprocals,
    restore_softmaxes,
    rewrite_gelus,
)

GAMMA, BETA = np.linspace(0.5, 1.5, 8), np.linspace(-1, 1, 8)
SQUARES = {"pow": "q = Pow(d, two)", "mul": "q = Mul(d, d)"}
DIVISIONS = {
    "div": "n = Div(d, r)",
    "reciprocal": "i = Reciprocal(r) n = Mul(d, i)",
    "reciprocal-first": "i = Reciprocal(r) n = Mul(i, d)",
}


def without_kept_axes():
    """Return what stands for a LayerNorm where there are as many tokens as channels."""
    return parse(
        """(float[1,8,8] x) => (float[1,8,8] y) {
            m = ReduceMean<keepdims=0>(x, axis) d = Sub(x, m) q = Mul(d, d)
            v = ReduceMean<keepdims=0>(q, axis) e = Add(v, eps) r = Sqrt(e)
            n = Div(d, r) s = Mul(n, gamma) y = Add(s, beta)
        }""",
        axis=np.array([-1]),
        eps=1e-3,
        gamma=GAMMA,
        beta=BETA,
    )


def layer_norm(square=SQUARES["pow"], division=DIVISIONS["div"], **constants):
    return parse(
        f"""(float[b,5,8] x) => (float[b,5,8] y) {{
            m = ReduceMean<keepdims=1>(x, axis)
            d = Sub(x, m)
            {square}
            v = ReduceMean<keepdims=1>(q, variance_axis)
            e = Add(v, eps)
            r = Sqrt(e)
            {division}
            s = Mul(n, gamma)
            y = Add(s, beta)
        }}""",
        **{
            "axis": np.array([-1]),
            "variance_axis": np.array([-1]),
            "two": 2.0,
            "eps": 1e-3,
            "gamma": GAMMA,
            "beta": BETA,
            **constants,
        },
    )


def clean(model):
    """Drop what nothing reads any more, as `make_canonical` does."""
    for node in reversed(list(model.graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            model.graph.remove(node, safe=True)
    return model


@pytest.mark.parametrize("square", SQUARES.values(), ids=SQUARES)
@pytest.mark.parametrize("division", DIVISIONS.values(), ids=DIVISIONS)
@pytest.mark.parametrize("axis", [-1, 2])
def test_a_layer_norm_becomes_one_operator(square, division, axis):
    model = layer_norm(square, division, axis=np.array([axis]), variance_axis=np.array([axis]))
    wanted = run(model)
    assert fuse_layer_norms(model.graph) == 1
    assert ops(clean(model)) == {"LayerNormalization": 1}
    np.testing.assert_allclose(run(model), wanted, atol=2e-6)


@pytest.mark.parametrize(
    "model",
    [
        layer_norm(axis=np.array([1]), variance_axis=np.array([1])),
        layer_norm(axis=np.array([1])),
        layer_norm(variance_axis=np.array([1])),
        layer_norm(gamma=np.ones((5, 1)), beta=np.ones((5, 1))),
        layer_norm(gamma=1.5, beta=0.5),
        layer_norm(beta=np.ones((5, 1))),
        without_kept_axes(),
        layer_norm(eps=np.linspace(0.1, 1, 8)),
        layer_norm(two=3.0),
        layer_norm(division="n = Div(x, r)"),
        layer_norm(division="i = Reciprocal(r) n = Mul(x, i)"),
    ],
    ids=[
        "axis",
        "mean-axis",
        "variance-axis",
        "per-token",
        "scalar",
        "beta-per-token",
        "no-kept-axes",
        "vector-eps",
        "cube",
        "not-centred",
        "not-centred-2",
    ],
)
def test_what_only_looks_like_a_layer_norm_is_left(model):
    before = ops(model)
    assert fuse_layer_norms(model.graph) == 0
    assert ops(model) == before


ROOT2 = math.sqrt(2)
GELUS = {
    "half-last": "z = Div(x, root2) e = Erf(z) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
    "half-x": "z = Div(x, root2) e = Erf(z) p = Add(e, one) h = Mul(x, half) y = Mul(h, p)",
    "half-erf": "z = Div(x, root2) e = Erf(z) p = Add(one, e) h = Mul(half, p) y = Mul(h, x)",
    "x-first": "z = Mul(x, rsqrt2) e = Erf(z) p = Add(e, one) h = Mul(half, x) y = Mul(p, h)",
    "halved": "z = Div(x, root2) e = Erf(z) p = Add(e, one) m = Mul(p, x) y = Div(m, two)",
    "operator": "y = Gelu(x)",
}


def gelu(nodes):
    text = f"(float[b,8] x) => (float[b,8] y) {{ {nodes} }}"
    numbers = {"root2": ROOT2, "rsqrt2": 1 / ROOT2, "one": 1.0, "half": 0.5, "two": 2.0}
    if "Gelu" not in nodes:
        return parse(text, **numbers)
    model = parse(text.replace("Gelu", "Relu"), **numbers)  # opset 19 does not have it
    (node,) = model.graph
    node.op_type = "Gelu"
    return model


def exact_gelu(batch=2):
    x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
    return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / ROOT2)))(x)


@pytest.mark.parametrize("nodes", GELUS.values(), ids=GELUS)
def test_every_gelu_becomes_the_form_that_parsers_fuse(nodes):
    model = gelu(nodes)
    assert rewrite_gelus(model.graph) == 1
    assert ops(clean(model)) == {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2}
    last = model.graph.outputs[0].producer()
    assert last.op_type == "Mul"
    assert float(last.inputs[1].const_value.numpy()) == 0.5
    np.testing.assert_allclose(run(model), exact_gelu(), atol=1e-6)


def test_the_tanh_form_as_one_operator_is_spelled_out():
    model = gelu("y = Gelu(x)")
    (node,) = model.graph
    node.attributes.add(ir.AttrString("approximate", "tanh"))
    assert rewrite_gelus(model.graph) == 1
    assert ops(clean(model)) == {"Mul": 6, "Add": 2, "Tanh": 1}
    x = np.random.default_rng(2).standard_normal((2, 8))
    wanted = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(run(model), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Mul(x, half) e = Erf(z) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
        "z = Div(x, root2) e = Erf(z) p = Add(e, half) m = Mul(x, p) y = Mul(m, half)",
        "z = Div(x, root2) e = Erf(z) p = Add(e, one) m = Mul(x, p) y = Mul(m, two)",
        "z = Div(x, root2) e = Erf(z) p = Add(e, one) y = Mul(p, half)",
        "z = Div(x, root2) e = Erf(z) p = Add(e, one) m = Mul(z, p) y = Mul(m, half)",
        "y = Erf(x)",
    ],
    ids=["other-scale", "plus-half", "times-two", "normal-cdf", "times-other", "erf"],
)
def test_what_only_looks_like_a_gelu_is_left(nodes):
    model = gelu(nodes)
    before, wanted = ops(model), run(model)
    assert rewrite_gelus(model.graph) == 0
    assert ops(model) == before
    np.testing.assert_array_equal(run(model), wanted)


@pytest.mark.parametrize(
    ("axis", "flat", "is_restored"),
    [(-1, "Flatten<axis=2>(x)", 1), (1, "Flatten<axis=2>(x)", 1), (0, "Flatten<axis=2>(x)", 0),
     (1, "Reshape(x, rows)", 1), (0, "Reshape(x, rows)", 0), (1, "Reshape(x, other)", 0)],
)  # fmt: skip
def test_a_softmax_of_rows_is_one_over_the_last_axis_and_no_other_is(axis, flat, is_restored):
    text = f"""(float[n,4,8] x) => (float[n,4,8] y) {{
        r = {flat} s = Softmax<axis={axis}>(r) y = Reshape(s, back) }}"""
    constants = {"rows": np.array([-1, 8]), "other": np.array([-1, 32])}
    used = {name: array for name, array in constants.items() if name in flat}
    model = parse(text, back=np.array([-1, 4, 8]), **used)
    wanted = run(model)
    assert restore_softmaxes(model.graph) == is_restored
    np.testing.assert_allclose(run(model), wanted, atol=1e-6)


@pytest.mark.parametrize(("one", "kept"), [(1.0, 0), (np.ones((1, 1, 1, 1)), 1), (2.0, 1)])
def test_one_divided_by_a_value_is_its_reciprocal(one, kept):
    model = parse("(float[2,5,8] x) => (y) { y = Div(one, x) }", one=one)
    before = run(model)
    assert restore_reciprocals(model.graph) == 1 - kept
    assert ops(model)["Reciprocal"] == 1 - kept
    np.testing.assert_allclose(run(model), before, rtol=1e-6)
