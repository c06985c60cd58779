"""A bundle comes back as it was written, or is refused with its one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from edge_vit import files
from edge_vit.bundle import (
    FP16,
    FP32,
    GOLDEN,
    INT8,
    INT8_CPU,
    MANIFEST,
    TABLE,
    Bundle,
    Golden,
    digest_of,
    draft_bundle,
)
from edge_vit.errors import ArtifactError
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.table import RECIPES, CalibrationTable, SiteScales

SPEC = ModelSpec(
    name="tiny",
    source="test:tiny",
    task="classification",
    labels=("cat", "chat \N{CAT}"),
    inputs=(image_input((8, 8)),),
    outputs=(task_output("classification", 2),),
    preprocess=PreprocessSpec((8, 8), "bilinear", 0.9, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    depth=2,
    num_heads=3,
    embed_dim=12,
    num_tokens=17,
    licence="apache-2.0",
)
GRAPH = b"fp32 graph"
IMAGES = Golden(np.arange(384, dtype=np.uint8).reshape(2, 8, 8, 3), np.eye(2, dtype=np.float32))


def table_for(graph: bytes = GRAPH) -> CalibrationTable:
    scales = SiteScales("int8", "as the recipe says", 0.1, (0.01, 0.02), 12.7, 4.5)
    return CalibrationTable(
        RECIPES["percentile"], digest_of(graph), {"block0/qkv": scales}, ("ab" * 32,)
    )


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    """A bundle with a graph, golden outputs and a table."""
    path = tmp_path / "cats.edgevit"
    with draft_bundle(path, SPEC) as draft:
        draft = draft.add({FP32: GRAPH}, made_by={"torch": "2.6"})
        draft = draft.add({GOLDEN: IMAGES.to_bytes()}, parents=(FP32,))
        draft.add({TABLE: table_for().to_bytes()}, parents=(FP32,), made_by={"edge-vit": "0.1"})
    return Bundle.open(path)


def edit_manifest(bundle: Bundle, **changes: object) -> None:
    path = bundle.path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def names(folder: Path) -> list[str]:
    """Names of what lies in `folder`, drafts and other hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def fail_to_write(monkeypatch, name: str, error: BaseException) -> None:
    """Let every write of the file `name` end in `error`."""
    original = files.write_atomically

    def write(path: Path, data: bytes) -> None:
        if path.name == Path(name).name:
            raise error
        original(path, data)

    monkeypatch.setattr("edge_vit.bundle.write_atomically", write)


# Round trip


def test_opens_as_it_was_written(bundle):
    assert bundle.spec == SPEC
    assert bundle.name == "cats"
    assert bundle.precisions == ("fp32",)
    assert bundle.manifest.created.endswith("+00:00")
    assert set(bundle.manifest.artifacts) == {FP32, GOLDEN, TABLE}
    bundle.check()


def test_reads_back_what_was_added(bundle):
    assert bundle.read(FP32) == GRAPH
    assert bundle.read_table() == table_for()
    golden = bundle.read_golden()
    np.testing.assert_array_equal(golden.images, IMAGES.images)
    np.testing.assert_array_equal(golden.outputs, IMAGES.outputs)
    assert (golden.images.dtype, golden.outputs.dtype) == (np.uint8, np.float32)


def test_the_manifest_knows_how_each_file_was_made(bundle):
    graph, table = bundle.artifact(FP32), bundle.artifact(TABLE)
    assert (graph.sha256, graph.num_bytes) == (digest_of(GRAPH), len(GRAPH))
    assert (graph.parents, graph.made_by) == ((), {"torch": "2.6"})
    assert (table.parents, table.made_by) == ((graph.sha256,), {"edge-vit": "0.1"})


def test_the_digest_is_sha256():
    assert digest_of(b"abc").startswith("ba7816bf8f01cfea")


def test_golden_bytes_are_reproducible():
    assert IMAGES.to_bytes() == IMAGES.to_bytes()


def test_what_add_returns_is_what_is_on_disk(bundle):
    added = bundle.add({INT8: b"int8", INT8_CPU: b"cpu", FP16: b"fp16"}, parents=(FP32, TABLE))
    assert added.precisions == ("fp32", "fp16", "int8")
    assert Bundle.open(bundle.path).manifest == added.manifest
    added.check()


def test_a_bundle_in_hand_stays_as_it_was_opened(bundle):
    bundle.add({FP16: b"fp16"})
    assert not bundle.has(FP16)


def test_a_replaced_file_has_its_new_digest(bundle):
    bundle.add({FP32: b"another graph"})
    assert Bundle.open(bundle.path).read(FP32) == b"another graph"


