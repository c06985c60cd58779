"""`If`: the branch that is always taken stays; the others are named."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from small_graphs import ops

from edge_vit.errors import SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.rewrites.constants import resolve_branches
from edge_vit.spec import PreprocessSpec

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def model(text: str, opset: int = 17, batch: str = "n", **constants) -> onnx.ModelProto:
    """Return the graph from x (batch, 3, 4) to y that `text` describes."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{batch},3,4] x) => '
    header += f"(float[{batch},3,4] y)"
    proto = onnx.parser.parse_model(f"{header} {{ {text} }}")
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    forget_shapes(proto.graph)
    return proto


def forget_shapes(graph: onnx.GraphProto) -> None:
    """Leave the shapes of what branches give open: the text form knows none without a rank."""
    for inner in (a.g for node in graph.node for a in node.attribute if a.HasField("g")):
        for value in inner.output:
            value.type.tensor_type.ClearField("shape")
        forget_shapes(inner)


def run(proto: onnx.ModelProto) -> np.ndarray:
    return ort.InferenceSession(proto.SerializeToString()).run(None, {"x": X})[0]


IS_ONE = "s = Shape <start = 1, end = 2> (u) z = Squeeze (s) c = Equal (z, one)"
SQUEEZE = (
    "u = Unsqueeze (x, ax)"
    + IS_ONE
    + """
    v = If (c) <then_branch = yes () => (float t) { t = Squeeze (u, ax) },
                else_branch = no () => (float e) { e = Identity (u) }>
    y = Relu (v)"""
)
OLD = """
    u = Unsqueeze <axes = [1]> (x) a = Shape (u) s = Slice (a, one1, two1)
    z = Squeeze <axes = [0]> (s)
    c = Equal (z, one)
    v = If (c) <then_branch = yes () => (float t) { t = Squeeze <axes = [1]> (u) },
                else_branch = no () => (float e) { e = Identity (u) }>
    y = Relu (v)"""
NESTED = (
    "u = Unsqueeze (x, ax)"
    + IS_ONE
    + """
    v = If (c) <
        then_branch = outer () => (float t) {
            w = Mul (u, two)
            d = Not (c)
            t = If (d) <then_branch = a () => (float p) { p = Neg (w) },
                        else_branch = b () => (float p) { q = Squeeze (w, ax) p = Abs (q) }> },
        else_branch = other () => (float e) {
            e = If (c) <then_branch = a () => (float p) { p = Identity (u) },
                        else_branch = b () => (float p) { p = Neg (u) }> }>
    y = Relu (v)"""
)
TWICE = """
    c = Identity (yes)
    v = If (c) <then_branch = a () => (float t) { t = Neg (x) },
                else_branch = b () => (float t) { t = Relu (x) }>
    d = Not (c)
    y = If (d) <then_branch = a () => (float t) { t = Neg (v) },
                else_branch = b () => (float t) { k = Exp (x) t = Add (v, k) }>"""
OWN_WEIGHT = """
    c = Identity (yes)
    y = If (c) <then_branch = a () => (float t) {
                    k = Constant <value = float[1] {3.0}> () t = Mul (x, k) },
                else_branch = b () => (float t) { t = Identity (x) }>"""
ONE = {"ax": np.array([1]), "one": np.array(1), "two": np.float32(2)}


