"""`edgevit build`, with the real builder of TensorRT-RTX."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from graph_files import FP16, INT8
from rtx import HAS_RTX

from edge_vit.bundle import Bundle
from edge_vit.errors import GateFailed
from edge_vit.runtime.trt import engines
from tests.runtime.trt.bundles import write_bundle

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not HAS_RTX, reason="tensorrt_rtx comes with the dev extra on x86-64 Linux alone"
)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("build") / "vit.edgevit")


@pytest.fixture
def vit(shared, tmp_path) -> Bundle:
    path = tmp_path / "vit.edgevit"
    shutil.copytree(shared.path, path)
    return Bundle.open(path)


def test_builds_shows_and_finds_again(edgevit, vit):
    built = edgevit("build", vit.path, "--target", "sm_86", "--precision", "int8", "--max", 4)
    assert built.exit_code == 0, built.output
    for words in ("sm_86", "1 to 4, tuned for 4", "built now", "75.5 %", "multiply-adds in int8"):
        assert words in built.stdout
    path = Path(built.stdout.splitlines()[-1])
    assert path.parent == vit.path / "engines"
    assert "building the int8 engine with TensorRT-RTX" in built.stderr
    assert "has to be trusted once there" in built.stderr
    again = edgevit("build", vit.path, "--target", "sm_86", "--max", 4, "--json")
    (engine,) = json.loads(again.stdout)
    assert (engine["path"], engine["is_new"]) == (str(path), False)
    assert engine["audit"]["products"]["block1/fc2"]["precision"] == "int8"
    shown = edgevit("inspect", vit.path)
    assert "Engines" in shown.stdout
    assert "there already" in shown.stdout
    (listed,) = json.loads(edgevit("inspect", vit.path, "--json").stdout)["engines"]
    assert listed["digest"] == engine["digest"]


@pytest.mark.parametrize(
    ("arguments", "line", "status"),
    [
        (["--target", "sm_87"], r"does not build for sm_87, only for sm_75, ", 1),
        (["--target", "orin"], "target: got 'orin', expected a compute capability such as", 1),
        (["--target", "sm_86", "--backend", "trt"], "runs engines and builds none", 1),
        (["--backend", "rtx"], "there is no GPU here to build for. Name the one that will", 1),
        ([], "nothing here can build an engine", 1),
        (["--target", "sm_86", "--precision", "int4"], "Invalid value for '--precision'", 2),
        (["--target", "sm_86", "--batch", 2, "--max", 4], "--batch-size excludes --min", 2),
        (["--target", "sm_86", "--min", 8, "--max", 4], "batch sizes: got min 8, opt 4, max 4", 1),
        (["--target", "sm_86", "--memory", 4], "memory: got 4 MiB, expected at least 16", 1),
    ],
    ids=["orin", "word", "trt", "no gpu", "auto", "precision", "batch", "range", "memory"],
)
def test_one_line_for_what_cannot_be(refused, vit, arguments, line, status):
    assert line in refused("build", vit.path, *arguments, status=status)
    assert not list(vit.path.glob("engines/*"))


def test_a_missing_graph_says_how_to_make_it(refused, vit, tmp_path):
    without = vit.add({}, drop=(INT8,))
    line = refused("build", without.path, "--target", "sm_86", "--precision", "int8")
    assert line.endswith("(after: edgevit calibrate " + str(vit.path) + " --calib DIR)")


def test_a_graph_wider_than_asked_is_status_three(refused, vit):
    vit.add({INT8: vit.read(FP16)})
    line = refused("build", vit.path, "--target", "sm_86", status=GateFailed.exit_status)
    assert line.startswith("int8 engine is not what the bundle asked for: block0/qkv computes in")


def test_an_operator_that_nobody_knows_is_named(refused, vit):
    import onnx

    model = onnx.load_from_string(vit.read(INT8))
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.op_type = "Softmaximum"
    vit.add({INT8: model.SerializeToString()})
    line = refused("build", vit.path, "--target", "sm_86")
    assert f"node {node.name} (Softmaximum)" in line


def test_ctrl_c_is_status_130_and_leaves_nothing(vit):
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from edge_vit.cli import main; main()"),
            *("build", str(vit.path), "--target", "sm_86", "--optimization-level", "5"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("building the int8 engine"):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == "Error: interrupted\n"
    assert list((vit.path / "engines").iterdir()) == []


@pytest.mark.uncounted
def test_force_builds_again(edgevit, vit, monkeypatch):
    built = []
    real = engines.build.build_plan

    def count(*args):
        built.append(args)
        return real(*args)

    monkeypatch.setattr(engines.build, "build_plan", count)
    for options in ([], [], ["--force"]):
        assert edgevit("build", vit.path, "--target", "sm_86", *options).exit_code == 0
    assert len(built) == 2