def test_dropped_files_leave_the_manifest_and_the_disk(bundle):
    bundle = bundle.add({INT8: b"int8", FP16: b"fp16"})
    bundle = bundle.add({TABLE: table_for().to_bytes()}, drop=(INT8, FP16, INT8_CPU))
    assert Bundle.open(bundle.path).precisions == ("fp32",)
    assert not (bundle.path / INT8).exists()
    bundle.check()


def test_reports_lie_beside_the_manifest(bundle):
    bundle.reports_path.mkdir()
    (bundle.reports_path / "verify.json").write_text("{}")
    Bundle.open(bundle.path).check()


def test_a_bundle_without_files_opens(tmp_path):
    with draft_bundle(tmp_path / "empty.edgevit", SPEC):
        pass
    assert Bundle.open(tmp_path / "empty.edgevit").precisions == ()


# Drafts


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "^C"])
def test_an_interrupted_draft_leaves_no_folder(tmp_path, error):
    with (
        pytest.raises(type(error)),
        draft_bundle(tmp_path / "new.edgevit", SPEC) as draft,
    ):
        draft.add({FP32: GRAPH})
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "^C"])
def test_an_interrupted_draft_keeps_the_old_bundle(bundle, error):
    with (
        pytest.raises(type(error)),
        draft_bundle(bundle.path, SPEC, force=True) as draft,
    ):
        draft.add({FP32: b"another graph"})
        raise error
    assert names(bundle.path.parent) == [bundle.path.name]
    assert Bundle.open(bundle.path) == bundle
    bundle.check()


def test_force_replaces_the_whole_bundle(bundle):
    with draft_bundle(bundle.path, SPEC, force=True) as draft:
        draft.add({FP32: b"another graph"})
    replaced = Bundle.open(bundle.path)
    assert set(replaced.manifest.artifacts) == {FP32}
    assert not (bundle.path / TABLE).exists()
    assert names(bundle.path.parent) == [bundle.path.name]


def test_an_existing_bundle_is_not_replaced_unasked(bundle):
    with (
        pytest.raises(ArtifactError, match=r"exists already\. Add --force"),
        draft_bundle(bundle.path, SPEC),
    ):
        pytest.fail("the block ran")
    bundle.check()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_force_replaces_nothing_but_bundles(tmp_path, kind):
    path = tmp_path / "home"
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    else:
        path.write_text("years of work")
    with (
        pytest.raises(ArtifactError, match=r"home is not a bundle; --force replaces bundles only"),
        draft_bundle(path, SPEC, force=True),
    ):
        pytest.fail("the block ran")
    assert path.exists()


# What is on disk is not what it should be


def test_says_how_to_make_a_missing_bundle(tmp_path):
    path = tmp_path / "no.edgevit"
    with pytest.raises(ArtifactError) as caught:
        Bundle.open(path)
    assert str(caught.value) == (
        f"bundle {path} does not exist. Make one with: edgevit export MODEL -o {path}"
    )


def test_refuses_a_file_for_a_bundle(bundle):
    with pytest.raises(ArtifactError, match="is a file, not a folder"):
        Bundle.open(bundle.path / MANIFEST)


def test_recognises_a_half_written_bundle(bundle):
    (bundle.path / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json: .* never finished"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param(b"", "cannot be read: .* Make the bundle again: edgevit", id="empty"),
        pytest.param(b"{", "cannot be read", id="truncated"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="not text"),
        pytest.param(b"[]", "bundle format None, this edge-vit reads 1 and 2", id="a list"),
        pytest.param(b"{}", "bundle format None, this edge-vit reads 1 and 2", id="no format"),
        pytest.param(
            b'{"format": 3}', "bundle format 3, this edge-vit reads 1 and 2", id="later format"
        ),
        pytest.param(b'{"format": 1}', r"manifest\.json: field 'created' is missing", id="bare"),
    ],
)
def test_refuses_a_manifest_that_it_cannot_read(bundle, manifest, message):
    (bundle.path / MANIFEST).write_bytes(manifest)
    with pytest.raises(ArtifactError, match=message):
        Bundle.open(bundle.path)


