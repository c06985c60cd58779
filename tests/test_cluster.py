"""The same numbers from a cluster: a Ray on this machine, in a process of its own (about 20 s)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_graph import tiny_bundle, tiny_images

from edge_vit import cluster, optional
from edge_vit.cluster import evaluate_on_ray
from edge_vit.errors import MissingDependencyError, SpecError
from edge_vit.measure.evaluation import Evaluation
from edge_vit.measure.partial import PartialAccuracy, merge_partials
from edge_vit.runtime.session import SessionOptions
from edge_vit.values import from_json, to_json

WHAT = Evaluation("none.edgevit", "none")


@pytest.fixture
def paths(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny.edgevit")
    labels = np.random.default_rng(1).integers(0, 5, 30)
    np.savez(tmp_path / "val.npz", images=tiny_images(30), labels=labels)
    return bundle.path, tmp_path / "val.npz"


def _eval(home, bundle, data, *more):
    """What the command line says, in a process of its own: Ray leaves threads behind."""
    command = (
        f"from edge_vit.cli import main; main({['eval', str(bundle), '--data', str(data), *more]})"
    )
    environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment,
        check=False,
        timeout=300,
    )


@pytest.fixture
def worker():
    """What an actor runs, here in this process."""
    return lambda data, bundle: cluster._Worker(
        to_json(Evaluation(str(bundle), str(data), "int8", "ort", SessionOptions(1))), 2
    )


def test_a_worker_answers_part_by_part(paths, worker):
    bundle, data = paths
    actor = worker(data, bundle)
    rows = [actor({"part": [index]}) for index in (2, 1)]
    assert [row["error"] for row in rows] == [[b""], [b""]]
    parts = [from_json(PartialAccuracy, json.loads(row["totals"][0])) for row in rows]
    assert [part.part for part in parts] == [(2, 2), (1, 2)]
    assert merge_partials(parts).num_images == 30


def test_a_worker_says_in_one_line_what_fails(paths, worker, tmp_path):
    bundle, data = paths
    for answers in (
        worker(tmp_path / "none", bundle)({"part": [1]}),
        worker(data, tmp_path / "none")({"part": [1]}),
    ):
        assert answers["totals"] == [b""]
        assert b"none" in answers["error"][0]
        assert b"\n" not in answers["error"][0]


def test_a_cluster_says_what_one_machine_says_to_the_last_byte(paths, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    common = ("--threads", "1", "--backend", "ort", "--precision", "int8", "--json")
    alone = _eval(tmp_path, *paths, *common)
    assert alone.returncode == 0, alone.stderr
    together = _eval(tmp_path, *paths, *common, "--ray", "3")
    assert together.returncode == 0, together.stderr
    assert together.stdout == alone.stdout
    assert json.loads(alone.stdout)["num_images"] == 30
    assert "evaluating on" in together.stderr


def test_says_what_is_missing(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edge-vit\[ray\]'"):
        evaluate_on_ray(WHAT, 2)


def test_refuses_no_parts():
    with pytest.raises(SpecError, match="parts: got 0, expected at least 1"):
        evaluate_on_ray(WHAT, 0)
