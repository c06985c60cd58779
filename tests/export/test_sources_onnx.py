"""``onnx:`` files: what a graph tells, what the user has to say, and every refusal."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources import OnnxSource, SourceRequest, open_source
from edge_vit.export.sources.onnx_file import refuse_quantized
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
        *kept.get("more_nodes", []),
    ]
    images = helper.make_tensor_value_info("pixels", dtype, shape)
    graph = helper.make_graph(
        nodes,
        "averages",
        [images, *kept.get("more_inputs", [])],
        [
            helper.make_tensor_value_info(*output_info(output))
            for output in kept.get("given", outputs)
        ],
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
    assert (source.input_name, source.model.graph.output[0].name) == ("pixels", "scores")
    assert not source.is_contract


def test_edge_vits_own_input_needs_no_mean_and_std(tmp_path):
    path = make(tmp_path / "net.onnx", shape=NHWC, dtype=TensorProto.UINT8)
    source = open_source(SourceRequest(f"onnx:{path}"))
    assert source.is_contract
    assert source.preprocess.image_size == (8, 8)
    assert (source.preprocess.mean, source.preprocess.std) == ((0, 0, 0), (1, 1, 1))
    with pytest.raises(SpecError, match=r"--mean: .* by itself, leave it out"):
        open_source(SourceRequest(f"onnx:{path}", **HALVES))


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
    assert source.model.graph.output[0].name == "scores"
    assert [output.name for output in source.model.graph.output] == ["scores"]
    assert "output scores is used, left out: extra" in caplog.text


TOP = [
    helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([2]), "k")),
    helper.make_node("TopK", ["scores", "two"], ["best", "places"]),
    helper.make_node("Softmax", ["best"], ["shares"]),
    helper.make_node("ArgMax", ["scores"], ["index"], axis=1),
]
PLACES = ("places", ("batch", 2), TensorProto.INT64)
SHARES = ("shares", ("batch", 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([SHARES, PLACES], "output 'shares' comes from TopK"),
        ([("index", ("batch", 1), TensorProto.INT64)], "output 'index' comes from ArgMax"),
    ],
    ids=["best two", "the best"],
)
def test_what_is_chosen_among_scores_is_no_score_of_a_class(tmp_path, given, message):
    with pytest.raises(SpecError, match=message):
        open_file(make(tmp_path / "net.onnx", more_nodes=TOP, given=given))


def test_scores_beside_what_is_chosen_among_them_are_taken(tmp_path):
    given = [SHARES, ("scores", ("batch", 3))]
    assert (
        open_file(make(tmp_path / "n.onnx", more_nodes=TOP, given=given)).model.graph.output[0].name
        == "scores"
    )


@pytest.mark.parametrize("rank", [1, 4])
def test_an_output_with_dimensions_of_one_is_flattened(tmp_path, rank):
    first = helper.make_node("Slice", ["scores", "zero", "end", "axis"], ["cut"])
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(v), name))
        for name, v in {"zero": [0], "end": [1], "axis": [1], "places": [2, 3]}.items()
    ]
    last = {
        1: [first, helper.make_node("Squeeze", ["cut", "axis"], ["out"])],
        4: [helper.make_node("Unsqueeze", ["scores", "places"], ["out"])],
    }[rank]
    given = [("out", {1: ("batch",), 4: ("batch", 3, 1, 1)}[rank])]
    path = make(tmp_path / "net.onnx", more_nodes=[*constants, *last], given=given)
    source = open_file(path)
    session = ort.InferenceSession(source.model.SerializeToString())
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    scores = images.mean((2, 3))[:, : {1: 1, 4: 3}[rank]]
    (found,) = session.run([source.model.graph.output[0].name], {source.input_name: images})
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_tokens_beside_the_pooled_features_are_left_out(tmp_path, caplog):
    outputs = [("last_hidden_state", ("batch", 5, 3)), ("pooler_output", ("batch", 3))]
    source = open_file(make(tmp_path / "net.onnx", outputs=outputs), num_classes=0)
    assert source.model.graph.output[0].name == "pooler_output"
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
    assert "1 weights are float16; fp32 is made of them" in caplog.text
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


def hub_cache(tmp_path, blob="net", data="net.data"):
    """Write a file with its weights beside it as the cache of a hub keeps them; return the link."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "r" / "onnx"
    snapshot.mkdir(parents=True)
    save = {"save_as_external_data": True, "size_threshold": 0, "location": "net.data"}
    path = make(tmp_path / "blobs" / "made.onnx", bias=np.arange(3, dtype=np.float32), save=save)
    path.replace(tmp_path / "blobs" / blob)
    (tmp_path / "blobs" / "net.data").replace(tmp_path / "blobs" / data)
    (snapshot / "net.onnx").symlink_to(f"../../../blobs/{blob}")
    (snapshot / "net.data").symlink_to(f"../../../blobs/{data}")
    return snapshot / "net.onnx"