def test_refuses_a_manifest_whose_spec_says_something_impossible(bundle):
    spec = json.loads((bundle.path / MANIFEST).read_text())["spec"]
    edit_manifest(bundle, spec=spec | {"labels": ["cat"]})
    with pytest.raises(ArtifactError, match="labels of tiny: got 1, expected 2"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "onnx/../../secret", "..\\secret", "", ".", "a\0b"]
)
def test_refuses_a_path_that_leaves_the_bundle(bundle, name):
    entry = {"sha256": digest_of(b""), "num_bytes": 0}
    edit_manifest(bundle, artifacts={name: entry})
    with pytest.raises(ArtifactError, match="leaves the bundle"):
        Bundle.open(bundle.path)
    with pytest.raises(ArtifactError, match="leaves the bundle"):
        bundle.add({name: b""})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda p: p.write_bytes(GRAPH[:4]), "4 bytes, the manifest says 10", id="cut"),
        pytest.param(lambda p: p.write_bytes(GRAPH + b"!"), "is truncated or edited", id="longer"),
        pytest.param(
            lambda p: p.write_bytes(GRAPH.upper()), "was edited: its SHA-256", id="edited"
        ),
        pytest.param(lambda p: p.unlink(), "cannot be read: No such file", id="missing"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), "cannot be read: Is a dir", id="a folder"),
    ],
)
def test_refuses_a_file_that_is_not_the_manifests(bundle, damage, message):
    assert len(GRAPH.upper()) == len(GRAPH)
    damage(bundle.path / FP32)
    bundle = Bundle.open(bundle.path)
    for read in (lambda: bundle.read(FP32), bundle.check):
        with pytest.raises(ArtifactError, match=message):
            read()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (INT8, "Run: edgevit quantize"),
        (INT8_CPU, "Run: edgevit quantize"),
        (FP16, "Run: edgevit quantize"),
        ("onnx/other.onnx", "Run: edgevit export MODEL -o"),
    ],
)
def test_says_how_to_make_a_missing_file(bundle, name, command):
    with pytest.raises(ArtifactError, match=f"holds no {name}. {command}"):
        bundle.read(name)


def test_says_how_to_make_a_missing_table(tmp_path):
    with draft_bundle(tmp_path / "new.edgevit", SPEC) as draft:
        draft = draft.add({FP32: GRAPH})
        with pytest.raises(ArtifactError, match=r"Run: edgevit calibrate .* --calib DIR"):
            draft.read_table()


def test_refuses_a_stale_table(bundle):
    bundle = bundle.add({FP32: b"another graph"})
    with pytest.raises(ArtifactError, match=r"made for another graph .* Run: edgevit calibrate"):
        bundle.read_table()


def test_refuses_parents_that_are_not_there(bundle):
    with pytest.raises(ArtifactError, match=r"holds no onnx/int8\.onnx"):
        bundle.add({FP16: b"fp16"}, parents=(INT8,))
    assert Bundle.open(bundle.path) == bundle


# Writes that fail


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC], ids=["read-only", "full"])
def test_a_disk_that_refuses_is_one_line_and_changes_nothing(bundle, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr("tempfile.mkstemp", refuse)
        with pytest.raises(ArtifactError) as caught:
            bundle.add({FP16: b"fp16"})
    assert str(caught.value) == f"cannot write {bundle.path / FP16}: {os.strerror(code)}"
    assert Bundle.open(bundle.path) == bundle
    bundle.check()


@pytest.mark.parametrize(
    "error", [ArtifactError("full"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)
@pytest.mark.parametrize(
    ("added", "fails"),
    [
        pytest.param((FP16, INT8), INT8, id="between two new files"),
        pytest.param((FP16, INT8), MANIFEST, id="before the manifest"),
        pytest.param((FP32, INT8), INT8, id="after a file was replaced"),
        pytest.param((FP32,), FP32, id="while a file is replaced"),
    ],
)
def test_an_interrupted_write_leaves_a_bundle_that_verifies(
    bundle, monkeypatch, added, fails, error
):
    with monkeypatch.context() as patched:
        fail_to_write(patched, fails, error)
        with pytest.raises(type(error)):
            bundle.add(dict.fromkeys(added, b"new bytes"))
    left = Bundle.open(bundle.path)
    left.check()
    assert left.spec == SPEC
    assert set(left.manifest.artifacts) == {FP32, GOLDEN, TABLE} - set(added)


def test_dropping_a_file_that_the_disk_keeps_is_refused_in_one_line(bundle, monkeypatch):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    bundle = bundle.add({FP16: b"fp16"})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(ArtifactError, match=f"cannot write .*{FP16}"):
            bundle.add({}, drop=(FP16,))
    left = Bundle.open(bundle.path)
    assert not left.has(FP16)
    left.check()


def test_an_artifact_is_a_value(bundle):
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.artifact(FP32).num_bytes = 0
