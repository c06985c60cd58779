"""Stages that are killed where they write: every number is replaced, no file is."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from graph_files import INT8
from kills import is_killed_at
from small_bundles import GRAPH, IMAGES, SPEC, names, table_for, write_bundle

from edge_vit import api
from edge_vit.bundle import Bundle
from edge_vit.bundle.record import ExportRecord, HalfProof, Parity
from edge_vit.data.images import ArraySource

pytestmark = pytest.mark.uncounted

SOURCE = ArraySource(IMAGES.images)
PARITY = Parity("torch", "5 of the given images", (1, 2), 1.0, 1e-7, 0.5)


def graph_of(words):
    return SimpleNamespace(SerializeToString=lambda: words)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A bundle of another graph's table, to read only."""
    return write_bundle(tmp_path_factory.mktemp("old") / "cats.edgevit").path


@pytest.fixture(autouse=True)
def without_numbers(monkeypatch):
    """Let every stage write the bytes of a small bundle in no time."""
    pytest.importorskip("torch")
    from edge_vit.calibration import into_bundle
    from edge_vit.export import export
    from edge_vit.export.export import Exported
    from edge_vit.lowering import variants
    from edge_vit.lowering.proof import Int8Proof

    def calibrate_model(fp32, spec, images, recipe, *, state_path, **options):
        from edge_vit.files import write_atomically

        write_atomically(state_path, b"what was seen")
        return dataclasses.replace(table_for(fp32.SerializeToString()), image_digests=("cd" * 32,))

    def export_model(request, **options):
        record = ExportRecord("timm:x", "", PARITY, ())
        return Exported(b"another graph", SPEC, record, IMAGES.images, IMAGES.outputs, ())

    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for module in (into_bundle, export, variants):
        monkeypatch.setattr(module, "installed_versions", lambda *names: {})
    monkeypatch.setattr(into_bundle, "calibrate_model", calibrate_model)
    monkeypatch.setattr(export, "export_model", export_model)
    monkeypatch.setattr("onnx.load_from_string", lambda data: graph_of(data))
    monkeypatch.setattr(variants, "write_qdq", lambda model, table, **options: graph_of(b"int8"))
    monkeypatch.setattr(variants, "write_half", lambda model, nodes, spill=None: graph_of(b"half"))
    monkeypatch.setattr(variants, "write_ort_x64", lambda model, spill: graph_of(b"x64"))
    monkeypatch.setattr(variants, "size_of", lambda model: 0)
    monkeypatch.setattr(
        variants, "files_of", lambda model, name, spill: {name: model.SerializeToString()}
    )
    monkeypatch.setattr(variants, "prove_half", lambda *a: HalfProof(2, 1.0, 0))
    for name in ("prove_int8", "prove_int8_in_half"):
        monkeypatch.setattr(
            variants, name, lambda *a, **options: Int8Proof(2, 40.0, deviations=(0.01, 0.02))
        )
    for name in ("note_lost_in_half", "note_below_forecast"):
        monkeypatch.setattr(variants, name, lambda *arguments, **options: "")


def export(path):
    api.export_bundle("timm:x", path, precision="int8", calibration=SOURCE, force=True)


STAGES = {
    "calibrate": (lambda path: api.calibrate(path, SOURCE), 1),
    "quantize": (api.quantize, 1),
    "export": (export, 7),
}


def facts(bundle):
    return bundle.spec, bundle.manifest.artifacts


@pytest.mark.parametrize(("stage", "step"), STAGES.values(), ids=STAGES)
def test_a_killed_stage_leaves_the_old_bundle_or_the_new(old, tmp_path, stage, step):
    before = facts(Bundle.open(old))
    whole = shutil.copytree(old, tmp_path / "whole" / "cats.edgevit")
    stage(whole)
    after = facts(Bundle.open(whole))
    assert before != after
    is_new = []
    for number in itertools.count(1, step):
        path = shutil.copytree(old, tmp_path / str(number) / "cats.edgevit")
        if not is_killed_at(number, lambda path=path: stage(path)):
            break
        left = Bundle.open(path)
        left.check()
        assert facts(left) in (before, after)
        is_new.append(facts(left) == after)
        stage(path)  # the same command again
        assert facts(Bundle.open(path)) == after
        assert names(path) == names(whole)
        assert names(path.parent) == ["cats.edgevit"]
        shutil.rmtree(path.parent)
    assert is_new == sorted(is_new)
    assert set(is_new) == {True, False}


def test_the_graphs_of_one_stage_appear_together(old, tmp_path):
    path = shutil.copytree(old, tmp_path / "cats.edgevit")
    assert Bundle.open(path).read_table() == table_for(GRAPH)
    assert api.quantize(path).has(INT8)
    assert np.array_equal(Bundle.open(path).read_golden().outputs, IMAGES.outputs)


# Two at once


def _in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def _recalibrate(path):
    api.calibrate(path, SOURCE)


PAIRS = {
    "quantize and calibrate": (api.quantize, _recalibrate),
    "calibrate twice": (_recalibrate, _recalibrate),
    "export and quantize": (export, api.quantize),
    "export twice": (export, export),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_processes_take_turns(old, tmp_path, pair):
    for number in range(2):
        path = shutil.copytree(old, tmp_path / str(number) / "cats.edgevit")
        children = [_in_child(lambda work=work, path=path: work(path)) for work in pair]
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
        Bundle.open(path).check()
        assert not [name for name in names(path) if name.startswith(".")]
        assert names(path.parent) == ["cats.edgevit"]


def test_two_exports_to_one_place_make_one_bundle(tmp_path):
    def make():
        api.export_bundle("timm:x", tmp_path / "new.edgevit")

    children = [_in_child(make) for _ in range(3)]
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
    assert statuses == [0, 1, 1]
    Bundle.open(tmp_path / "new.edgevit").check()
    assert names(tmp_path) == ["new.edgevit"]
