from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from tiny_graph import golden_bundle, tiny_bundle, tiny_images, tiny_onnx, tiny_outputs

from edge_vit.bundle import GOLDEN
from edge_vit.bundle.record import GoldenProof
from edge_vit.errors import ArtifactError, BackendError, MissingDependencyError
from edge_vit.formats.int8 import FORMAT as INT8
from edge_vit.runtime import SessionOptions, open_session, run_batch
from edge_vit.runtime import ov as runtime_ov
from edge_vit.runtime.ov import OpenVinoSession

WHITE = np.full((1, 8, 8, 3), 255, np.uint8)


def unknown_operator() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("NoSuchOp", ["x"], ["y"])],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    return helper.make_model(graph).SerializeToString()


def layers(session: OpenVinoSession) -> list[tuple[str, str, str]]:
    """Return type, precision and kernel of each layer that OpenVINO made of the graph."""
    facts = [node.get_rt_info() for node in session._single.model.get_runtime_model().get_ops()]
    keys = ("layerType", "runtimePrecision", "primitiveType")
    return [tuple(str(fact[key].value) for key in keys) for fact in facts]


@pytest.mark.parametrize("batch", [None, 4], ids=["dynamic", "fixed"])
def test_computes_what_the_graph_says(batch):
    images = tiny_images(4)
    with OpenVinoSession(tiny_onnx(batch), "fp32") as session:
        logits = session.run({"images": images})["logits"]
    np.testing.assert_allclose(logits, tiny_outputs(images), rtol=1e-5, atol=1e-5)


def test_a_graph_that_cannot_be_compiled_for_one_image_is_compiled_for_any_number(monkeypatch):
    def broken(graph):
        raise RuntimeError("Shape inference input shapes {[1,4,48],[3]}")

    monkeypatch.setattr(runtime_ov, "_fix_batch", broken)
    images = tiny_images(3)
    with OpenVinoSession(tiny_onnx(), "fp32") as session:
        for some in (images[:1], images):
            found = session.run({"images": some})["logits"]
            np.testing.assert_allclose(found, tiny_outputs(some), rtol=1e-5, atol=1e-5)


def test_computes_in_float32_where_the_processor_would_rather_not():
    with OpenVinoSession(tiny_onnx(), "fp32") as session:
        precision = session._single.model.get_property("INFERENCE_PRECISION_HINT")
        assert precision.to_dtype() == np.float32
        kernels = Counter(kind for name, kind, _ in layers(session) if name == "FullyConnected")
    assert kernels == {"f32": 2}


def test_around_int8_it_computes_as_the_processor_likes():
    native = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    with OpenVinoSession(tiny_onnx(quantized=True), "int8") as session:
        assert session._single.model.get_property("INFERENCE_PRECISION_HINT") == native
        assert ("bfloat16" in session.remark) == (native.to_string() == "bf16")
    with OpenVinoSession(tiny_onnx(), "fp32") as session:
        assert session.remark == ""


class Coarse(OpenVinoSession):
    """On a processor with bfloat16, whose kernels for a single image are off by `noise`."""

    noise = 0.0

    def __init__(self, model, precision, options, *, name, is_exact=False):
        super().__init__(model, precision, options, name=name, is_exact=True)
        self.is_in_bfloat16 = precision == "int8" and not is_exact

    def _run(self, feeds):
        logits = super()._run(feeds)["logits"]
        if self.is_in_bfloat16 and len(logits) == 1:
            logits = logits + self.noise * logits.std() * np.array([1, -1, 1, -1, 1], np.float32)
        return {"logits": logits}


@pytest.mark.parametrize(
    ("expected", "noise", "doubt"),
    [
        (0.03, 0.01, ""),
        (0.03, 0.3, "in bfloat16, which this processor would take, a golden image is off by 0."),
        (
            None,
            0.0,
            "the bundle does not hold how far INT8 is off on golden images. Export it again",
        ),
    ],
)
def test_bfloat16_is_taken_where_golden_images_allow_it(
    tmp_path, monkeypatch, expected, noise, doubt
):
    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    if expected:
        proof = GoldenProof((expected,) * 5).to_bytes()
        bundle = bundle.add({INT8.proof: proof}, parents=(GOLDEN,))
    monkeypatch.setattr(runtime_ov, "OpenVinoSession", Coarse)
    monkeypatch.setattr(Coarse, "noise", noise)
    with open_session(bundle, "int8", "openvino") as session:
        assert session.is_in_bfloat16 == (not doubt)
        assert doubt in session.remark
    with open_session(bundle, "fp32", "openvino") as session:
        assert session.remark == ""


