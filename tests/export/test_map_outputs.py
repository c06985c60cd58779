"""Models whose output is a map: known by its shape or by the task, from ONNX and from torch."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge_vit.errors import SpecError
from edge_vit.export.export import export_model, golden_of
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.sources.map_outputs import is_map
from edge_vit.graph.exact import open_graph

SIZE = (24, 32)
SAID = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def write_onnx(path, *, channels=1, squeeze=False, batch="batch", vector=False):
    """Write a model of one convolution whose map is resized to a size that is found at run time."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((channels, 3, 8, 8)).astype(np.float32)
    zero, two, up = np.array([0]), np.array([2, 3]), np.array([1, 1, 2, 2], np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["grid"], strides=[8, 8]),
        helper.make_node("Resize", ["grid", "", "up"], ["large"], mode="linear"),
        helper.make_node("Sigmoid", ["large"], ["heat"]),
    ]
    outputs = [helper.make_tensor_value_info("heat", TensorProto.FLOAT, [batch, "a", "b", "c"])]
    if squeeze:
        nodes.append(helper.make_node("Squeeze", ["heat", "one"], ["flat"]))
        outputs = [helper.make_tensor_value_info("flat", TensorProto.FLOAT, [batch, "b", "c"])]
    if vector:
        nodes.append(helper.make_node("GlobalAveragePool", ["grid"], ["mean"]))
        info = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, channels, 1, 1])
        outputs.insert(0, info)
    graph = helper.make_graph(
        nodes,
        "map",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *SIZE])],
        outputs,
        [
            numpy_helper.from_array(value, name)
            for name, value in {
                **{"w": weights, "up": up, "zero": zero, "two": two},
                "one": np.array([1]),
            }.items()
        ],
    )
    opset = helper.make_opsetid("", 14)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def exported(address, **said):
    return export_model(SourceRequest(address, image_size=SIZE, **{**SAID, **said}))


@pytest.mark.parametrize(
    ("form", "shape", "name"),
    [
        ({}, (1, 6, 8), "heat"),
        ({"squeeze": True}, (6, 8), "flat"),
        ({"channels": 4}, (4, 6, 8), "heat"),
        ({"batch": 1}, (1, 6, 8), "heat"),
    ],
)
def test_a_map_in_a_file_is_seen_by_its_shape(tmp_path, form, shape, name):
    path = write_onnx(tmp_path / "tiny.onnx", **form)
    found = exported(f"onnx:{path}")
    assert (found.spec.task, found.spec.activation) == ("dense", "none")
    (output,) = found.spec.outputs
    assert (output.name, output.shape[1:]) == (name, shape)
    assert found.spec.num_outputs == form.get("channels", 1)
    assert found.spec.preprocess.crop_mode == "squash"
    assert found.outputs.shape == (5, *shape)
    session = open_graph(found.fp32)
    feed = {session.get_inputs()[0].name: found.images[:1]}
    np.testing.assert_allclose(session.run([name], feed)[0], found.outputs[:1], atol=1e-6)


def test_a_vector_beside_a_map_goes_first_unless_the_task_is_said(tmp_path, caplog):
    path = write_onnx(tmp_path / "tiny.onnx", channels=4, vector=True)
    assert exported(f"onnx:{path}").spec.task == "classification"
    found = exported(f"onnx:{path}", task="dense")
    assert found.spec.outputs[0].shape == ("batch", 4, 6, 8)
    assert "left out: mean. For one of them add --output-name NAME" in caplog.text


def test_the_output_to_take_may_be_named(tmp_path):
    path = write_onnx(tmp_path / "tiny.onnx", channels=4, vector=True)

    def task_of(name):
        facts = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "output_name": name}
        return open_source(SourceRequest(f"onnx:{path}", **facts)).task

    assert task_of("mean") == "classification"
    assert task_of("heat") == "dense"
    with pytest.raises(SpecError, match=r"--output-name haet: .* gives .*Did you mean heat\?"):
        task_of("haet")


def test_a_stated_map_that_is_none_is_refused(tmp_path):
    path = write_onnx(tmp_path / "tiny.onnx", channels=4, vector=True)
    model = onnx.load(path)
    del model.graph.output[1:]
    onnx.save(model, path)
    with pytest.raises(SpecError, match=r"--task dense: .* gives .*expected a map .*24 x 32"):
        exported(f"onnx:{path}", task="dense")


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [
        ((1, 24, 32), True),
        ((1, 150, 6, 8), True),
        ((1, 1, 3, 4), True),
        ((1, 24, 24), False),
        ((1, 12, 192), False),  # tokens
        ((1, 10, 1, 1), False),
        ((1, 10), False),
        ((1, 3, 5, 6, 8), False),
    ],
)
def test_sides_like_those_of_the_image_make_a_map(shape, is_one):
    assert is_map(shape, SIZE) is is_one


def test_a_grid_whose_narrow_side_is_cut_off_is_a_map():
    """Of 500 x 100 pixels in patches of 16, 4 columns are in none."""
    assert is_map((1, 31, 6), (500, 100))


def test_classes_that_are_chosen_in_the_file_are_refused(tmp_path):
    write_onnx(tmp_path / "m.onnx", channels=4)
    model = onnx.load(tmp_path / "m.onnx")
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node("ArgMax", [output.name], ["mask"], axis=1, keepdims=0))
    mask = helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", 24, 32])
    model.graph.output[0].CopyFrom(mask)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(SpecError, match=r"gives mask int64, expected a map of floats.*an ArgMax"):
        exported(f"onnx:{tmp_path / 'm.onnx'}", task="segmentation")


@pytest.mark.parametrize(("side", "count"), [(64, 5), (1024, 4), (2048, 2)])
def test_large_maps_of_few_images_stay_in_the_bundle(tmp_path, side, count):
    small = exported(f"onnx:{write_onnx(tmp_path / 'tiny.onnx')}")
    first, second = np.zeros((2, 5, 1, side, side), np.float32)
    found = golden_of(dataclasses.replace(small, outputs=first, further={"second": second}))
    kept = (found.images, found.outputs, found.further["second"])
    assert {len(each) for each in kept} == {count}


class Depths(torch.nn.Module):
    """A patch embedding whose brightness is the map, beside other tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 2, 8, 8)

    def forward(self, images):
        grid = self.patches(images)
        return {"hidden": grid.flatten(2), "heat": grid, "pooled": grid.mean((2, 3))}


def test_a_map_of_a_module_is_taken_by_its_task(monkeypatch):
    module = types.ModuleType("tiny_maps")
    module.make = Depths
    monkeypatch.setitem(sys.modules, "tiny_maps", module)
    found = exported("python:tiny_maps:make", task="dense")
    assert [(each.name, each.shape) for each in found.spec.outputs] == [
        ("heat", ("batch", 2, 3, 4))
    ]
    assert found.spec.preprocess.crop_mode == "squash"
