from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from tiny_graph import golden_bundle, tiny_images, tiny_onnx, tiny_outputs

from edge_vit.errors import BackendError, DeviceLostError
from edge_vit.runtime import SessionOptions, open_session
from edge_vit.runtime import ort as runtime_ort
from edge_vit.runtime.ort import (
    OrtSession,
    check_used,
    choose_graph,
    lost_error,
    provider_arguments,
    run_bound,
)

CUDA = "CUDAExecutionProvider"
REAL_SESSION = onnxruntime.InferenceSession


def on_cpu(**config: str):
    native = onnxruntime.SessionOptions()
    native.add_session_config_entry(runtime_ort._RECORD, "1")
    return REAL_SESSION(tiny_onnx(), native, providers=["CPUExecutionProvider"])


class Session:
    """A session of an ONNX Runtime that has a GPU: the CPU's, in a mask."""

    def __init__(self, model=None, native=None, providers=(), *, nodes=(), used=None, **settings):
        self.asked, self.settings = providers, settings
        self._native = on_cpu()
        self._nodes = nodes
        self._used = used

    def get_providers(self):
        return [name for name, _ in self.asked] if self._used is None else self._used

    def get_provider_graph_assignment_info(self):
        return [
            SimpleNamespace(
                ep_name=name, get_nodes=lambda op=op: [SimpleNamespace(name="n", op_type=op)]
            )
            for name, op in self._nodes
        ]

    def __getattr__(self, name):
        return getattr(self._native, name)


@pytest.fixture
def gpu_runtime(monkeypatch):
    """An ONNX Runtime with both GPU providers, whose tensors lie on the CPU all the same."""
    made = []

    def make(model, native, providers, **settings):
        made.append(Session(model, native, providers, **settings))
        return made[-1]

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(
        runtime_ort,
        "run_bound",
        lambda ort, session, feeds, outputs, device: run_bound(
            ort, session, feeds, outputs, ("cpu", 0)
        ),
    )
    return made


def test_runs_on_the_gpu_and_tells_the_parts_apart(tmp_path, gpu_runtime):
    bundle, images = golden_bundle(tmp_path / "tiny.edgevit"), tiny_images(3)
    with open_session(bundle, "fp32", "ort", SessionOptions(provider="cuda")) as session:
        logits = session.run({"images": images})["logits"]
        assert (session.is_on_gpu, session.provider) == (True, "cuda")
        assert min(vars(session.last_split).values()) >= 0
        assert session.last_split.compute_ms > 0
    np.testing.assert_allclose(logits, tiny_outputs(images), atol=1e-5)
    assert gpu_runtime[0].settings == {"enable_fallback": 0}


@pytest.mark.parametrize("wants_test", [True, False])
def test_the_golden_images_run_before_its_answers_count(
    tmp_path, gpu_runtime, monkeypatch, wants_test
):
    monkeypatch.setattr(
        runtime_ort, "run_bound", lambda *args: ({"logits": np.zeros((5, 5), np.float32)}, None)
    )
    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    options = SessionOptions(provider="cuda", self_test=wants_test)
    if wants_test:
        with pytest.raises(BackendError, match=r"onnx/fp32\.onnx by cuda gives other answers"):
            open_session(bundle, "fp32", "ort", options)
    else:
        open_session(bundle, "fp32", "ort", options).close()


@pytest.mark.parametrize(
    ("provider", "names"),
    [("cpu", ["CPUExecutionProvider"]), ("cuda", [CUDA])],
)
def test_asks_for_the_provider_and_the_gpu(provider, names):
    arguments = provider_arguments(SessionOptions(provider=provider, device=2))
    assert [entry if isinstance(entry, str) else entry[0] for entry in arguments] == names
    assert {entry[1]["device_id"] for entry in arguments if isinstance(entry, tuple)} <= {"2"}