def test_bfloat16_that_is_not_finite_for_one_golden_image_is_not_taken(tmp_path, monkeypatch):
    class Broken(Coarse):
        def _run(self, feeds):
            logits = super()._run(feeds)["logits"]
            is_last = np.array_equal(feeds["images"], last)
            return {"logits": logits * np.nan if self.is_in_bfloat16 and is_last else logits}

    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    last = bundle.read_golden().images[-1:]
    bundle = bundle.add({INT8.proof: GoldenProof((0.03,) * 5).to_bytes()}, parents=(GOLDEN,))
    monkeypatch.setattr(runtime_ov, "OpenVinoSession", Broken)
    with open_session(bundle, "int8", "openvino") as session:
        assert not session.is_in_bfloat16
        assert "a golden image gives NaN or infinity" in session.remark


class CoarseTogether(Coarse):
    """On a processor whose kernels for bfloat16 are off by `noise` for several images at once."""

    def __init__(self, model, precision, options, *, name, is_exact=False):
        super().__init__(model, precision, options, name=name, is_exact=is_exact)
        if self.is_in_bfloat16:
            del self._properties["INFERENCE_PRECISION_HINT"]

    def _run(self, feeds):
        logits = OpenVinoSession._run(self, feeds)["logits"]
        if len(logits) > 1 and "INFERENCE_PRECISION_HINT" not in self._properties:
            logits = logits + self.noise * logits.std() * np.array([1, -1, 1, -1, 1], np.float32)
        return {"logits": logits}


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_bfloat16_for_several_images_is_tested_when_they_first_come(tmp_path, monkeypatch, noise):
    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    bundle = bundle.add({INT8.proof: GoldenProof((0.03,) * 5).to_bytes()}, parents=(GOLDEN,))
    monkeypatch.setattr(runtime_ov, "OpenVinoSession", CoarseTogether)
    monkeypatch.setattr(Coarse, "noise", noise)
    images = tiny_images(2)
    with open_session(bundle, "int8", "openvino") as session:
        alone = np.concatenate([run_batch(session, images[i : i + 1]) for i in range(2)])
        assert "for several images" not in session.remark
        np.testing.assert_allclose(run_batch(session, images), alone, rtol=0.02, atol=0.02)
        doubt = "It takes float32 for several images at once: in bfloat16, which this processor"
        assert (doubt in session.remark) == (noise > 0)
        assert ("INFERENCE_PRECISION_HINT" in session._properties) == (noise > 0)


