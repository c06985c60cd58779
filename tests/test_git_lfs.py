"""A Git LFS pointer is named as one wherever a user's file is opened, whatever its suffix."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from graph_files import FP32
from tiny_graph import tiny_bundle

from edge_vit.bundle import Bundle
from edge_vit.data.class_names import read_labels
from edge_vit.data.images import load_image, open_image_source
from edge_vit.errors import ArtifactError, EdgeVitError, ImageError
from edge_vit.export.checkpoint import read_stored
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.sources.onnx_file import read_graph
from edge_vit.git_lfs import is_lfs_pointer, refuse_lfs_pointer
from edge_vit.report.saved import read_json
from edge_vit.runtime.trt.store import read_sidecar
from edge_vit.training.checkpoint import load_checkpoint

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)
MESSAGE = r"is a Git LFS pointer, not the file itself\. Run: git lfs pull"


def first_of(source):
    return next(iter(open_image_source(source)))


READERS = {
    "weights.safetensors": read_stored,
    "weights.pth": read_stored,
    "weights.pt": read_stored,
    "weights.bin": read_stored,
    "weights.ckpt": read_stored,
    "model.safetensors.index.json": read_stored,
    "trained.safetensors": load_checkpoint,
    "model.onnx": read_graph,
    "labels.txt": read_labels,
    "labels.json": read_labels,
    "photo.jpg": load_image,
    "photo.png": load_image,
    "list.txt": first_of,
    "table.csv": first_of,
    "images.npy": first_of,
    "images.npz": first_of,
    "clip.mp4": first_of,
    "report.json": read_json,
    "model.engine.json": read_sidecar,
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_a_pointer(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(POINTER)
    with pytest.raises(EdgeVitError, match=MESSAGE) as error:
        READERS[name](path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_pointer_in_place_of_external_data_is_named(tmp_path):
    tensor = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    onnx.save(
        onnx.helper.make_model(graph),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    (tmp_path / "m.data").write_bytes(POINTER)
    with pytest.raises(ArtifactError, match=f"m.data {MESSAGE}"):
        read_graph(tmp_path / "m.onnx")


def test_a_pointer_in_a_bundle_is_not_taken_for_an_edit(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny.edgevit")
    (bundle.path / FP32).write_bytes(POINTER)
    with pytest.raises(ArtifactError, match=f"{FP32} {MESSAGE}"):
        Bundle.open(bundle.path).read(FP32)


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("hf", "config.json"),
        ("hf", "model.safetensors"),
        ("hf", "preprocessor_config.json"),
        ("timm", "config.json"),
        ("timm", "model.safetensors"),
    ],
)
def test_a_pointer_in_a_folder_of_weights_is_named(tmp_path, scheme, name):
    config = {"model_type": "vit", "architectures": ["ViTModel"]}
    if scheme == "timm":
        config = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(EdgeVitError, match=f"{name} {MESSAGE}"):
        open_source(SourceRequest(f"{scheme}:{tmp_path}"))


def test_older_pointers_are_known_and_text_is_none(tmp_path):
    assert is_lfs_pointer(b"version https://hawser.github.com/spec/v1\n")
    assert not is_lfs_pointer(b"version 1.0\n")
    refuse_lfs_pointer(tmp_path / "absent")
    (tmp_path / "text").write_bytes(b"ver")
    refuse_lfs_pointer(tmp_path / "text")


def test_a_photograph_that_is_damaged_otherwise_is_no_pointer(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"version 2")
    with pytest.raises(ImageError, match="is not a JPEG"):
        load_image(tmp_path / "photo.jpg")
