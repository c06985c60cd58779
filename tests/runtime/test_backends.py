from __future__ import annotations

import importlib
import sys

import pytest

from edge_vit.errors import SpecError
from edge_vit.runtime import backends
from edge_vit.runtime.backends import (
    BACKENDS,
    CPU_BACKENDS,
    available_backends,
    choose_backend,
    find_backend,
)


@pytest.fixture
def machine(monkeypatch):
    """A function (VNNI?, installed packages) that lets this machine look like another."""

    def set_up(vnni, *packages):
        monkeypatch.setattr(backends, "has_vnni", lambda: vnni)
        monkeypatch.setattr(backends, "_has_package", lambda name: name in packages)

    return set_up


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_a_module_that_opens_sessions(name):
    assert callable(importlib.import_module(BACKENDS[name].module).open_backend)
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
    assert find_backend("auto") is BACKENDS[expected[0]]


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
    with pytest.raises(SpecError, match="backend: got 'onnx', expected one of auto, ort, openvino"):
        find_backend("onnx")


def test_the_cpu_backends_are_those_of_the_table_and_the_fake_one():
    assert {"fake", "ort", "openvino"} <= CPU_BACKENDS