def test_a_gpu_runs_the_graph_with_fp16_around_int8(tmp_path):
    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    assert choose_graph(bundle, "int8", is_on_gpu=True) == "onnx/int8.onnx"
    assert choose_graph(bundle, "int8") == "onnx/int8.cpu.onnx"


def test_the_real_onnx_runtime_of_the_cpu_says_what_to_install():
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(BackendError) as caught:
        OrtSession(tiny_onnx(), "fp32", SessionOptions(provider="cuda"))
    assert str(caught.value).startswith(
        f"this ONNX Runtime {onnxruntime.__version__} has no {CUDA}, only "
    )
    assert "pip install onnxruntime-gpu" in str(caught.value)


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        pytest.param(
            "libcudnn.so.9: cannot open shared object file: No such file or directory",
            r"libcudnn\.so\.9 is not installed or not found\. See LD_LIBRARY_PATH",
            id="a library is missing",
        ),
        pytest.param("undefined symbol: Provider_GetHost", "driver|does not say why", id="driver"),
    ],
)
def test_a_provider_that_was_dropped_is_an_error_that_names_what_is_missing(
    monkeypatch, loader, reason
):
    real = ctypes.CDLL

    def load(path, *args, **settings):
        if "providers_cuda" in str(path):
            raise OSError(loader)
        return real(path, *args, **settings)

    monkeypatch.setattr(runtime_ort.ctypes, "CDLL", load)
    with pytest.raises(BackendError, match=f"dropped {CUDA} and would run on the CPU: .*{reason}"):
        check_used(onnxruntime, Session(used=["CPUExecutionProvider"]), "cuda")


def test_heavy_nodes_on_the_cpu_are_an_error_too():
    session = Session(
        providers=[(CUDA, {})],
        nodes=[(CUDA, "MatMul"), ("CPUExecutionProvider", "Softmax")],
    )
    with pytest.raises(BackendError, match=r"would run 1 of 2 nodes on the CPU.*n \(Softmax\)"):
        check_used(onnxruntime, session, "cuda")


@pytest.mark.parametrize("op", ["Shape", "Gather", "Concat"])
def test_arithmetic_on_shapes_may_stay_on_the_cpu(op):
    nodes = [(CUDA, "MatMul"), ("CPUExecutionProvider", op)]
    check_used(onnxruntime, Session(providers=[(CUDA, {})], nodes=nodes), "cuda")


def test_an_old_onnx_runtime_does_not_say_where_nodes_run(caplog):
    session = SimpleNamespace(get_providers=lambda: [CUDA])
    with caplog.at_level("INFO"):
        check_used(onnxruntime, session, "cuda")
    assert "does not tell which nodes" in caplog.text


def test_the_real_onnx_runtime_says_where_each_node_runs():
    if not hasattr(on_cpu(), "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not tell")
    nodes = [
        node.op_type
        for part in on_cpu().get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    assert "MatMul" in nodes


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", True),
        ("CUDA failure 719: unspecified launch failure", True),
        ("CUDA failure 2: out of memory", False),
        ("Non-zero status code returned while running Gather", False),
    ],
)
def test_a_lost_gpu_is_told_from_an_error(text, is_lost):
    error = lost_error(text, "x.onnx")
    assert isinstance(error, DeviceLostError) == is_lost


def test_a_gpu_lost_while_running_has_its_own_error(gpu_runtime, monkeypatch):
    def fail(*args):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(runtime_ort, "run_bound", fail)
    session = OrtSession(tiny_onnx(), "fp32", SessionOptions(provider="cuda"))
    with pytest.raises(DeviceLostError, match="is lost to this process"):
        session.run({"images": tiny_images(1)})


def test_too_little_gpu_memory_says_so(gpu_runtime, monkeypatch):
    def fail(*args):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr(runtime_ort, "run_bound", fail)
    session = OrtSession(tiny_onnx(), "fp32", SessionOptions(provider="cuda"))
    with pytest.raises(BackendError, match=r"ran out of memory .* Use a smaller batch"):
        session.run({"images": tiny_images(1)})
