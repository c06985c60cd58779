"""Inner values as outputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from small_graphs import parse

from edge_vit.graph.expose import expose


@pytest.fixture
def model() -> onnx.ModelProto:
    return ir.to_proto(
        parse(
            "(float[n,2] x) => (float[n,2] y) { a = Mul(x, two) b = Add(a, two) y = Relu(b) }",
            two=2.0,
        )
    )


def outputs(model):
    return [output.name for output in model.graph.output]


@pytest.mark.parametrize(
    ("names", "only", "wanted"),
    [
        (["b", "a"], False, ["y", "b", "a"]),
        (["b", "a"], True, ["b", "a"]),
        (["a", "a", "y"], False, ["y", "a"]),
        (["y"], True, ["y"]),
        ([], False, ["y"]),
    ],
    ids=["behind", "only", "twice", "output-only", "none"],
)
def test_values_become_outputs_in_their_order(model, names, only, wanted):
    assert outputs(expose(model, names, only=only)) == wanted


def test_a_run_shows_them(model):
    shown = expose(model, ["a", "b"], only=True)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[1, -3]], np.float32)
    a, b = session.run(None, {"x": x})
    np.testing.assert_array_equal(a, 2 * x)
    np.testing.assert_array_equal(b, 2 * x + 2)


def test_the_model_itself_is_left_alone(model):
    before = model.SerializeToString()
    shown = expose(model, ["a"])
    shown.graph.node[0].op_type = "Sub"
    shown.graph.initializer[0].name = "three"
    assert model.SerializeToString() == before
