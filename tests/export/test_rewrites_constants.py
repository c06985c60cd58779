"""Folding: what depends on no pixel becomes a constant, and nothing else does."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import onnx_ir.passes.common as passes
import pytest
from small_graphs import ops, parse, run

from edge_vit.export.rewrites.constants import (
    drop_idle_casts,
    fold_constants,
    keep_batch_dimension,
)
from edge_vit.graph.walk import array_of

CLASS_TOKEN = np.arange(4.0).reshape(1, 1, 4)


@contextmanager
def same_numbers(model, batches=(1, 2, 5)):
    """Hold what comes out of `model` before the block against what comes out after it."""
    before = {batch: run(model, batch) for batch in batches}
    yield
    for batch, wanted in before.items():
        np.testing.assert_array_equal(run(model, batch), wanted)


def reshape_targets(model):
    return [array_of(node.inputs[1]).tolist() for node in model.graph if node.op_type == "Reshape"]


def test_arithmetic_on_constants_becomes_a_constant():
    model = parse(
        """(float[n,3] x) => (float[n,2] y) {
            t = Transpose<perm=[1,0]>(w)
            s = Mul(t, two)
            y = MatMul(x, s)
        }""",
        w=np.ones((2, 3)),
        two=2.0,
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"MatMul": 1}


@pytest.mark.parametrize("dims", ["n, 12", "n, three, four", "minus, three, four"])
def test_a_target_with_one_open_dimension_becomes_a_constant(dims):
    model = parse(
        f"""(float[n,3,4] x) => (y) {{
            s = Shape(x)
            n = Gather(s, zero)
            three = Gather(s, one)
            four = Gather(s, two)
            t = Concat<axis=0>({dims.replace("12", "twelve")})
            r = Reshape(x, t)
            y = Relu(r)
        }}""",
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        minus=np.array([-1]),
        twelve=np.array([12]),
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"Reshape": 1, "Relu": 1}
    assert reshape_targets(model) == [[-1, 12] if "12" in dims else [-1, 3, 4]]


def test_a_target_of_batch_times_heads_becomes_a_constant():
    model = parse(
        """(float[n,6,4] x) => (y) {
            s = Shape(x)
            n = Gather(s, first)
            many = Mul(n, two)
            rows = Unsqueeze(many, zero)
            t = Concat<axis=0>(rows, rest)
            r = Reshape(x, t)
            y = Relu(r)
        }""",
        first=np.array(0),
        two=np.array(2),
        zero=np.array([0]),
        rest=np.array([3, 4]),
    )
    with same_numbers(model):
        fold_constants(model)
    assert reshape_targets(model) == [[-1, 3, 4]]


def test_a_target_that_asks_for_the_rest_is_known_from_what_it_leads_to():
    model = parse(
        """(float[n,3,4] x) => (y) {
            n = Shape<start=0, end=1>(x)
            t = Concat<axis=0>(n, minus)
            r = Reshape(x, t)
            y = Relu(r)
        }""",
        minus=np.array([-1]),
    )
    with same_numbers(model):
        fold_constants(model)
    assert reshape_targets(model) == [[-1, 12]]


def test_a_target_of_two_open_dimensions_stays():
    model = parse(
        """(float[n,3,4] x) => (y) {
            n = Shape<start=0, end=1>(x)
            e = Concat<axis=0>(n, n, twelve)
            wide = Expand(ones, e)
            row = Reshape(x, rows)
            product = Mul(wide, row)
            m = Mul(n, twelve)
            t = Concat<axis=0>(n, m)
            flat = Reshape(product, t)
            y = Relu(flat)
        }""",
        twelve=np.array([12]),
        rows=np.array([-1, 1, 12]),
        ones=np.ones((1, 1, 12)),
    )
    with same_numbers(model):
        fold_constants(model)
    (flat,) = [node for node in model.graph if node.outputs[0].name == "flat"]
    assert flat.inputs[1].producer().op_type == "Concat"


@pytest.mark.parametrize(
    "shape",
    [
        "s = Shape(x) z = Gather(s, zero) e = Concat<axis=0>(z, one, four)",
        "z = Shape<start=0, end=1>(x) e = Concat<axis=0>(z, one, four)",
        "z = Shape<start=0, end=1>(x) m = Concat<axis=0>(z, minus, minus) o = ConstantOfShape"
        "<value=int64[1] {1}>(three) q = Equal(m, minus) e = Where(q, o, m)",
    ],
    ids=["gather", "shape", "where"],
)
def test_a_class_token_is_repeated_for_every_image_in_one_form(shape):
    model = parse(
        f"""(float[n,3,4] x) => (float[n,4,4] y) {{
            {shape}
            c = Expand(token, e)
            y = Concat<axis=1>(c, x)
        }}""",
        zero=np.array([0]),
        one=np.array([1]),
        four=np.array([4]),
        minus=np.array([-1]),
        three=np.array([3]),
        token=CLASS_TOKEN,
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"Shape": 1, "Concat": 2, "Expand": 1}


def test_with_a_static_batch_the_class_token_is_a_constant():
    model = parse(
        """(float[2,3,4] x) => (float[2,4,4] y) {
            z = Shape<start=0, end=1>(x)
            e = Concat<axis=0>(z, rest)
            c = Expand(token, e)
            y = Concat<axis=1>(c, x)
        }""",
        rest=np.array([1, 4]),
        token=CLASS_TOKEN,
    )
    with same_numbers(model, batches=(2,)):
        fold_constants(model)
    assert ops(model) == {"Concat": 1}


def test_a_mask_that_hides_nothing_is_dropped():
    model = parse(
        """(float[n,3,3] x) => (float[n,3,3] y) {
            s = Shape(x)
            mask = ConstantOfShape(s)
            masked = Add(x, mask)
            y = Softmax(masked)
        }"""
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"Softmax": 1}


def test_a_mask_that_hides_something_becomes_one_row_for_all_images():
    model = parse(
        """(float[n,3,3] x) => (float[n,3,3] y) {
            s = Shape(x)
            repeated = Expand(mask, s)
            masked = Add(x, repeated)
            y = Softmax(masked)
        }""",
        mask=np.triu(np.full((3, 3), -1e4), 1),
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"Add": 1, "Softmax": 1}


def test_zeros_that_broadcast_stay():
    model = parse(
        """(float[n,1,4] x) => (float[n,3,4] y) {
            wide = Add(x, zeros)
            y = Relu(wide)
        }""",
        zeros=np.zeros((3, 4)),
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"Add": 1, "Relu": 1}


def test_random_numbers_are_no_constants():
    model = parse(
        """(float[n,3] x) => (float[n,3] y) {
            noise = RandomNormal<shape=[3], seed=1.0>()
            y = Add(x, noise)
        }"""
    )
    fold_constants(model)
    assert ops(model) == {"RandomNormal": 1, "Add": 1}


def test_dropout_that_was_exported_in_training_mode_passes_its_input_on():
    model = parse(
        """(float[n,3] x) => (float[n,3] y) {
            kept, mask = Dropout<seed=1>(x, ratio, training)
            y = Relu(kept)
        }""",
        ratio=0.5,
        training=np.bool_(True),
    )
    fold_constants(model)
    assert ops(model) == {"Relu": 1}


def test_a_shape_that_the_pixels_decide_stays():
    model = parse(
        """(float[n,3] x) => (float[1] y) {
            p = Relu(x) w = NonZero(p) s = Shape<start=1>(w) y = Cast<to=1>(s)
        }"""
    )
    fold_constants(model)
    assert ops(model) == {"Relu": 1, "NonZero": 1, "Shape": 1, "Cast": 1}


def test_what_holds_for_more_images_and_not_for_one_stays():
    model = parse(
        """(float[n,3] x) => (float[n,3] y) {
            b = Shape<end=1>(x) more = Greater(b, one) f = Cast<to=1>(more) y = Mul(x, f)
        }""",
        one=np.array([1]),
    )
    fold_constants(model)
    assert ops(model)["Greater"] == 1


def test_what_depends_on_pixels_stays():
    model = parse(
        """(float[n,3] x) => (float[n,3] y) {
            m = ReduceMax<keepdims=1>(x, axes)
            y = Sub(x, m)
        }""",
        axes=np.array([1]),
    )
    with same_numbers(model):
        fold_constants(model)
    assert ops(model) == {"ReduceMax": 1, "Sub": 1}


@pytest.mark.parametrize(
    ("target", "wanted"),
    [([-1, 12], [0, 12]), ([-1, 4, 3], [0, 4, 3]), ([-1, 4], [-1, 4]), ([-1, 6, 2], [0, 6, 2])],
    ids=["merged", "swapped", "rows", "other-split"],
)
def test_a_reshape_that_keeps_the_batch_says_so(target, wanted):
    model = parse("(float[n,3,4] x) => (y) { y = Reshape(x, t) }", t=np.array(target))
    with same_numbers(model):
        keep_batch_dimension(model.graph)
    assert reshape_targets(model) == [wanted]


def test_a_number_that_is_reshaped_has_no_batch_to_keep():
    model = parse(
        """(float[n,3] x) => (y) {
            m = ReduceMean<keepdims=0>(x)
            r = Reshape(m, whole)
            y = Add(x, r)
        }""",
        whole=np.array([-1]),
    )
    with same_numbers(model):
        keep_batch_dimension(model.graph)


def test_casts_to_the_type_that_a_value_has_are_dropped_and_no_others():
    model = parse(
        """(float[n,3] x) => (float[n,3] y) {
            same = Cast<to=1>(x)
            half = Cast<to=10>(same)
            whole = Cast<to=1>(half)
            softmax = Softmax(whole)
            as_before = Cast<to=1>(softmax)
            y = Relu(as_before)
        }"""
    )
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    with same_numbers(model):
        drop_idle_casts(model.graph)
    assert ops(model) == {"Cast": 2, "Softmax": 1, "Relu": 1}