@pytest.mark.parametrize(
    ("proto", "wanted", "left"),
    [
        (model(SQUEEZE, **ONE), np.maximum(X, 0), {"Squeeze", "Relu", "Unsqueeze"}),
        (
            model(OLD, opset=11, one=np.array(1), one1=np.array([1]), two1=np.array([2])),
            np.maximum(X, 0),
            {"Squeeze", "Relu", "Unsqueeze"},
        ),
        (model(NESTED, **ONE), 2 * np.abs(X), {"Unsqueeze", "Mul", "Squeeze", "Abs", "Relu"}),
        (model(TWICE, yes=np.array(True)), np.exp(X) - X, {"Neg", "Exp", "Add"}),
        (model(OWN_WEIGHT, yes=np.array(True)), 3 * X, {"Constant", "Mul"}),
        (model(OWN_WEIGHT, yes=np.array(False)), X, {"Identity"}),
    ],
    ids=["squeeze", "opset 11", "nested", "same names twice", "own weight", "else"],
)
def test_the_branch_that_is_always_taken_stays(proto, wanted, left):
    np.testing.assert_allclose(run(proto), wanted, rtol=1e-6)
    resolved = resolve_branches(proto)
    onnx.checker.check_model(resolved)
    np.testing.assert_allclose(run(resolved), wanted, rtol=1e-6)
    assert set(ops(ir.from_proto(resolved))) - {"Shape", "Equal", "Slice"} == left


BY_BATCH = """
    s = Shape <start = 0, end = 1> (x) z = Squeeze (s) c = Equal (z, one)
    w = If (c) <then_branch = a () => (float t) { t = Neg (x) },
                else_branch = b () => (float t) { t = Relu (x) }>
    y = Abs (w)"""
BY_PIXELS = """
    m = ReduceMax <keepdims = 0> (x) c = Greater (m, zero)
    w = If (c) <then_branch = a () => (float t) { t = Neg (x) },
                else_branch = b () => (float t) { t = Relu (x) }>
    y = Abs (w)"""
INSIDE = """
    w = If (yes) <
        then_branch = a () => (float t) {
            m = ReduceMax <keepdims = 0> (x) c = Greater (m, zero)
            t = If (c) <then_branch = d () => (float p) { p = Neg (x) },
                        else_branch = e () => (float p) { p = Relu (x) }> },
        else_branch = b () => (float t) { t = Relu (x) }>
    y = Abs (w)"""
LOOPS = """
    w = Loop (three, yes, x) <body = step (int64 i, bool go, float v) => (bool more, float t) {
        more = Identity (go) t = Neg (v) }>
    y = Abs (w)"""
GIVEN = {"one": np.array(1), "zero": np.float32(0), "yes": np.array(True), "three": np.array(3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BY_BATCH, r"node 'w' \(If\) chooses .* by the batch size\. Add --static-batch N"),
        (BY_PIXELS, r"node 'w' \(If\) chooses between two branches by what is in the image"),
        (INSIDE, r"node 't' \(If\) chooses between two branches by what is in the image"),
        (LOOPS, r"node 'w' \(Loop\) repeats a part of the graph"),
    ],
)
def test_names_the_node_that_cannot_be_resolved(text, message):
    proto = model(text, **{name: array for name, array in GIVEN.items() if name in text})
    with pytest.raises(SpecError, match=message) as error:
        resolve_branches(proto)
    assert "\n" not in str(error.value)


def test_with_a_fixed_batch_the_batch_decides():
    resolved = resolve_branches(model(BY_BATCH, batch="2", one=np.array(1)))
    np.testing.assert_allclose(run(resolved), np.maximum(X, 0))


def test_the_canonical_form_has_no_branches():
    nodes = """
        f = Flatten (x) s = Shape <start = 1, end = 2> (f) z = Squeeze (s) c = Equal (z, size)
        v = If (c) <then_branch = yes () => (float t) { t = MatMul (f, weight) },
                    else_branch = no () => (float e) { e = Identity (f) }>
        y = Relu (v)"""
    header = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,4,4] x) => (float[n,5] y)'
    proto = onnx.parser.parse_model(f"{header} {{ {nodes} }}")
    weight = np.random.default_rng(1).standard_normal((48, 5)).astype(np.float32)
    for name, array in {"weight": weight, "size": np.array(48)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = make_canonical(proto, PreprocessSpec((4, 4)), "classification").model.graph
    assert {"If", "Shape", "Equal"}.isdisjoint(node.op_type for node in graph.node)
    assert "MatMul" in {node.op_type for node in graph.node}