@pytest.mark.parametrize(("blob", "data"), [("net.onnx", "net.data"), ("4f5e", "a1b2")])
def test_links_of_a_hub_cache_are_followed(tmp_path, blob, data):
    source = open_file(hub_cache(tmp_path, blob, data))
    assert numpy_helper.to_array(source.model.graph.initializer[0]).tolist() == [0, 1, 2]


def test_a_link_of_a_hub_cache_must_lead_where_the_file_itself_does(tmp_path):
    link = hub_cache(tmp_path)
    (tmp_path / "elsewhere").write_bytes(bytes(12))
    (link.parent / "net.data").unlink()
    (link.parent / "net.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"keeps tensor bias in 'net.data', expected a f"):
        open_file(link)


def test_refuses_weights_beside_the_file_that_end_early(tmp_path):
    save = {"save_as_external_data": True, "size_threshold": 0, "location": "net.data"}
    path = make(tmp_path / "net.onnx", save=save)
    data = (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").write_bytes(data[:-1])
    with pytest.raises(ArtifactError, match=r"tensor bias in 'net.data', which ends before it: 11"):
        open_file(path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = {"length": "4000000000"}.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="4000000000 bytes long, expected 12: the file is dama"):
        open_file(path)


TWO = [helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1,))]


@pytest.mark.parametrize(
    ("graph", "said", "error", "message"),
    [
        ({"shape": ("batch", 8, 8, 4)}, {}, SpecError, r"got float32 \(batch, 8, 8, 4\), exp"),
        ({"dtype": TensorProto.INT32}, {}, SpecError, r"got int32 \(batch, 3, 8, 8\)"),
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
    with pytest.raises(ArtifactError, match=r"net.onnx is (not a valid ONNX model|empty)"):
        open_file(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"absent.onnx: no such file"):
        open_file(tmp_path / "absent.onnx")


def test_a_dropout_in_training_mode_passes_its_input_on(tmp_path):
    path = make(tmp_path / "net.onnx")
    model = onnx.load(path)
    for name, array in {"ratio": np.float32(0.5), "on": np.bool_(True)}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    dropout = helper.make_node("Dropout", ["flat", "ratio", "on"], ["kept"])
    model.graph.node.insert(3, dropout)
    model.graph.node[4].input[0] = "kept"
    onnx.save(model, path)
    session = ort.InferenceSession(open_file(path).model.SerializeToString())
    pixels = np.ones((1, 3, 8, 8), np.float32)
    assert session.run(None, {"pixels": pixels})[0].tolist() == [[1, 1, 1]]


def quantize_linear():
    return [
        helper.make_node("QuantizeLinear", ["flat", "scale"], ["levels"], name="in/q"),
        helper.make_node("DequantizeLinear", ["levels", "scale"], ["back"]),
    ]


def dynamic():
    return [
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["levels", "s", "z"]),
        helper.make_node("MatMulInteger", ["levels", "weight", "z"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["back"], to=TensorProto.FLOAT),
    ]


def weights_alone():
    return [
        helper.make_node("Cast", ["weight"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["flat", "floats"], ["back"]),
    ]


def in_a_branch():
    branches = {
        name: helper.make_graph(
            quantize_linear()
            if name == "then_branch"
            else [helper.make_node("Identity", ["flat"], ["back"])],
            name,
            [],
            [helper.make_tensor_value_info("back", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    return [helper.make_node("If", ["yes"], ["result"], **branches)]


def of_one_runtime(op_type):
    return lambda: [helper.make_node(op_type, ["flat", "weight"], ["back"], domain="com.microsoft")]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (quantize_linear, r"INT8 already \(QuantizeLinear at node 'in/q' and 1 more\)\. Give th"),
        (dynamic, r"is INT8 already \(DynamicQuantizeLinear at node 'levels' and 1 more\)"),
        (weights_alone, r"is INT8 already \(weight 'weight'\)"),
        (in_a_branch, "is INT8 already .QuantizeLinear at node 'in/q' and 1 more"),
        *((of_one_runtime(op), f"INT8 already .{op} at node 'back'") for op in
          ("QAttention", "QLinearAdd", "MatMulIntegerToFloat", "MatMulNBits", "QGemm")),
    ],
)  # fmt: skip
def test_refuses_what_is_quantized_already(nodes, message):
    made = nodes()
    constants = {
        "scale": np.float32(0.1),
        "weight": np.array([[1, 2, 3]] * 3, np.int8),
        "yes": np.bool_(True),
    }
    used = {name for node in made for name in node.input}
    graph = helper.make_graph(
        made,
        "q",
        [helper.make_tensor_value_info("flat", TensorProto.FLOAT, ("n", 3))],
        [helper.make_tensor_value_info(made[-1].output[0], TensorProto.FLOAT, ("n", 3))],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items() if n in used],
    )
    with pytest.raises(SpecError, match=message):
        refuse_quantized(helper.make_model(graph), "onnx:q.onnx")


def test_a_mask_of_bytes_is_no_quantized_weight():
    mask = numpy_helper.from_array(np.array([[0, 1], [1, 0]], np.uint8), "mask")
    refuse_quantized(helper.make_model(helper.make_graph([], "m", [], [], [mask])), "onnx:m.onnx")
