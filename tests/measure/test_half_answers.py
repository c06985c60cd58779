"""FP16 on a CPU answers as a GPU does: each node's output is rounded, and an overflow is seen."""

from __future__ import annotations

import numpy as np
import pytest
from graph_files import FP16
from onnx import TensorProto, helper
from tiny_graph import CLASSES, SIZE, serialize_checked, tiny_bundle, tiny_images, tiny_spec

from edge_vit.errors import BackendError
from edge_vit.measure import evaluation
from edge_vit.measure.evaluation import Evaluation, Evaluator, emulate_half
from edge_vit.runtime import SessionOptions, open_session, run_batch
from edge_vit.runtime.fake import FakeSession

ONE_THREAD = SessionOptions(threads=1)
BACKENDS = ["ort", "openvino"]


def half_graph(factor: float) -> bytes:
    """The first pixels times and by `factor`, in float16, which forgets what falls off the end."""
    constants = {
        "factor": np.float16(factor),
        "all": np.array([0, -1]),
        "first": np.array([0]),
        "last": np.array([CLASSES]),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Reshape", ["half", "all"], ["flat"]),
        helper.make_node("Slice", ["flat", "first", "last", "axis"], ["some"]),
        helper.make_node("Mul", ["some", "factor"], ["large"]),
        helper.make_node("Div", ["large", "factor"], ["again"]),
        helper.make_node("Cast", ["again"], ["logits"], to=TensorProto.FLOAT),
    ]
    return serialize_checked(nodes, constants, tiny_spec())


@pytest.fixture
def make_bundle(tmp_path):
    def make(factor):
        return tiny_bundle(tmp_path / "half.edgevit").add({FP16: half_graph(factor)})

    return make


def as_half(images: np.ndarray, factor: float) -> np.ndarray:
    """Return what numpy makes of it, which rounds after each operation."""
    pixels = images.reshape(len(images), -1)[:, :CLASSES].astype(np.float16)
    with np.errstate(over="ignore"):
        return (pixels * np.float16(factor) / np.float16(factor)).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [1 / 3, 999.0], ids=["rounds", "overflows"])
def test_answers_as_float16_does(make_bundle, backend, factor):
    bundle, images = make_bundle(factor), tiny_images(6)
    exact = images.reshape(6, -1)[:, :CLASSES].astype(np.float32)
    plain = open_session(bundle, "fp16", backend, ONE_THREAD)
    hidden = run_batch(plain, images)
    with emulate_half(plain, bundle, ONE_THREAD) as session:
        np.testing.assert_array_equal(run_batch(session, images), as_half(images, factor))
    np.testing.assert_allclose(hidden, exact, rtol=1e-3)  # why it is emulated at all
    assert not np.array_equal(as_half(images, factor), exact)


def test_stands_in_for_the_session_and_says_so(make_bundle):
    bundle = make_bundle(1.0)
    plain = open_session(bundle, "fp16", "openvino", ONE_THREAD)
    plain.degraded = "there was no GPU"
    with emulate_half(plain, bundle, ONE_THREAD) as session:
        assert (session.backend, session.precision) == ("openvino", "fp16")
        assert (session.degraded, session.threads) == ("there was no GPU", 1)
        assert "emulated: the output of each node rounded to float16" in session.remark
    assert plain._closed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_leaves_other_precisions_alone(make_bundle, precision):
    bundle = make_bundle(1.0)
    with open_session(bundle, precision, "ort", ONE_THREAD) as session:
        assert emulate_half(session, bundle, ONE_THREAD) is session
        assert session.remark == ""


def test_leaves_a_gpu_alone(make_bundle, monkeypatch):
    bundle = make_bundle(1.0)
    with open_session(bundle, "fp16", "ort", ONE_THREAD) as session:
        monkeypatch.setattr(session, "is_on_gpu", True)
        assert emulate_half(session, bundle, ONE_THREAD) is session


def test_leaves_a_session_of_no_runtime_alone(make_bundle):
    session = FakeSession(tiny_spec(), "fp16")
    assert emulate_half(session, make_bundle(1.0), ONE_THREAD) is session


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_a_package_it_says_what_the_answers_are(make_bundle, monkeypatch, package):
    bundle, find = make_bundle(1.0), evaluation.importlib.util.find_spec
    with open_session(bundle, "fp16", "openvino", ONE_THREAD) as session:
        monkeypatch.setattr(
            evaluation.importlib.util, "find_spec", lambda n: None if n == package else find(n)
        )
        assert emulate_half(session, bundle, ONE_THREAD) is session
        assert "better than a GPU's" in session.remark
        assert session.remark.endswith("pip install 'edge-vit[export]'")


def test_an_evaluation_of_fp16_is_of_the_emulated(make_bundle, tmp_path):
    bundle, images = make_bundle(999.0), tmp_path / "images.npy"
    np.save(images, np.full((2, SIZE, SIZE, 3), 255, np.uint8))
    what = Evaluation(str(bundle.path), str(images), "fp16", "ort", ONE_THREAD)
    with Evaluator(what) as evaluator:
        assert "emulated" in evaluator.remark
        with pytest.raises(BackendError, match="fp16 on ort gave NaN or infinity"):
            evaluator.evaluate()
