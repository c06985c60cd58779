"""Another distribution adds a task, sources and a backend; nothing of edge-vit changes."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_graph import tiny_images, tiny_spec

from edge_vit.bundle import Bundle
from edge_vit.cli import main
from edge_vit.data.images import ArraySource
from edge_vit.data.registry import PLUGINS
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.report.grids import accuracy_grid
from edge_vit.report.wording import significant
from edge_vit.runtime.fake import FakeSession
from edge_vit.tasks import TASKS, task_named
from edge_vit.tasks.measures import Measure

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder that the plug-in was installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source")
    target = folder / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(target), str(folder / "source")]
    subprocess.run(install, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def toy_bundle(installed, tmp_path_factory) -> Path:
    """A bundle of the plug-in's own task, exported from its own source."""
    out = tmp_path_factory.mktemp("toy") / "toy.edgevit"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        edgevit("export", "toy:tiny", "-o", out)
    return out


@pytest.fixture
def plugin(installed, monkeypatch) -> None:
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(TASKS, "_loaded", {})
    monkeypatch.setattr(PLUGINS, "_loaded", {})


def edgevit(*arguments, status=0):
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.mark.usefixtures("plugin")
def test_a_toy_task_runs_on_a_toy_backend_and_is_evaluated(toy_bundle, tmp_path):
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert Bundle.open(toy_bundle).spec.outputs[0].name == "level"
    shown = edgevit("run", toy_bundle, tmp_path / "0.png", "--backend", "toyrun", "--json")
    (record,) = json.loads(shown.stdout)
    assert list(record) == ["image", "predictions"]
    assert record["predictions"][0]["label"] in ("dark", "bright")
    assert "word" in edgevit("run", toy_bundle, tmp_path / "0.png").stdout
    command = ("eval", toy_bundle, "--data", tmp_path, "--precision", "fp32")
    report = json.loads(edgevit(*command, "--backend", "toyrun", "--json").stdout)
    assert (report["task"], report["backend"], report["num_images"]) == ("brightness", "toyrun", 12)
    error = report["measures"]["level_error"]
    assert set(error) == {"value", "low", "high", "reference"}
    assert error["value"] == 0
    assert "both dark or both" in " ".join(edgevit(*command).stdout.split())
    command = ("eval", toy_bundle, "--data", "noise:8", "--num-images", 5, "--precision", "fp32")
    assert json.loads(edgevit(*command, "--json").stdout)["num_images"] == 5
    wrong = edgevit("eval", toy_bundle, "--data", "nosie:8", status=1)
    assert "Did you mean noise:?" in wrong.stderr


@pytest.mark.usefixtures("plugin")
def test_names_of_plug_ins_are_offered_and_nearly_right_ones_found():
    with pytest.raises(SpecError, match="Did you mean brightness"):
        task_named("brightnes")
    help_ = edgevit("export", "--help").stdout
    assert "brightness" in help_
    assert "toyrun" in edgevit("run", "--help").stdout


def test_without_the_plug_in_its_bundle_says_what_is_missing(toy_bundle, monkeypatch):
    monkeypatch.setattr(TASKS, "_loaded", {})
    with pytest.raises(ArtifactError, match=r"task: got 'brightness'.* plug-in .*edge_vit\.tasks"):
        Bundle.open(toy_bundle)
    assert "plug-in" in edgevit("run", toy_bundle, toy_bundle, status=1).stderr


def test_a_plug_in_that_fails_to_load_is_named(monkeypatch):
    point = importlib.metadata.EntryPoint("odd", "no_such_module:TASK", "edge_vit.tasks")
    points = importlib.metadata.EntryPoints((point,))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    with pytest.raises(SpecError, match="task 'odd' of the plug-in no_such_module cannot be"):
        task_named("odd")


def test_a_seventh_measure_is_one_entry_of_the_task(monkeypatch):
    """All that evaluates and reports reads `measures`."""
    task = task_named("classification")
    first = Measure("first", "first logit", compare=lambda spec, a, b: b["logits"][:, 0])
    monkeypatch.setattr(type(task), "measures", (*task.measures, first))
    spec = tiny_spec()
    source = ArraySource(tiny_images(20), [number % 5 for number in range(20)])
    sessions = FakeSession(spec), FakeSession(spec, "int8", noise=0.3)
    (report,) = evaluate(sessions[0], sessions[1:], spec, source)
    logits = sessions[1].run({"images": tiny_images(20)})["logits"]
    assert report.measures["first"].value == pytest.approx(logits[:, 0].mean())
    assert report.measures["top1"].value == report.top1
    assert report.measures["top1"].reference == report.reference_top1
    assert report.measures["kl"].value == pytest.approx(report.kl_mean)
    (row,) = [row for row in accuracy_grid([report]).rows if row[0] == "first logit"]
    assert row[2] == significant(report.measures["first"].value)
