"""Weights in several files are read by their index; files of other programs are named."""

from __future__ import annotations

import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint import fill
from tests.export.checkpoint.small_net import WEIGHTS, Net, holds


def write_shards(folder):
    names = list(WEIGHTS)
    parts = {"a.safetensors": names[:4], "b.safetensors": names[4:]}
    for file, members in parts.items():
        safetensors.torch.save_file({name: WEIGHTS[name] for name in members}, folder / file)
    shards = {name: file for file, members in parts.items() for name in members}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return index


@pytest.mark.parametrize("as_folder", [False, True])
def test_weights_in_several_files_are_read_by_their_index(tmp_path, as_folder):
    index, net = write_shards(tmp_path), Net()
    fill(net, tmp_path if as_folder else index)
    assert holds(net.state_dict(), WEIGHTS)


def test_a_missing_file_of_several_is_named(tmp_path):
    index = write_shards(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"1 of 2 files are missing beside it: b.safetensors$"):
        fill(Net(), index)


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": {"a": "../x"}}', '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ArtifactError, match="is no index of weights"):
        fill(Net(), index)


FOREIGN = {
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
    "gguf": (b"GGUF" + bytes(20), "a GGUF file"),
    "npy": (b"\x93NUMPY\x01\x00v", "a NumPy array"),
    "web-page": (b"<!DOCTYPE html><html>", "a web page"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip"),
}


@pytest.mark.parametrize(("data", "message"), FOREIGN.values(), ids=FOREIGN)
def test_files_of_other_programs_are_named(tmp_path, data, message):
    path = tmp_path / "weights.bin"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        fill(Net(), path)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_module_is_named(tmp_path):
    path = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(ArtifactError, match=r"is a scripted module .*torch.jit.load"):
        fill(nn.Linear(2, 2), path)


def test_a_numpy_archive_and_a_folder_of_none_are_named(tmp_path):
    np.savez(tmp_path / "jax.npz", kernel=np.ones(3))
    with pytest.raises(ArtifactError, match=r"is a NumPy archive.*load_pretrained"):
        fill(Net(), tmp_path / "jax.npz")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("run/best.pth", b"0")
    with pytest.raises(ArtifactError, match=r"zip archive, unpack it first: it has run/best.pth"):
        fill(Net(), tmp_path / "packed.zip")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pth").touch()
    with pytest.raises(ArtifactError, match=r"Did you mean .*run/best.pth\?"):
        fill(Net(), tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"is a folder without model.safetensors or pytorch_"):
        fill(Net(), tmp_path / "empty")


def test_a_plain_pickle_of_arrays_is_read_and_one_of_tensors_is_named(tmp_path):
    path, net = tmp_path / "weights.pkl", Net()
    path.write_bytes(pickle.dumps({name: value.numpy() for name, value in WEIGHTS.items()}))
    fill(net, path)
    assert holds(net.state_dict(), WEIGHTS)
    path.write_bytes(pickle.dumps(WEIGHTS))
    with pytest.raises(ArtifactError, match=r"pickle.dump wrote, not torch.save"):
        fill(net, path)


def test_an_exported_program_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/models/model.json", "{}")
    with pytest.raises(ArtifactError, match=r"is an exported program \(torch.export\)"):
        fill(Net(), tmp_path / "net.pt2")
