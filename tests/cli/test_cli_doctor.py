"""The doctor, on this machine and on boards that are folders."""

from __future__ import annotations

import importlib.metadata
import json
import sys

import device_trees
import pytest

from edge_vit.cli import doctor
from edge_vit.device import facts


@pytest.fixture(autouse=True)
def few_extras(monkeypatch):
    """Import little: the real extras take many seconds."""
    stated = ['numpy>=1.23; extra == "cpu"', 'nonsense-pkg>=1; extra == "web"', "pillow>=9"]
    monkeypatch.setattr(doctor, "_requirements", lambda: [*stated, 'pytest; extra == "dev"'])


@pytest.fixture
def on_board(tmp_path, monkeypatch):
    """Return a function that puts the doctor on a board of `device_trees`."""

    def move(make):
        monkeypatch.setattr(facts, "ROOT", make(tmp_path / "board"))
        return tmp_path / "board"

    return move


def test_says_which_extras_work(edgevit):
    result = edgevit("doctor")
    assert result.exit_code == 0
    assert "lacks nonsense-pkg. Run: pip install 'edge-vit[web]'" in result.stdout
    extras = json.loads(edgevit("doctor", "--json").stdout)["extras"]
    assert set(extras) == {"cpu", "web"}
    assert extras["cpu"][0]["version"]
    assert extras["web"] == [{"name": "nonsense-pkg", "version": None, "error": ""}]


def test_says_which_backends_there_are_and_what_auto_takes(edgevit):
    found = json.loads(edgevit("doctor", "--json").stdout)
    assert "ort" in found["backends"]
    assert found["auto"] in found["backends"]
    lines = edgevit("doctor").stdout.splitlines()
    (line,) = [line for line in lines if line.split()[:1] == [found["auto"]]]
    assert "auto takes it" in line


def test_names_what_can_be_installed_for_another_backend(edgevit, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "not here. Run: pip install 'edge-vit[openvino]'" in edgevit("doctor").stdout


def test_says_that_a_backend_has_no_gpu(edgevit, monkeypatch):
    from edge_vit.runtime import backends

    monkeypatch.setattr(backends, "has_gpu", lambda: False)
    monkeypatch.setattr(backends, "_has_package", lambda name: True)
    assert "installed; there is no GPU for it" in edgevit("doctor").stdout


def test_nothing_that_runs_a_model_is_a_problem(edgevit, monkeypatch):
    from edge_vit.runtime import backends

    monkeypatch.setattr(backends, "available_backends", lambda: ())
    result = edgevit("doctor")
    assert result.exit_code == 1
    assert "problem backend: nothing here can run a model" in result.stdout
    assert "pip install 'edge-vit[cpu]'" in result.stdout


def test_advises_on_a_board_that_is_slower_than_it_could_be(edgevit, on_board):
    on_board(device_trees.orin_nano)
    result = edgevit("doctor")
    assert "JetPack            6.2" in result.stdout
    assert "9.3 W (VDD_IN)" in result.stdout
    assert "sudo nvpmodel -m 2" in result.stdout
    assert "sudo jetson_clocks" in result.stdout


def test_problems_come_first_and_end_with_status_1(edgevit, on_board):
    on_board(device_trees.orin_nano)
    result = edgevit("doctor")
    assert result.exit_code == 1  # this Python sees no TensorRT
    words = [line.split()[0] for line in result.stdout.partition("To do\n")[2].splitlines()]
    kinds = [word for word in words if word in ("problem", "advice")]
    assert kinds == sorted(kinds, reverse=True)
    assert kinds[0] == "problem"
    assert "python3 -m venv --system-site-packages .venv" in result.stdout


def test_json_holds_the_board_and_what_to_do(edgevit, on_board):
    on_board(device_trees.thor)
    found = json.loads(edgevit("doctor", "--json").stdout)
    assert found["device"]["module"] == "p3834-0008"
    assert found["telemetry"]["power_w"] == pytest.approx(39.6)
    assert {"state", "subject", "detail", "command"} == set(found["findings"][0])


def test_holds_memory_against_what_building_the_bundle_takes(edgevit, bundle, on_board):
    board = on_board(device_trees.orin_nano)
    device_trees.write(board, {"proc/meminfo": device_trees.meminfo(7620, 900)})
    stdout = edgevit("doctor", bundle.path).stdout
    assert "0.9 GiB are free, building an engine takes about 1.5 GiB" in stdout
    assert "about 1.9 GiB" in edgevit("doctor").stdout  # a ViT-S, where no bundle is given


def test_refuses_a_bundle_that_is_none(refused, tmp_path):
    assert str(tmp_path) in refused("doctor", tmp_path)


def test_says_when_edge_vit_is_not_installed(refused, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert "pip install --editable ." in refused("doctor")
