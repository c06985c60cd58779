"""``onnx:`` files: what a graph tells, what the user has to say, and every refusal."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources import OnnxSource, SourceRequest, open_source
from edge_vit.spec import PreprocessSpec

HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
NCHW = ("batch", 3, 8, 8)
NHWC = ("batch", 8, 8, 3)


def make(path, *, shape=NCHW, dtype=TensorProto.FLOAT, outputs=(("scores", ("batch", 3)),), **kept):
    """Write a graph that averages each channel; `kept` changes weights, inputs, or how to save."""
    weights = [numpy_helper.from_array(kept.get("bias", np.zeros(3, np.float32)), "bias")]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=kept.get("inside", TensorProto.FLOAT)),
        helper.make_node("GlobalAveragePool", ["floats"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        *(helper.make_node("Add", ["flat", "bias"], [name]) for name, *_ in outputs),
    ]
    images = helper.make_tensor_value_info("pixels", dtype, shape)
    graph = helper.make_graph(
        nodes,
        "averages",
        [images, *kept.get("more_inputs", [])],
        [helper.make_tensor_value_info(*output_info(output)) for output in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, path, **kept.get("save", {}))
    return path


def output_info(output):
    name, shape, *dtype = output
    return name, dtype[0] if dtype else TensorProto.FLOAT, shape


def open_file(path, **said):
    return open_source(SourceRequest(f"onnx:{path}", **{**HALVES, **said}))


def test_reads_image_size_names_and_classes_from_the_graph(tmp_path):
    source = open_file(make(tmp_path / "net.onnx"), labels=("a", "b", "c"))
    assert isinstance(source, OnnxSource)
    assert source.preprocess == PreprocessSpec((8, 8), **HALVES)
    assert (source.name, source.task, source.labels) == ("net", "classification", ("a", "b", "c"))
    assert (source.input_name, source.output_name) == ("pixels", "scores")
    assert not source.is_contract


def test_edge_vits_own_input_needs_no_mean_and_std(tmp_path):
    path = make(tmp_path / "net.onnx", shape=NHWC, dtype=TensorProto.UINT8)
    source = open_source(SourceRequest(f"onnx:{path}"))
    assert source.is_contract
    assert source.preprocess.image_size == (8, 8)
    assert (source.preprocess.mean, source.preprocess.std) == ((0, 0, 0), (1, 1, 1))


def test_no_classes_say_features(tmp_path):
    source = open_file(make(tmp_path / "net.onnx"), num_classes=0)
    assert (source.task, source.labels) == ("features", ())


def test_a_dynamic_image_size_is_the_users_to_say(tmp_path):
    path = make(tmp_path / "net.onnx", shape=("batch", 3, "height", "width"))
    assert open_file(path, image_size=(16, 24)).preprocess.image_size == (16, 24)
    with pytest.raises(SpecError, match=r"Add --image-size 224 \("):
        open_file(path)


def test_takes_the_first_output_and_says_so(tmp_path, caplog):
    outputs = [("scores", ("batch", 3)), ("extra", ("batch", 3))]
    with caplog.at_level(logging.WARNING):
        source = open_file(make(tmp_path / "net.onnx", outputs=outputs))
    assert source.output_name == "scores"
    assert [output.name for output in source.model.graph.output] == ["scores"]
    assert "output scores is used, left out: extra" in caplog.text


def test_tokens_beside_the_pooled_features_are_left_out(tmp_path, caplog):
    outputs = [("last_hidden_state", ("batch", 5, 3)), ("pooler_output", ("batch", 3))]
    source = open_file(make(tmp_path / "net.onnx", outputs=outputs), num_classes=0)
    assert source.output_name == "pooler_output"
    assert "output pooler_output is used, left out: last_hidden_state" in caplog.text


def test_float16_becomes_float32_with_the_same_weights_and_a_warning(tmp_path, caplog):
    bias = np.array([0.1, -2, 3e4], np.float16)
    half = TensorProto.FLOAT16
    scores = ("scores", ("batch", 3), half)
    path = make(tmp_path / "net.onnx", dtype=half, inside=half, bias=bias, outputs=[scores])
    source = open_file(path)
    (weight,) = map(numpy_helper.to_array, source.model.graph.initializer)
    assert weight.dtype == np.float32
    assert (weight == bias).all()
    assert "1 weights are float16 or bfloat16; fp32 is made of them" in caplog.text
    onnx.checker.check_model(source.model, full_check=True)


def test_weights_beside_the_file_are_read(tmp_path):
    save = {"save_as_external_data": True, "size_threshold": 0, "location": "net.data"}
    path = make(tmp_path / "net.onnx", bias=np.arange(3, dtype=np.float32), save=save)
    source = open_file(path)
    assert numpy_helper.to_array(source.model.graph.initializer[0]).tolist() == [0, 1, 2]
    (tmp_path / "net.data").unlink()
    with pytest.raises(
        ArtifactError, match=r"keeps its weights in 'net.data', which is not beside"
    ):
        open_file(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "C:\\secret", "sub/../../x"])
def test_refuses_weights_outside_the_files_folder(tmp_path, location):
    save = {"save_as_external_data": True, "size_threshold": 0, "location": "net.data"}
    path = make(tmp_path / "net.onnx", save=save)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"keeps tensor bias in .* expected a file beside it"):
        open_file(path)


def test_refuses_a_link_that_leads_out_of_the_folder(tmp_path):
    save = {"save_as_external_data": True, "size_threshold": 0, "location": "net.data"}
    (tmp_path / "model").mkdir()
    path = make(tmp_path / "model" / "net.onnx", save=save)
    (tmp_path / "model" / "net.data").replace(tmp_path / "elsewhere")
    (tmp_path / "model" / "net.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"keeps tensor bias in 'net.data'"):
        open_file(path)


TWO = [helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1,))]


@pytest.mark.parametrize(
    ("graph", "said", "error", "message"),
    [
        ({"shape": NHWC}, {}, SpecError, r"got float32 \(batch, 8, 8, 3\), expected one input"),
        ({"dtype": TensorProto.DOUBLE}, {}, SpecError, r"got float64 \(batch, 3, 8, 8\)"),
        ({"dtype": TensorProto.UINT8}, {}, SpecError, r"got uint8 \(batch, 3, 8, 8\), expected"),
        ({"shape": ("b", 2, 8, 8)}, {}, SpecError, r"got float32 \(b, 2, 8, 8\), expected"),
        ({"shape": ("b", 3, 8)}, {}, SpecError, r"got float32 \(b, 3, 8\), expected"),
        ({"more_inputs": TWO}, {}, SpecError, "has 2 inputs .pixels: float32.* mask: float32"),
        ({"outputs": [("s", ("b", 3, 1))]}, {}, SpecError, r"got 's' float32 \(b, 3, 1\)"),
        ({"outputs": [("s", ("b", "c"))]}, {}, SpecError, "Add --num-classes N"),
        ({}, {"num_classes": 5}, SpecError, "has 3 classes, but 5 classes were given"),
        ({}, {"labels": ("a",)}, SpecError, "has 3 classes, but 1 labels were given"),
        ({}, {"image_size": (9, 9)}, SpecError, r"got \(9, 9\), but .* is made for \(8, 8\)"),
        ({}, {"mean": None}, SpecError, r"Add --mean 0.485,0.456,0.406 \(.*0.5,0.5,0.5"),
        ({}, {"random_weights": True}, SpecError, "--random-weights: .* leave it out"),
        ({}, {"model_args": {"depth": 2}}, SpecError, "--model-arg: .* leave it out"),
        ({"bias": np.array([1, np.nan, np.nan], np.float32)}, {}, ArtifactError, "NaN: 2 val"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_image_model(tmp_path, graph, said, error, message):
    path = make(tmp_path / "net.onnx", **graph)
    with pytest.raises(error, match=message) as caught:
        open_file(path, **said)
    assert "\n" not in str(caught.value)


def test_an_unknown_number_of_classes_is_the_users_to_say(tmp_path):
    path = make(tmp_path / "net.onnx", outputs=[("s", ("b", "c"))])
    assert open_file(path, labels=("a", "b", "c")).labels == ("a", "b", "c")


def test_infinity_in_an_attention_mask_is_no_damage(tmp_path):
    bias = np.array([0, -np.inf, 0], np.float32)
    assert open_file(make(tmp_path / "net.onnx", bias=bias)).name == "net"


@pytest.mark.parametrize("kept", [0.9, 0.5, 0])
def test_refuses_a_truncated_file(tmp_path, kept):
    path = make(tmp_path / "net.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ArtifactError, match=r"net.onnx is not a valid ONNX model"):
        open_file(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"absent.onnx: no such file"):
        open_file(tmp_path / "absent.onnx")
