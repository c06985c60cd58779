"""Segmentation models of transformers: each class exports with the outputs of its task."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import small_segmenters as small
import torch
import transformers
from small_detectors import save_with_processor
from traced import older_exporter

from edge_vit.errors import SpecError
from edge_vit.export.export import export_model
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.tasks import task_of
from edge_vit.tasks.segmentation.decoding import semantic_map

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

QUICK = ("eomt", "dpt", "segformer")  # masks of queries; logits of a grid
EXPORTERS = [
    *(pytest.param(name, older_exporter, id=f"{name}-older") for name in QUICK),
    *(pytest.param(n, nullcontext, marks=pytest.mark.full, id=n) for n in small.SEGMENTERS),
]
"""Some from torch's older exporter, in a fraction of the time; all from the one in use."""
OF_QUERIES = ("eomt", "eomt_dinov3", "mask2former", "maskformer", "rf_detr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function that gives the folder of a small model."""
    root = tmp_path_factory.mktemp("segmenters")

    def get(model_type):
        path = root / model_type
        if not path.exists():
            model = small.make_segmenter(model_type)
            save_with_processor(model, path, "SegformerImageProcessor")
        return path

    return get


@pytest.mark.uncounted
@pytest.mark.parametrize(("model_type", "exporter"), EXPORTERS)
def test_exports_with_parity_of_every_output(folder, model_type, exporter):
    with exporter():
        exported = export_model(SourceRequest(f"hf:{folder(model_type)}"))
    spec = exported.spec
    assert spec.labels[1] == "thing 1"
    assert spec.preprocess.crop_mode == "squash"
    shapes = {output.name: output.shape[1:] for output in spec.outputs}
    if model_type in OF_QUERIES:
        num_queries = shapes["class_logits"][0]
        columns = small.NUM_CLASSES + (spec.activation == "softmax")
        assert shapes["class_logits"] == (num_queries, columns)
        assert shapes["mask_logits"][0] == num_queries
        assert exported.further["mask_logits"].shape[:2] == (5, num_queries)
    else:
        assert list(shapes) == ["logits"]
        assert shapes["logits"][0] == small.NUM_CLASSES
    assert exported.record.parity.max_error < 1e-4
    assert (spec.depth > 0) is (model_type != "mobilevitv2")  # whose attention has no softmax


@pytest.mark.parametrize("model_type", ["segformer", "mask2former"])
def test_masks_are_those_of_its_own_code(folder, model_type):
    """On noise, whose every cell is of another class, but at borders."""
    source = open_source(SourceRequest(f"hf:{folder(model_type)}"))
    assert source.task == "segmentation"
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((1, 3, small.SIDE, small.SIDE), np.float32))
    with torch.no_grad():
        outputs = source.module(images)
    size = (100, 150)
    if model_type == "segformer":
        processor = transformers.SegformerImageProcessor()
        given = SimpleNamespace(logits=outputs[0])
    else:
        processor = transformers.Mask2FormerImageProcessor()
        given = SimpleNamespace(class_queries_logits=outputs[0], masks_queries_logits=outputs[1])
    (wanted,) = processor.post_process_semantic_segmentation(given, target_sizes=[size])
    spec = small.spec_of(source, outputs)
    rows = {name: rows[0].numpy() for name, rows in zip(source.outputs, outputs, strict=True)}
    found = semantic_map(spec, rows, size, spec.preprocess)
    assert np.mean(found == wanted.numpy()) > (0.9999 if model_type == "segformer" else 0.97)


def test_what_queries_are_read_as_is_the_users_choice(folder):
    place = f"hf:{folder('eomt')}"
    source = open_source(SourceRequest(place, task="panoptic_segmentation"))
    assert task_of(source).name == "panoptic_segmentation"
    assert source.outputs == ("class_logits", "mask_logits")
    assert len(source.labels) == small.NUM_CLASSES
    with pytest.raises(SpecError, match="expected segmentation or instance_segmentation or"):
        open_source(SourceRequest(place, task="classification"))


def test_a_model_without_its_head_gives_features(folder, tmp_path):
    config = json.loads((folder("dpt") / "config.json").read_text())
    config["architectures"] = ["DPTModel"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    halves = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    source = open_source(
        SourceRequest(f"hf:{tmp_path}", image_size=(64, 64), random_weights=True, **halves)
    )
    assert (source.task, source.labels) == ("features", ())
    width = config["hidden_size"]
    assert source.module(torch.zeros(2, 3, 64, 64)).shape == (2, width)