def test_any_other_batch_is_compiled_when_it_first_comes():
    images = tiny_images(3)
    with OpenVinoSession(tiny_onnx(), "fp32") as session:
        alone = session.run({"images": images[:1]})["logits"]
        assert session._several is None
        together = session.run({"images": images})["logits"]
        assert session._several is not None
    np.testing.assert_allclose(together[:1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vnni", [True, False], ids=["as it is", "without VNNI"])
@pytest.mark.parametrize("images", [WHITE, tiny_images(4)], ids=["white", "random"])
def test_int8_does_not_saturate_on_any_processor(monkeypatch, vnni, images):
    """Saturated sums are off by more than 1, bfloat16 behind them by 0.3 of 80."""
    if not vnni:
        monkeypatch.setattr(runtime_ov, "has_vnni", lambda: False)
    with OpenVinoSession(tiny_onnx(quantized=True), "int8") as session:
        logits = session.run({"images": images})["logits"]
    np.testing.assert_allclose(logits, tiny_outputs(images), atol=0.5)


@pytest.mark.parametrize(("vnni", "count"), [(True, 1), (False, 0)])
def test_int8_kernels_run_only_where_they_are_exact(monkeypatch, vnni, count):
    monkeypatch.setattr(runtime_ov, "has_vnni", lambda: vnni)
    with OpenVinoSession(tiny_onnx(quantized=True), "int8") as session:
        kernels = [kernel for name, _, kernel in layers(session) if name == "FullyConnected"]
    assert sum(kernel.endswith("_i8") for kernel in kernels) == count


@pytest.mark.parametrize("threads", [1, 2])
def test_gives_openvino_the_threads(threads):
    with OpenVinoSession(tiny_onnx(), "fp32", SessionOptions(threads)) as session:
        assert session._single.model.get_property("INFERENCE_NUM_THREADS") == threads
        assert session.threads == threads


_SESSIONS_THAT_OVERLAP = """
import signal
from edge_vit.runtime.ov import OpenVinoSession
from tiny_graph import tiny_images, tiny_onnx

sessions = [OpenVinoSession(tiny_onnx(), "fp32") for _ in range(2)]
for session in sessions:
    session.run({"images": tiny_images()})
while sessions:
    sessions.pop(0).close()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_sessions_whose_lives_overlapped():
    """A core of OpenVINO that outlives another would leave a stack for signals that is gone."""
    command = [sys.executable, "-c", _SESSIONS_THAT_OVERLAP]
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_a_fixed_batch_runs(tmp_path):
    images = tiny_images(5)
    bundle = tiny_bundle(tmp_path / "fixed.edgevit", batch=3)
    with open_session(bundle, "int8", "openvino") as session:
        assert session.inputs == bundle.spec.inputs
        np.testing.assert_allclose(run_batch(session, images), tiny_outputs(images), atol=0.5)


def test_int8_needs_the_portable_graph(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny.edgevit")
    (bundle.path / "onnx" / "int8.cpu.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"int8\.cpu\.onnx"):
        open_session(bundle.path, "int8", "openvino")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(tiny_onnx()[:300], id="truncated"),
        pytest.param(unknown_operator(), id="unknown operator"),
    ],
)
def test_refuses_a_graph_that_does_not_load(capfd, model):
    with pytest.raises(BackendError) as caught:
        OpenVinoSession(model, "fp32", name="x.onnx")
    line = str(caught.value)
    assert line.startswith("OpenVINO ")
    assert "cannot load x.onnx: " in line
    assert line.endswith("Export it again, or use --backend ort")
    assert "\n" not in line
    assert "Exception from" not in line
    assert capfd.readouterr() == ("", "")


def reshape_graph() -> bytes:
    """float32 (n) -> (1): fails while running on more than one."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "reshape",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [onnx.numpy_helper.from_array(np.array([1]), "shape")],
    )
    opset = helper.make_opsetid("", 19)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def test_a_failed_run_is_one_line_and_the_session_goes_on(capfd):
    with OpenVinoSession(reshape_graph(), "fp32", name="x.onnx") as session:
        with pytest.raises(BackendError) as caught:
            session.run({"x": np.zeros(3, np.float32)})
        assert session.run({"x": np.ones(1, np.float32)})["y"].tolist() == [1.0]
    assert str(caught.value).startswith("OpenVINO failed to run x.onnx on 'x' (3,): ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stage", ["loading", "running"])
def test_too_little_memory_says_so(monkeypatch, stage):
    def refuse(*args, **kwargs):
        raise MemoryError

    if stage == "loading":
        monkeypatch.setattr("openvino.Core.compile_model", refuse)
        with pytest.raises(BackendError, match=r"ran out of memory while loading x\.onnx"):
            OpenVinoSession(tiny_onnx(), "fp32", name="x.onnx")
        return
    monkeypatch.setattr("openvino.InferRequest.infer", refuse)
    with (
        OpenVinoSession(tiny_onnx(), "fp32", name="x.onnx") as session,
        pytest.raises(BackendError, match="Use a smaller batch"),
    ):
        session.run({"images": tiny_images()})


def test_says_how_to_install_openvino(tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path / "tiny.edgevit")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError) as caught:
        open_session(bundle, backend="openvino")
    assert str(caught.value) == (
        "running with OpenVINO needs openvino, which is not installed. "
        "Run: pip install 'edge-vit[openvino]'"
    )
