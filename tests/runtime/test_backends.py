from __future__ import annotations

import importlib
import logging
import sys

import pytest

from edge_vit.errors import SpecError
from edge_vit.runtime import backends
from edge_vit.runtime.backends import (
    BACKENDS,
    available_backends,
    choose_backend,
    has_gpu,
    resolve_backend,
    runs_on_cpu,
)
from edge_vit.runtime.options import SessionOptions


@pytest.fixture
def machine(monkeypatch):
    """A function (VNNI?, installed packages) that lets this machine look like another."""

    def set_up(vnni, *packages, gpu=False):
        monkeypatch.setattr(backends, "has_gpu", lambda: gpu)
        monkeypatch.setattr(backends, "has_vnni", lambda: vnni)
        monkeypatch.setattr(backends, "_has_package", lambda name: name in packages)

    return set_up


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_a_module_that_opens_sessions(name):
    module = importlib.import_module(BACKENDS[name].module)
    assert callable(getattr(module, BACKENDS[name].opener))
    assert BACKENDS[name].help


@pytest.mark.parametrize(
    ("vnni", "packages", "expected"),
    [
        pytest.param(True, ("onnxruntime", "openvino"), ("openvino", "ort"), id="both, VNNI"),
        pytest.param(False, ("onnxruntime", "openvino"), ("ort", "openvino"), id="both, no VNNI"),
        pytest.param(True, ("onnxruntime",), ("ort",), id="ONNX Runtime alone"),
        pytest.param(False, ("openvino",), ("openvino",), id="OpenVINO alone"),
    ],
)
def test_auto_takes_the_fastest_that_is_installed(machine, vnni, packages, expected):
    machine(vnni, *packages)
    assert available_backends() == expected
    assert choose_backend() == expected[0]
    assert resolve_backend("auto", SessionOptions()) == expected[0]


def test_auto_says_once_that_a_gpu_lies_idle(machine, caplog):
    machine(True, "onnxruntime", gpu=True)
    backends._log_idle_gpu.cache_clear()
    with caplog.at_level(logging.INFO):
        for name in ("auto", "ort", "auto"):
            assert resolve_backend(name, SessionOptions()) == "ort"
    (record,) = caplog.records
    assert "no TensorRT that this Python finds: ort runs" in record.getMessage()
    machine(True, "onnxruntime", "tensorrt", gpu=True)
    backends._log_idle_gpu.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert resolve_backend("auto", SessionOptions()) == "trt"
    assert not caplog.records


@pytest.mark.parametrize(
    ("gpu", "packages", "expected"),
    [
        (True, ("tensorrt",), ("trt", "ort")),
        (True, ("tensorrt_lean",), ("trt", "ort")),
        (True, ("tensorrt_rtx", "tensorrt"), ("trt", "rtx", "ort")),
        (True, (), ("ort",)),
        (False, ("tensorrt_rtx", "tensorrt"), ("ort",)),
    ],
)
def test_auto_takes_a_gpu_where_there_is_one_and_what_runs_on_it(machine, gpu, packages, expected):
    machine(False, "onnxruntime", *packages, gpu=gpu)
    assert available_backends() == expected
    assert choose_backend(cpu_only=True) == "ort"


@pytest.mark.parametrize("node", ["nvidia0", "nvidia3", "nvgpu", "nvhost-gpu", "dxg"])
def test_a_driver_shows_its_gpu(monkeypatch, tmp_path, node):
    monkeypatch.setattr(backends, "_DEV", tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not has_gpu()
    (tmp_path / node).touch()
    assert has_gpu()


@pytest.mark.parametrize("backend", ["auto", "ort"])
def test_a_provider_is_one_of_onnx_runtime(machine, backend):
    machine(True, "openvino", "onnxruntime", "tensorrt", gpu=True)
    options = SessionOptions(provider="cuda")
    assert resolve_backend(backend, options) == "ort"
    assert not runs_on_cpu("ort", options)
    assert runs_on_cpu("ort", SessionOptions())


def test_refuses_a_provider_of_another_backend():
    with pytest.raises(SpecError, match=r"provider: got 'cuda', .* Leave --provider out"):
        resolve_backend("trt", SessionOptions(provider="cuda"))


def test_with_nothing_installed_auto_names_what_to_install(machine):
    machine(True)
    assert available_backends() == ()
    assert choose_backend() == "ort"


def test_a_package_that_cannot_be_imported_is_not_installed(monkeypatch):
    assert BACKENDS["openvino"].is_installed
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not BACKENDS["openvino"].is_installed


def test_finding_out_imports_nothing(monkeypatch):
    for name in [module for module in sys.modules if module.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    available_backends()
    assert "openvino" not in sys.modules


def test_refuses_an_unknown_name():
    with pytest.raises(
        SpecError, match="backend: got 'onnx', expected one of auto, ort, openvino, trt, rtx"
    ):
        resolve_backend("onnx", SessionOptions())
