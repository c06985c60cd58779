"""A bundle comes back as it was written, or is refused with its one line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from graph_files import FP16, FP32, INT8, INT8_CPU
from small_bundles import GRAPH, IMAGES, SPEC, table_for

from edge_vit.bundle import GOLDEN, MANIFEST, TABLE, Bundle, digest_of, draft_bundle
from edge_vit.errors import ArtifactError


def edit_manifest(bundle: Bundle, **changes: object) -> None:
    """Put `changes` into the manifest, as one of format 1, which has no digest of its own."""
    path = bundle.path / MANIFEST
    data = json.loads(path.read_text()) | changes | {"format": 1}
    del data["digest"]
    path.write_text(json.dumps(data))


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


# What is on disk is not what it should be


def test_says_how_to_make_a_missing_bundle(tmp_path):
    path = tmp_path / "no.edgevit"
    with pytest.raises(ArtifactError) as caught:
        Bundle.open(path)
    assert str(caught.value) == (
        f"bundle {path} does not exist. Make one with: edgevit export MODEL -o {path}"
    )


def test_refuses_a_file_for_a_bundle(bundle):
    with pytest.raises(ArtifactError, match="is a file, expected a folder that edgevit"):
        Bundle.open(bundle.path / MANIFEST)


def test_a_folder_of_something_else_is_not_to_be_removed(bundle, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"photos is no bundle, .* expected a folder") as error:
        Bundle.open(photos)
    assert "emove" not in str(error.value)
    for near in (bundle.path.parent, bundle.path / "onnx"):
        with pytest.raises(ArtifactError, match=rf"no bundle.*{bundle.path.name} is one$"):
            Bundle.open(near)


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
        pytest.param(b'{"format": 3}', "bundle format 3, this edge-vit", id="later format"),
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


def test_an_artifact_is_a_value(bundle):
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.artifact(FP32).num_bytes = 0
