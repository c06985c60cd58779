"""The export room as one function: source in, proven graph, spec and record out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from canonical_form import assert_canonical
from small_vits import CLASSES, SIZE, SPEC, export_legacy, small_source
from traced import older_exporter

from edge_vit.data.images import ArraySource
from edge_vit.errors import ParityError, SpecError
from edge_vit.export import export as room
from edge_vit.export.canonical import make_canonical
from edge_vit.export.export import export_model
from edge_vit.export.golden import NUM_GOLDEN
from edge_vit.export.sources import SourceRequest

NO_BIASES = {"Add": -4}  # before any training they are zero, and dropped
REQUEST = SourceRequest(
    "edgevit:vit_digits", random_weights=True, model_args={"depth": 1}, labels=tuple("abcdefghij")
)


@pytest.fixture(scope="module")
def exported():
    return export_model(REQUEST)


def test_the_spec_says_what_the_graph_is(exported):
    spec = exported.spec
    assert (spec.name, spec.source, spec.task) == ("vit_digits", REQUEST.address, "classification")
    assert (spec.depth, spec.num_heads, spec.embed_dim, spec.num_tokens) == (1, 3, 96, 17)
    assert spec.labels == REQUEST.labels
    assert str(spec.inputs[0]) == "uint8 (batch, 32, 32, 3)"
    assert str(spec.outputs[0]) == "float32 (batch, 10)"
    model = onnx.load_from_string(exported.fp32)
    assert_canonical(model, depth=1, image_size=(32, 32), more=NO_BIASES)


def test_without_images_it_is_proven_on_photographs(exported):
    assert exported.record.parity.images == "sample photographs"
    assert exported.record.parity.batches == (1, 2, 5)
    assert exported.decoded == ()
    assert exported.images.shape == (5, 32, 32, 3)
    assert exported.outputs.shape == (5, 10)
    assert (exported.record.address, exported.record.notes) == (REQUEST.address, ())


@pytest.mark.uncounted
@pytest.mark.parametrize("count", [2, 7])
def test_given_images_are_what_it_is_proven_on(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 48, 3), dtype=np.uint8)
    with older_exporter():
        exported = export_model(REQUEST, images=ArraySource(pixels))
    used = min(count, NUM_GOLDEN)
    assert exported.record.parity.images == f"{used} of the given images"
    assert len(exported.decoded) == len(exported.images) == len(exported.outputs) == used
    assert {p.tobytes() for p in exported.decoded} <= {p.tobytes() for p in pixels}
    assert len(np.unique(exported.outputs, axis=0)) == used


@pytest.mark.uncounted
def test_a_static_batch_is_in_spec_and_graph():
    exported = export_model(REQUEST, static_batch=3)
    assert exported.spec.static_batch == 3
    assert exported.record.parity.batches == (3,)
    model = onnx.load_from_string(exported.fp32)
    assert_canonical(model, depth=1, image_size=(32, 32), batch=3, more=NO_BIASES)


def test_a_file_that_somebody_else_exported(tmp_path):
    source = small_source()
    path = tmp_path / "small.onnx"
    onnx.save(export_legacy(source), path)
    request = SourceRequest(f"onnx:{path}", mean=SPEC.mean, std=SPEC.std)
    exported = export_model(request)
    assert (exported.spec.name, exported.spec.depth) == ("small", 2)
    assert exported.record.parity.reference.startswith("the file itself")
    assert str(exported.spec.outputs[0]) == f"float32 (batch, {CLASSES})"


def test_the_batch_of_a_file_can_be_fixed_but_not_changed(tmp_path):
    source = small_source()
    onnx.save(export_legacy(source), tmp_path / "open.onnx")
    onnx.save(export_legacy(source, batch=2), tmp_path / "two.onnx")
    request = SourceRequest(f"onnx:{tmp_path / 'open.onnx'}", mean=SPEC.mean, std=SPEC.std)
    assert export_model(request, static_batch=2).spec.static_batch == 2
    made_for_two = replace(request, address=f"onnx:{tmp_path / 'two.onnx'}")
    assert export_model(made_for_two).spec.static_batch == 2
    with pytest.raises(SpecError, match=r"--static-batch: got 3, but .* is made for batches of 2"):
        export_model(made_for_two, static_batch=3)


def test_a_file_in_our_own_form_stays_what_it_is(tmp_path):
    source = small_source()
    model = make_canonical(export_legacy(source), SPEC, "classification").model
    onnx.save(model, tmp_path / "own.onnx")
    exported = export_model(SourceRequest(f"onnx:{tmp_path / 'own.onnx'}"))
    pixels = torch.from_numpy(exported.images / np.float32(255))
    mean, std = torch.tensor(SPEC.mean), torch.tensor(SPEC.std)
    with torch.no_grad():
        wanted = source.module(((pixels - mean) / std).permute(0, 3, 1, 2)).numpy()
    assert exported.spec.preprocess.image_size == (SIZE, SIZE)
    np.testing.assert_allclose(exported.outputs, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.uncounted
def test_what_is_not_proven_is_not_exported(monkeypatch):
    def wrong(proto, preprocess, task, **said):
        return make_canonical(proto, type(preprocess)(preprocess.image_size), task, **said)

    monkeypatch.setattr(room, "make_canonical", wrong)
    with (
        older_exporter(),
        pytest.raises(ParityError, match="vit_digits: the exported graph is not the model"),
    ):
        export_model(REQUEST)


@pytest.mark.uncounted
def test_what_is_no_model_of_its_task_is_refused_before_it_is_proven(monkeypatch):
    monkeypatch.setattr(room, "check_parity", None)
    arguments = {"in_channels": 3, "out_channels": 1, "kernel_size": 4, "stride": 4}
    request = SourceRequest(
        "python:torch.nn:Conv2d",
        model_args=arguments,
        task="segmentation",
        **{"image_size": (16, 16), "mean": SPEC.mean, "std": SPEC.std},
    )
    with older_exporter(), pytest.raises(SpecError, match=r"got one class, .* Take --task dense"):
        export_model(request)
