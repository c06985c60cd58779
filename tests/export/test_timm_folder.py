"""Folders that timm saved: architecture, classes, labels and preprocessing are their own."""

from __future__ import annotations

import json
import shutil

import pytest
import timm
import torch
from timm.models import save_for_hf

from edge_vit.errors import ArtifactError, EdgeVitError, SpecError
from edge_vit.export.sources import SourceRequest, open_source

SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 3, "img_size": 64}
LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SMALL, num_classes=3).eval()


@pytest.fixture
def folder(tmp_path, model):
    save_for_hf(
        model,
        tmp_path / "pets",
        model_config={"label_names": list(LABELS)},
        model_args=SMALL,
        data_config={"mean": (0.1, 0.2, 0.3), "crop_pct": 1.0},
    )
    return tmp_path / "pets"


def open_address(address, **said):
    return open_source(SourceRequest(str(address), **said))


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("scheme", ["timm:", "timm:local-dir:", "hf:"])
def test_everything_comes_from_the_folder(folder, model, scheme):
    source = open_address(f"{scheme}{folder}")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(source.module(images), model(images))
    assert (source.labels, source.task, source.name) == (LABELS, "classification", "pets")
    assert source.preprocess.image_size == (64, 64)
    assert source.preprocess.mean == (0.1, 0.2, 0.3)
    assert source.preprocess.crop_pct == 1.0


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path, folder, model):
    cache = tmp_path / "models--someone--pets"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    for file in folder.iterdir():
        shutil.move(file, cache / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    for place in (snapshot, cache):
        source = open_address(f"timm:{place}")
        assert torch.equal(source.module.norm.weight, model.norm.weight)
        assert source.labels == LABELS


def test_the_users_word_goes_over_the_folders(folder, model):
    source = open_address(f"timm:{folder}", num_classes=0, image_size=(96, 96))
    assert (source.task, source.labels) == ("features", ())
    assert source.preprocess.image_size == (96, 96)
    assert open_address(f"timm:{folder}", labels=("a", "b", "c")).labels == ("a", "b", "c")


def test_another_checkpoint_goes_over_the_folders(tmp_path, folder, model):
    torch.save({"model": {k: v + 1 for k, v in model.state_dict().items()}}, tmp_path / "new.pth")
    source = open_address(f"timm:{folder}", checkpoint=tmp_path / "new.pth")
    assert torch.equal(source.module.norm.weight, model.norm.weight + 1)
    assert source.weights == "weights of model"


def test_labels_may_be_described_and_given_by_index(folder):
    edit(
        folder,
        label_names={"0": "n01", "1": "n02", "2": "n03"},
        label_descriptions={"n01": "house cat, domestic cat", "n02": "dog"},
    )
    assert open_address(f"timm:{folder}").labels == ("house cat", "dog", "n03")


def test_transformers_wrapper_of_a_timm_model_is_read_too(folder, model):
    edit(folder, model_type="timm_wrapper")
    weights = {f"timm_model.{name}": value for name, value in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    source = open_address(f"hf:{folder}")
    assert torch.equal(source.module.norm.weight, model.norm.weight)


REFUSED = {
    "no-config": (lambda f: (f / "config.json").unlink(), SpecError, 'names no "architecture"'),
    "no-weights": (
        lambda f: (f / "pytorch_model.bin").unlink(),
        SpecError,
        "Add --checkpoint FILE",
    ),
    "bad-json": (lambda f: (f / "config.json").write_text("{"), SpecError, "not a valid JSON"),
    "a-list": (lambda f: (f / "config.json").write_text("[]"), SpecError, "holds a list"),
    "unknown": (lambda f: edit(f, architecture="vit_new"), SpecError, "no model 'vit_new'"),
    "cut": (
        lambda f: (f / "pytorch_model.bin").write_bytes(b"PK\x03\x04"),
        ArtifactError,
        "corrupt or truncated",
    ),
    "bad-argument": (
        lambda f: edit(f, model_args={"img_size": [1]}),
        SpecError,
        "timm cannot make vit_tiny_patch16_224 with img_size=",
    ),
    "bad-mean": (
        lambda f: edit(f, pretrained_cfg={"mean": 0.5}, model_args={**SMALL}),
        SpecError,
        "config.json: its pretrained_cfg tells no preprocessing",
    ),
    "other-library": (
        lambda f: (f / "config.json").write_text('{"model_type": "vit"}'),
        SpecError,
        "export it as hf:",
    ),
}


@pytest.mark.parametrize(("harm", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_a_folder_that_is_no_whole_model_is_refused_in_one_line(folder, harm, kind, message):
    harm(folder)
    with pytest.raises(kind, match=message) as error:
        open_address(f"timm:{folder}")
    assert "\n" not in str(error.value)


def test_an_absent_folder_and_a_model_of_the_hub_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match=r"no such folder.*timm:hf-hub:OWNER/NAME"):
        open_address("timm:someone/pets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EdgeVitError, match=r"neither in the cache nor to be downloaded"):
        open_address("timm:hf-hub:someone/pets")
