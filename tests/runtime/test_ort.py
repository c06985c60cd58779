from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_graph import tiny_bundle, tiny_images, tiny_onnx, tiny_outputs

from edge_vit.errors import BackendError, MissingDependencyError
from edge_vit.runtime import SessionOptions, open_session
from edge_vit.runtime import ort as runtime_ort
from edge_vit.runtime.ort import OrtSession, _native_options
from edge_vit.spec import TensorSpec

WHITE = np.full((1, 8, 8, 3), 255, np.uint8)


def edited(**changes: int) -> bytes:
    """The tiny graph with another IR version or opset."""
    model = onnx.load_from_string(tiny_onnx())
    model.ir_version = changes.get("ir_version", model.ir_version)
    model.opset_import[0].version = changes.get("opset", model.opset_import[0].version)
    return model.SerializeToString()


def gather_graph() -> bytes:
    """int64 (n) -> float32 (n): fails while running on an index above 2."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [3], [0.0, 1.0, 2.0])
    return _one_node("Gather", ["table", "index"], "index", [table])


def expand_graph() -> bytes:
    """int64 (n) -> zeros of that shape."""
    return _one_node("ConstantOfShape", ["shape"], "shape", [])


def _one_node(op_type: str, inputs: list[str], name: str, constants: list) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"])],
        op_type,
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    opset = helper.make_opsetid("", 19)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@pytest.mark.parametrize("batch", [None, 4], ids=["dynamic", "fixed"])
def test_computes_what_the_graph_says(batch):
    images = tiny_images(4)
    with OrtSession(tiny_onnx(batch), "fp32") as session:
        logits = session.run({"images": images})["logits"]
    np.testing.assert_allclose(logits, tiny_outputs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [WHITE, tiny_images(4)], ids=["white", "random"])
def test_int8_does_not_saturate_on_any_processor(images):
    """Weights and pixels at their largest: without the U8U8 kernels, AVX2 is off by more than 1."""
    with OrtSession(tiny_onnx(quantized=True), "int8") as session:
        logits = session.run({"images": images})["logits"]
    np.testing.assert_allclose(logits, tiny_outputs(images), atol=0.05)


@pytest.mark.parametrize("vnni", [True, False])
def test_asks_for_the_slow_exact_kernels_only_where_the_fast_ones_saturate(monkeypatch, vnni):
    monkeypatch.setattr(runtime_ort, "has_vnni", lambda: vnni)
    native = _native_options(onnxruntime, SessionOptions(1))
    if vnni:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            native.get_session_config_entry("session.x64quantprecision")
    else:
        assert native.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.parametrize("batch", [None, 1], ids=["dynamic", "fixed"])
def test_int8_layers_run_in_int8_kernels(tmp_path, batch):
    native = _native_options(onnxruntime, SessionOptions(1))
    native.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        tiny_onnx(batch, quantized=True), native, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    operators = Counter(node.op_type for node in nodes)
    assert operators["MatMulIntegerToFloat"] == 1
    assert "DequantizeLinear" not in operators


def gelu_graph() -> bytes:
    """float32 (n) -> float32 (n): GELU with erf, as canonical form writes it."""
    scalars = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["share"]),
        helper.make_node("Mul", ["x", "share"], ["double"]),
        helper.make_node("Mul", ["double", "half"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gelu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor(name, TensorProto.FLOAT, [], [x]) for name, x in scalars.items()],
    )
    opset = helper.make_opsetid("", 19)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def test_gelu_is_approximate_beside_int8_alone():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    results = {}
    for precision in ("fp32", "fp16", "int8"):
        with OrtSession(gelu_graph(), precision) as session:
            results[precision] = session.run({"x": x})["y"]
    exact = np.array([v * 0.5 * (1 + math.erf(v / 2**0.5)) for v in x.tolist()])
    for precision in ("fp32", "fp16"):
        np.testing.assert_allclose(results[precision], exact, atol=1e-6)
    assert 1e-5 < np.abs(results["int8"] - exact).max() < 6e-4


@pytest.mark.parametrize(("threads", "native"), [(1, 1), (2, 2), (3, 3)])
def test_gives_onnx_runtime_the_threads(threads, native):
    with OrtSession(tiny_onnx(), "fp32", SessionOptions(threads)) as session:
        options = session._session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (native, 1)
        assert session.threads == threads


def test_reads_the_tensors_from_the_graph():
    with OrtSession(gather_graph(), "fp32") as session:
        assert session.inputs == (TensorSpec("index", "int64", ("n",)),)
        assert [(output.name, output.dtype) for output in session.outputs] == [("y", "float32")]
        outputs = session.run({"index": np.array([2, 0])})
    assert outputs["y"].tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(b"", r"cannot load x\.onnx: .*Export it again", id="empty"),
        pytest.param(b"garbage", r"cannot load x\.onnx: .*Export it again", id="garbage"),
        pytest.param(tiny_onnx()[:300], r"cannot load x\.onnx: .*Export it again", id="truncated"),
        pytest.param(
            _one_node("NoSuchOp", ["n"], "n", []),
            r"cannot load x\.onnx: .*NoSuchOp",
            id="unknown operator",
        ),
        pytest.param(
            edited(ir_version=99),
            r"x\.onnx is too new for ONNX Runtime [\d.]+: .*Run: pip install --upgrade onnxruntime",
            id="IR version",
        ),
        pytest.param(
            edited(opset=99),
            r"x\.onnx is too new for ONNX Runtime [\d.]+: .*Run: pip install --upgrade onnxruntime",
            id="opset",
        ),
    ],
)
def test_refuses_a_graph_that_does_not_load(capfd, model, message):
    with pytest.raises(BackendError, match=message) as caught:
        OrtSession(model, "fp32", name="x.onnx")
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_failed_run_is_one_line(capfd):
    with OrtSession(gather_graph(), "fp32", name="x.onnx") as session:
        with pytest.raises(BackendError) as caught:
            session.run({"index": np.array([7])})
        assert session.run({"index": np.array([1])})["y"].tolist() == [1.0]
    assert str(caught.value).startswith(
        "ONNX Runtime failed to run x.onnx on 'index' (1,): Non-zero status code"
    )
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_too_little_memory_for_a_run_says_so(capfd):
    with (
        OrtSession(expand_graph(), "fp32", name="x.onnx") as session,
        pytest.raises(BackendError) as caught,
    ):
        session.run({"shape": np.array([1 << 40, 1 << 5])})
    assert str(caught.value) == (
        "ONNX Runtime ran out of memory while running x.onnx on 'shape' (2,). Use a smaller batch"
    )
    assert capfd.readouterr() == ("", "")


def test_too_little_memory_for_loading_says_so(monkeypatch):
    def refuse(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(BackendError, match=r"ran out of memory while loading x\.onnx"):
        OrtSession(tiny_onnx(), "fp32", name="x.onnx")


def test_says_how_to_install_onnx_runtime(tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path / "tiny.edgevit")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        open_session(bundle, backend="ort")
    assert str(caught.value) == (
        "running with ONNX Runtime needs onnxruntime, which is not installed. "
        "Run: pip install 'edge-vit[cpu]'"
    )
