"""A new bundle appears whole, over an old one too, whose link, files and place it takes over."""

from __future__ import annotations

import dataclasses
import json

import pytest
from graph_files import FP16, FP32, HALF_PROOF, INT8, INT8_CPU
from small_bundles import GRAPH, IMAGES, SPEC, names, table_for, write_bundle

from edge_vit.bundle import GOLDEN, MANIFEST, TABLE, Bundle, draft_bundle, drafts
from edge_vit.errors import ArtifactError
from edge_vit.progress import Silent

ERRORS = pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "^C"]
)


class Notes(Silent):
    """Progress that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def whole(bundle):
    """The bundle with graphs made from its table, and a report."""
    with bundle.change() as change:
        change.add({FP16: b"fp16", HALF_PROOF: b"proof"}, parents=(FP32, TABLE))
        change.add({INT8: b"int8", INT8_CPU: b"cpu"}, parents=(FP32, TABLE))
    bundle.reports_path.mkdir()
    (bundle.reports_path / "verify.json").write_text("{}")
    return change.bundle


def replace(path, graph=GRAPH, spec=SPEC, golden=IMAGES):
    """Replace the bundle at `path` by one with a graph and golden images; return the notes."""
    progress = Notes()
    with draft_bundle(path, spec, force=True, progress=progress) as draft:
        draft = draft.add({FP32: graph})
        draft.add({GOLDEN: golden.to_bytes()}, parents=(FP32,))
    return progress.notes


def test_a_bundle_without_files_opens(tmp_path):
    with draft_bundle(tmp_path / "empty.edgevit", SPEC):
        pass
    assert Bundle.open(tmp_path / "empty.edgevit").precisions == ()
    assert names(tmp_path) == ["empty.edgevit"]


@ERRORS
def test_an_interrupted_draft_leaves_no_folder(tmp_path, error):
    with pytest.raises(type(error)), draft_bundle(tmp_path / "new.edgevit", SPEC) as draft:
        draft.add({FP32: GRAPH})
        raise error
    assert names(tmp_path) == []


@ERRORS
def test_an_interrupted_draft_keeps_the_old_bundle(bundle, error):
    before = names(bundle.path)
    with pytest.raises(type(error)), draft_bundle(bundle.path, SPEC, force=True) as draft:
        draft.add({FP32: b"another graph"})
        raise error
    assert names(bundle.path.parent) == [bundle.path.name]
    assert names(bundle.path) == before
    assert Bundle.open(bundle.path) == bundle
    bundle.check()


def test_an_existing_bundle_is_not_replaced_unasked(bundle):
    with (
        pytest.raises(ArtifactError, match=r"exists already\. Add --force"),
        draft_bundle(bundle.path, SPEC),
    ):
        pytest.fail("the block ran")
    bundle.check()


def test_one_that_appears_meanwhile_is_not_replaced_unasked(tmp_path, monkeypatch):
    path = tmp_path / "cats.edgevit"
    original = drafts._locked_place

    def wait(*arguments):
        monkeypatch.setattr(drafts, "_locked_place", original)
        write_bundle(path)  # by the command that this one waits for
        return original(*arguments)

    monkeypatch.setattr(drafts, "_locked_place", wait)
    with pytest.raises(ArtifactError, match="exists already"), draft_bundle(path, SPEC):
        pytest.fail("the block ran")
    Bundle.open(path).check()


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_force_replaces_nothing_but_bundles(tmp_path, kind, force):
    path = tmp_path / "home"
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    else:
        path.write_text("years of work")
    with (
        pytest.raises(
            ArtifactError, match=r"home exists and is not a bundle; .* Take another name"
        ),
        draft_bundle(path, SPEC, force=force),
    ):
        pytest.fail("the block ran")
    assert path.exists()


# What stays and what goes


def test_force_with_another_graph_replaces_the_whole_bundle(whole):
    notes = replace(whole.path, b"another graph")
    replaced = Bundle.open(whole.path)
    assert set(replaced.manifest.artifacts) == {FP32, GOLDEN}
    assert names(whole.path) == ["golden", MANIFEST, "onnx"]
    assert names(whole.path / "onnx") == ["fp32.onnx"]
    assert notes == [
        "gone, of the bundle that was there: calibration.json, onnx/fp16.onnx, fp16.json, "
        "onnx/int8.onnx, onnx/int8.cpu.onnx, reports/"
    ]
    replaced.check()


def test_force_with_the_same_graph_keeps_what_was_made_from_it(whole):
    notes = replace(whole.path)
    replaced = Bundle.open(whole.path)
    assert replaced.manifest.artifacts.keys() == whole.manifest.artifacts.keys()
    assert replaced.read(INT8) == b"int8"
    assert (whole.reports_path / "verify.json").exists()
    assert len(notes) == 1
    assert notes[0].startswith("kept, as the graph is the same: calibration.json, onnx/fp16.onnx")
    assert notes[0].endswith(", reports/")
    replaced.check()


def test_force_with_the_same_of_everything_changes_no_byte_that_reports_know(whole):
    before = Bundle.open(whole.path).digest
    with draft_bundle(whole.path, SPEC, force=True) as draft:
        draft = draft.add({FP32: GRAPH}, made_by={"torch": "2.6"})
        draft.add({GOLDEN: IMAGES.to_bytes()}, parents=(FP32,))
    assert Bundle.open(whole.path).digest == before


def test_other_labels_keep_the_graphs_and_no_report(whole):
    notes = replace(whole.path, spec=dataclasses.replace(SPEC, labels=("dog", "cow")))
    replaced = Bundle.open(whole.path)
    assert replaced.spec.labels == ("dog", "cow")
    assert replaced.has(INT8)
    assert not whole.reports_path.exists()
    assert notes[-1] == "gone, of the bundle that was there: reports/"


def test_another_crop_keeps_no_calibration(whole):
    crop = dataclasses.replace(SPEC.preprocess, crop_pct=0.5)
    replace(whole.path, spec=dataclasses.replace(SPEC, preprocess=crop))
    assert set(Bundle.open(whole.path).manifest.artifacts) == {FP32, GOLDEN}


def test_a_new_table_keeps_no_graph_of_the_old_one(whole):
    table = dataclasses.replace(table_for(), image_digests=("cd" * 32,)).to_bytes()
    with draft_bundle(whole.path, SPEC, force=True) as draft:
        draft = draft.add({FP32: GRAPH})
        draft.add({TABLE: table}, parents=(FP32,))
    replaced = Bundle.open(whole.path)
    assert set(replaced.manifest.artifacts) == {FP32, TABLE}
    replaced.check()


def test_an_edited_file_is_not_kept(whole):
    (whole.path / INT8).write_bytes(b"tni8")
    replace(whole.path)
    replaced = Bundle.open(whole.path)
    assert not replaced.has(INT8)
    assert not (whole.path / INT8).exists()
    assert replaced.has(FP16)
    replaced.check()


@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_force_makes_a_bundle_with_a_broken_manifest_anew(whole, damage):
    path = whole.path / MANIFEST
    text = path.read_text()
    path.write_text(text[:-20] if damage == "cut" else text.replace("chat", "dog"))
    replace(whole.path)
    replaced = Bundle.open(whole.path)
    replaced.check()
    assert set(replaced.manifest.artifacts) == {FP32, GOLDEN}


# Links


def test_force_through_a_link_replaces_its_target(bundle, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.edgevit"
    link.symlink_to("../cats.edgevit")
    replace(link, b"another graph")
    assert link.is_symlink()
    assert Bundle.open(bundle.path).read(FP32) == b"another graph"
    assert names(tmp_path) == ["cats.edgevit", "links"]
    assert names(tmp_path / "links") == ["latest.edgevit"]


@pytest.mark.parametrize("force", [False, True])
def test_a_link_to_nothing_gets_its_target(tmp_path, force):
    link = tmp_path / "link.edgevit"
    link.symlink_to("disk/new.edgevit")
    with draft_bundle(link, SPEC, force=force) as draft:
        draft.add({FP32: GRAPH})
    assert link.is_symlink()
    Bundle.open(tmp_path / "disk" / "new.edgevit").check()


def test_leftovers_of_a_killed_draft_are_removed(tmp_path, bundle):
    (tmp_path / ".new.edgevit.partial").mkdir()
    (tmp_path / ".new.edgevit.lock").write_text("process 1 (edgevit export)")
    with draft_bundle(tmp_path / "new.edgevit", SPEC) as draft:
        draft.add({FP32: GRAPH})
    assert names(tmp_path) == ["cats.edgevit", "new.edgevit"]


def test_the_manifest_of_a_draft_is_whole_json(tmp_path):
    path = tmp_path / "new.edgevit"
    with draft_bundle(path, SPEC) as draft:
        assert json.loads((draft.path / MANIFEST).read_text())["artifacts"] == {}
