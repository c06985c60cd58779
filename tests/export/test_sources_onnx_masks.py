"""Queries with masks in ONNX files are known by their names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest, open_source

QUERIES, COLUMNS, SIDE = 4, 6, 8
HALF = (0.5, 0.5, 0.5)


def write(path, names=("class_queries_logits", "masks_queries_logits"), boxes=False):
    """Write a graph whose queries look at the mean of the image, and whose masks at each cell."""
    random = np.random.default_rng(0)

    def weights(name, *shape):
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    initializers = [
        weights("mask_kernel", QUERIES, 3, 2, 2),
        weights("class_weight", 3, QUERIES * COLUMNS),
        weights("box_weight", 3, QUERIES * 4),
        numpy_helper.from_array(np.array([-1, QUERIES, COLUMNS], np.int64), "shape"),
        numpy_helper.from_array(np.array([-1, QUERIES, 4], np.int64), "box_shape"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "mask_kernel"], [names[1]], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "class_weight"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], [names[0]]),
    ]
    outputs = [(names[0], [QUERIES, COLUMNS]), (names[1], [QUERIES, SIDE // 2, SIDE // 2])]
    if boxes:
        nodes += [
            helper.make_node("MatMul", ["flat", "box_weight"], ["box_rows"]),
            helper.make_node("Sigmoid", ["box_rows"], ["shares"]),
            helper.make_node("Reshape", ["shares", "box_shape"], ["dets"]),
        ]
        outputs.insert(0, ("dets", [QUERIES, 4]))
    graph = helper.make_graph(
        nodes,
        "masks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in outputs
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return f"onnx:{path}"


def test_queries_of_transformers_names(tmp_path):
    address = write(tmp_path / "masks.onnx")
    labels = tuple("abcde")
    source = open_source(SourceRequest(address, mean=HALF, std=HALF, labels=labels))
    assert (source.task, source.activation) == ("segmentation", "softmax")
    assert source.outputs == ("class_logits", "mask_logits")
    assert source.labels == labels
    assert source.preprocess.crop_mode == "squash"
    assert any("--task for instance_segmentation" in remark for remark in source.remarks)
    stated = SourceRequest(
        address, mean=HALF, std=HALF, task="panoptic_segmentation", labels=labels
    )
    assert open_source(stated).task == "panoptic_segmentation"
    wrong = SourceRequest(address, mean=HALF, std=HALF, labels=("a", "b"))
    with pytest.raises(SpecError, match="has 5 classes, but 2 labels were given"):
        open_source(wrong)


def test_masks_of_rf_detr_go_before_its_boxes(tmp_path):
    address = write(tmp_path / "masks.onnx", ("labels", "masks"), boxes=True)
    source = open_source(SourceRequest(address, mean=HALF, std=HALF))
    assert (source.task, source.activation) == ("instance_segmentation", "sigmoid")
    assert [output.name for output in source.model.graph.output] == ["labels", "masks"]
    assert "left out: dets" in source.remarks
    boxes = SourceRequest(address, mean=HALF, std=HALF, task="detection")
    assert open_source(boxes).task == "detection"


def test_masks_are_exported_as_they_are(tmp_path):
    from edge_vit.export.export import export_model

    address = write(tmp_path / "masks.onnx")
    exported = export_model(SourceRequest(address, mean=HALF, std=HALF))
    assert [output.name for output in exported.spec.outputs] == ["class_logits", "mask_logits"]
    assert exported.spec.outputs[1].shape == ("batch", QUERIES, SIDE // 2, SIDE // 2)
