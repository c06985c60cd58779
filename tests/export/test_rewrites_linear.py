"""Linear layers: Gemm, rows, biases, several on one input. Each keeps its numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir.passes.common as passes
import pytest
from small_graphs import ops, parse, run

from edge_vit.export.rewrites.linear import (
    merge_linears,
    shape_biases,
    split_gemms,
    unflatten_linears,
)
from edge_vit.graph.walk import array_shape, find_linears

RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((8, 6)), RNG.standard_normal((6, 8))
B, C = RNG.standard_normal(6), RNG.standard_normal(8)


def clean(model):
    passes.RemoveUnusedNodesPass()(model)
    return ops(model)


@pytest.mark.parametrize(
    ("call", "constants", "wanted"),
    [
        ("Gemm(x, w, b)", {"w": W, "b": B}, {"MatMul": 1, "Add": 1}),
        ("Gemm(x, w)", {"w": W}, {"MatMul": 1}),
        ("Gemm<transB=1>(x, w, b)", {"w": W.T, "b": B}, {"MatMul": 1, "Add": 1}),
        ("Gemm<alpha=0.5, beta=2.0>(x, w, b)", {"w": W, "b": B}, {"MatMul": 1, "Add": 1}),
        ("Gemm(x, w, b)", {"w": W, "b": 0.5}, {"MatMul": 1, "Add": 1}),
        ("Gemm(x, w, b)", {"w": W, "b": B[None]}, {"MatMul": 1, "Add": 1}),
    ],
    ids=["plain", "no-bias", "transposed", "scaled", "scalar-bias", "row-bias"],
)
def test_a_gemm_becomes_matmul_and_add(call, constants, wanted):
    model = parse(f"(float[n,8] x) => (float[n,6] y) {{ y = {call} }}", **constants)
    before = run(model)
    split_gemms(model.graph)
    assert clean(model) == wanted
    np.testing.assert_allclose(run(model), before, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (4, 1)])
def test_a_c_that_differs_from_row_to_row_is_added_and_is_no_bias(shape):
    constants = {"w": W, "b": RNG.standard_normal(shape)}
    model = parse("(float[4,8] x) => (float[4,6] y) { y = Gemm<beta=0.5>(x, w, b) }", **constants)
    before = run(model)
    split_gemms(model.graph)
    assert clean(model) == {"MatMul": 1, "Add": 1}
    (linear,) = find_linears(model.graph).values()
    assert linear.add is None
    np.testing.assert_allclose(run(model), before, atol=1e-5)


def test_a_bias_that_adds_a_dimension_is_none():
    text = "(float[n,8] x) => (float[1,n,6] y) { z = MatMul(x, w) y = Add(z, b) }"
    (linear,) = find_linears(parse(text, w=W, b=B.reshape(1, 1, 6)).graph).values()
    assert linear.add is None


def test_layers_on_rows_are_merged_with_a_bias_of_rows():
    text = """(float[n,8] x) => (float[n,6] y) {
        p = MatMul(x, w) q = Add(p, b) r = MatMul(x, w2) s = Add(r, b) y = Mul(q, s) }"""
    model = parse(text, w=W, w2=V.T, b=B)
    before = run(model)
    assert merge_linears(model.graph, list(find_linears(model.graph).values()))
    assert clean(model) == {"MatMul": 1, "Add": 1, "Split": 1, "Mul": 1}
    np.testing.assert_allclose(run(model), before, atol=1e-5)


def test_a_norm_of_rows_without_a_bias_is_left_or_keeps_its_numbers():
    text = """(float[n,3,8] x) => (float[n,3,8] y) {
        r = Reshape(x, rows) z = LayerNormalization(r, g, ) y = Reshape(z, back) }"""
    model = parse(text, rows=np.array([-1, 8]), back=np.array([-1, 3, 8]), g=C)
    before = run(model)
    unflatten_linears(model.graph)
    np.testing.assert_allclose(run(model), before, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "call"),
    [("float[8,8] x", "Gemm<transA=1>(x, w)"), ("float[8,8] x", "Gemm(w2, x)")],
    ids=["transposed-input", "input-on-the-right"],
)
def test_a_gemm_that_is_no_linear_layer_is_left(inputs, call):
    model = parse(f"({inputs}) => (float[8,p] y) {{ y = {call} }}", w=W, w2=np.eye(8))
    split_gemms(model.graph)
    assert ops(model) == {"Gemm": 1}


ROWS = np.array([-1, 8])
FLAT = {
    "one-layer": "m = MatMul(r, w) a = Add(m, b) y = Reshape(a, back6)",
    "split-at-once": "m = MatMul(r, w) a = Add(m, b) y = Reshape(a, heads)",
    "mlp": "m = MatMul(r, w) a = Add(m, b) t = Tanh(a) h = Mul(t, half) "
    "k = MatMul(h, v) l = Add(k, c) y = Reshape(l, back8)",
    "residual": "m = MatMul(r, w) k = MatMul(m, v) s = Add(k, r) y = Reshape(s, back8)",
    "norm": "q = LayerNormalization<axis=-1>(r, c) m = MatMul(q, w) y = Reshape(m, back6)",
}


@pytest.mark.parametrize("nodes", FLAT.values(), ids=FLAT)
def test_rows_become_tokens_again(nodes):
    model = parse(
        f"(float[n,5,8] x) => (y) {{ r = Reshape(x, rows) {nodes} }}",
        rows=ROWS,
        back6=np.array([-1, 5, 6]),
        back8=np.array([-1, 5, 8]),
        heads=np.array([-1, 5, 2, 3]),
        half=0.5,
        w=W,
        b=B,
        v=V,
        c=C,
    )
    before = run(model)
    unflatten_linears(model.graph)
    assert clean(model)["Reshape"] == ("heads" in nodes)
    assert all(len(linear.output.shape) == 3 for linear in find_linears(model.graph).values())
    np.testing.assert_allclose(run(model), before, atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        "m = MatMul(r, w) y = Softmax<axis=0>(m)",
        "m = MatMul(r, w) y = Reshape(m, copies)",
        "q = LayerNormalization<axis=1>(r, c) m = MatMul(q, w) y = Relu(m)",
        "m = MatMul(r, w) y = Relu(m)",
    ],
    ids=["across-rows", "copies-dimension", "norm-by-position", "ends-as-rows"],
)
def test_what_needs_rows_still_gets_them(nodes):
    model = parse(
        f"(float[n,5,8] x) => (y) {{ r = Reshape(x, rows) {nodes} }}",
        rows=ROWS,
        copies=np.array([0, 2, 3]),
        w=W,
        c=C,
    )
    before = run(model)
    unflatten_linears(model.graph)
    clean(model)
    np.testing.assert_allclose(run(model), before, atol=1e-5)


def test_a_constant_for_each_row_stays_with_the_rows():
    model = parse(
        "(float[2,5,8] x) => (y) { r = Reshape(x, rows) s = Add(r, each) y = Reshape(s, back) }",
        rows=np.array([10, 8]),
        each=RNG.standard_normal((10, 8)),
        back=np.array([2, 5, 8]),
    )
    before = run(model)
    unflatten_linears(model.graph)
    np.testing.assert_allclose(run(model), before, atol=1e-5)
    assert ops(model)["Reshape"] == 2


@pytest.mark.parametrize("bias", [B, B[None], np.array(0.3)], ids=["vector", "row", "scalar"])
def test_biases_of_tokens_get_three_dimensions_behind_the_product(bias):
    model = parse(
        "(float[n,5,8] x) => (float[n,5,6] y) { m = MatMul(x, w) y = Add(b, m) }", w=W, b=bias
    )
    before = run(model)
    shape_biases(model.graph)
    (linear,) = find_linears(model.graph).values()
    assert linear.add.inputs[0] is linear.matmul.outputs[0]
    assert array_shape(linear.add.inputs[1]) == (1, 1, 6)
    np.testing.assert_array_equal(run(model), before)


def test_a_bias_behind_the_class_token_alone_stays():
    model = parse("(float[n,8] x) => (float[n,6] y) { m = MatMul(x, w) y = Add(m, b) }", w=W, b=B)
    shape_biases(model.graph)
    (linear,) = find_linears(model.graph).values()
    assert array_shape(linear.add.inputs[1]) == (6,)


def three_linears(second_input="x"):
    return parse(
        f"""(float[n,5,8] x) => (float[n,5,6] y) {{
            t = Tanh(x)
            q = MatMul(x, w) qb = Add(q, b)
            k = MatMul({second_input}, w2)
            v = MatMul(x, w3) vb = Add(v, b3)
            s = Mul(qb, k)
            y = Sub(s, vb)
        }}""",
        w=W,
        w2=W[:, ::-1].copy(),
        w3=W + 1,
        b=B,
        b3=B[::-1].copy(),
    )


def test_linears_on_one_input_become_one_and_a_split():
    model = three_linears()
    before = run(model)
    assert merge_linears(model.graph, list(find_linears(model.graph).values()))
    assert clean(model) == {"MatMul": 1, "Add": 1, "Split": 1, "Mul": 1, "Sub": 1}
    np.testing.assert_allclose(run(model), before, atol=1e-5)


def test_linears_on_several_inputs_stay():
    model = three_linears(second_input="t")
    before = ops(model)
    assert not merge_linears(model.graph, list(find_linears(model.graph).values()))
    assert ops(model) == before
