"""A build that is killed leaves the old engine or the new one, and nothing that is neither."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
from kills import is_killed_at

from edge_vit.bundle import Bundle, digest_of
from edge_vit.progress import Silent
from edge_vit.runtime.trt import engines
from edge_vit.runtime.trt.audit import EngineAudit
from edge_vit.runtime.trt.build import PlanReport
from edge_vit.runtime.trt.engines import build_engine, discard_outdated
from edge_vit.runtime.trt.store import list_engines
from tests.runtime.trt.bundles import RTX

BUILDER = RTX
SM86 = engines.EngineOptions(targets=("sm_86",))


@pytest.fixture(autouse=True)
def plans(monkeypatch):
    """Let a build write the bytes in the list that this returns."""
    words = [b"plan"]

    def build_plan(builder, request, *others):
        Path(request.plan_path).write_bytes(words[0])
        audit = EngineAudit("network", {}, {})
        return PlanReport(digest_of(words[0]), len(words[0]), 1.0, (), audit)

    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(engines.build, "build_plan", build_plan)
    return words


def build(path, **options):
    return build_engine(Bundle.open(path), "int8", "rtx", SM86, builder=BUILDER, **options)


def whole_plans(path):
    return [engine.read() for engine in list_engines(path / "engines")]


def test_a_killed_build_leaves_the_old_engine_or_the_new(shared_bundle, tmp_path, plans):
    old = shutil.copytree(shared_bundle.path, tmp_path / "old.edgevit")
    build(old)
    plans[0] = b"another plan"
    seen = []
    for number in itertools.count(1):
        path = shutil.copytree(old, tmp_path / str(number) / "vit.edgevit")
        if not is_killed_at(number, lambda path=path: build(path, force=True)):
            break
        seen.append(whole_plans(path))
        build(path, force=True)
        assert whole_plans(path) == [b"another plan"]
        assert len(list((path / "engines").iterdir())) == 2
        shutil.rmtree(path.parent)
    newest = [plans[0] for plans in seen]
    assert newest == sorted(newest, reverse=True)  # b"plan" comes behind b"another plan"
    assert set(newest) == {b"plan", b"another plan"}
    assert all(set(plans) <= {b"plan", b"another plan"} for plans in seen)


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_engines_of_graphs_that_are_gone_are_removed(bundle):
    kept, progress = build(bundle.path), Notes()
    discard_outdated(Bundle.open(bundle.path), progress)
    assert progress.notes == [f"kept: engines/{kept.path.name}"]
    assert whole_plans(bundle.path) == [b"plan"]
    changed = bundle.add({"onnx/int8.onnx": b"another graph"})
    discard_outdated(changed, progress)
    assert progress.notes[1:] == [f"gone: engines/{kept.path.name}"]
    assert not list((bundle.path / "engines").iterdir())
