from __future__ import annotations

import numpy as np
import pytest
from graph_files import FP32, INT8
from tiny_graph import tiny_bundle, tiny_images, tiny_onnx, tiny_outputs, tiny_spec

from edge_vit.bundle import draft_bundle
from edge_vit.errors import ArtifactError, ShapeError, SpecError
from edge_vit.runtime import Session, SessionOptions, open_session, run_batch
from edge_vit.runtime.backends import choose_backend
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import TensorSpec


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("session") / "tiny.edgevit")


@pytest.mark.parametrize("convert", [lambda b: b, lambda b: b.path, lambda b: str(b.path)])
def test_opens_a_bundle_or_its_path(bundle, convert):
    with open_session(convert(bundle), "fp32") as session:
        assert (session.backend, session.precision) == (choose_backend(), "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("fp32", "onnxruntime"),
            "backend: got 'onnxruntime', expected one of auto, ort, openvino, trt, rtx",
        ),
        (("fp32", "fake"), "backend: got 'fake', expected one of auto, ort, openvino, trt, rtx"),
        (("int4",), "precision: got 'int4', expected one of fp32, fp16, int8. Did you mean int8?"),
    ],
)
def test_refuses_unknown_words(bundle, arguments, message):
    with pytest.raises(SpecError) as caught:
        open_session(bundle, *arguments)
    assert str(caught.value) == message


def test_says_how_to_make_a_missing_precision(bundle):
    with pytest.raises(ArtifactError, match=r"holds no onnx/fp16\.onnx\. Run: edgevit quantize"):
        open_session(bundle, "fp16")


def test_int8_on_the_cpu_needs_the_portable_graph(tmp_path):
    path = tmp_path / "tensorrt_only.edgevit"
    with draft_bundle(path, tiny_spec()) as draft:
        draft.add({FP32: tiny_onnx(), INT8: tiny_onnx(quantized=True)})
    with pytest.raises(ArtifactError, match=r"holds no onnx/int8\.cpu\.onnx"):
        open_session(path, "int8")


def test_refuses_an_edited_graph(tmp_path):
    bundle = tiny_bundle(tmp_path / "edited.edgevit")
    path = bundle.path / FP32
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="was edited"):
        open_session(bundle, "fp32")


@pytest.mark.parametrize("threads", [0, -2])
def test_refuses_fewer_than_one_thread(threads):
    with pytest.raises(SpecError, match=f"threads: got {threads}, expected at least 1"):
        SessionOptions(threads)


class Counting(FakeSession):
    """Counts the images of each run."""

    def __init__(self, batch: int | None) -> None:
        super().__init__(tiny_spec(batch))
        self.counts: list[int] = []

    def _run(self, feeds):
        self.counts.append(len(feeds["images"]))
        return super()._run(feeds)


@pytest.mark.parametrize(
    ("batch", "count", "runs"),
    [
        pytest.param(None, 7, [7], id="dynamic"),
        pytest.param(4, 1, [4], id="one of four"),
        pytest.param(4, 4, [4], id="exactly one batch"),
        pytest.param(4, 7, [4, 4], id="one and a part"),
        pytest.param(4, 8, [4, 4], id="two batches"),
        pytest.param(1, 3, [1, 1, 1], id="one by one"),
    ],
)
def test_run_batch_takes_any_number_of_images(batch, count, runs):
    session, images = Counting(batch), tiny_images(count)
    expected = FakeSession(tiny_spec()).run({"images": images})["logits"]
    np.testing.assert_array_equal(run_batch(session, images), expected)
    assert session.counts == runs


@pytest.mark.parametrize("batch", [None, 4])
def test_run_batch_refuses_no_images(batch):
    with pytest.raises(ShapeError, match=r"got uint8 \(0, 8, 8, 3\)"):
        run_batch(FakeSession(tiny_spec(batch)), tiny_images(0))


def test_a_fixed_batch_runs_in_onnx_runtime(tmp_path):
    images = tiny_images(5)
    with open_session(tiny_bundle(tmp_path / "fixed.edgevit", batch=3), "fp32") as session:
        assert session.inputs == tiny_spec(3).inputs
        np.testing.assert_allclose(run_batch(session, images), tiny_outputs(images), atol=1e-5)
        with pytest.raises(ShapeError, match=r"expected uint8 \(3, 8, 8, 3\)"):
            session.run({"images": images})


class TwoInputs(Session):
    """Adds two inputs, to see what reaches a backend."""

    backend = "two"

    def __init__(self) -> None:
        vector = ("n",)
        super().__init__(
            precision="fp32",
            inputs=(TensorSpec("a", "float32", vector), TensorSpec("b", "float32", vector)),
            outputs=(TensorSpec("sum", "float32", vector),),
            threads=1,
        )
        self.closed = 0

    def _run(self, feeds):
        assert all(array.flags.c_contiguous for array in feeds.values())
        return {"sum": feeds["a"] + feeds["b"]}

    def _close(self) -> None:
        self.closed += 1


def test_names_the_inputs_that_are_missing():
    with pytest.raises(ShapeError) as caught:
        TwoInputs().run({"b": np.ones(2, np.float32)})
    assert str(caught.value) == "inputs: got 'b', expected 'a' float32 (n), 'b' float32 (n)"


def test_a_backend_gets_contiguous_arrays():
    ones = np.ones(8, np.float32)
    assert TwoInputs().run({"b": ones[::2], "a": ones[::-2]})["sum"].tolist() == [2.0] * 4


def test_refuses_the_other_byte_order():
    swapped = np.ones(2, np.dtype(np.float32).newbyteorder())
    with pytest.raises(ShapeError, match=f"input 'a': got {swapped.dtype}"):
        TwoInputs().run({"a": swapped, "b": swapped})


def test_a_backend_is_closed_once():
    with TwoInputs() as session:
        session.close()
    assert session.closed == 1
