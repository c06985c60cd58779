"""ONNX files as people hold them: old opsets, open sizes, odd names; what parity must not miss."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_attentions import Attention, attend_by_torch, split_unbind
from small_vits import (
    CLASSES,
    DEPTH,
    SIZE,
    SPEC,
    SmallViT,
    export_legacy,
    small_source,
)

from edge_vit.errors import ArtifactError, ParityError, SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.export import export_model
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import SourceRequest
from edge_vit.graph import large
from edge_vit.graph.exact import locations_of, open_graph
from edge_vit.graph.sites import find_sites
from edge_vit.spec import IMAGENET_MEAN, IMAGENET_STD

SITES = 4 * DEPTH


@pytest.fixture(scope="module")
def source():
    return small_source()


def export_file(model: onnx.ModelProto, tmp_path):
    path = tmp_path / "vit.onnx"
    onnx.save(model, path)
    size = (SIZE, SIZE)
    request = SourceRequest(f"onnx:{path}", image_size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return export_model(request)


def count_sites(exported) -> int:
    return len(find_sites(ir.from_proto(onnx.load_from_string(exported.fp32)).graph))


def keep_names(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


def open_all_dimensions(model: onnx.ModelProto) -> onnx.ModelProto:
    for dim, name in zip(
        model.graph.input[0].type.tensor_type.shape.dim,
        ("batch", "channels", "height", "width"),
        strict=True,
    ):
        dim.dim_param = name
    del model.graph.value_info[:]
    return model


def list_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in model.graph.initializer
    )
    return model


def rename(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    for values in (model.graph.initializer, model.graph.value_info):
        for value in values:
            value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return model


def use_the_names_that_rewrites_use(model: onnx.ModelProto) -> onnx.ModelProto:
    weights = [w.name for w in model.graph.initializer]
    inner = [n.output[0] for n in model.graph.node][:-1]
    names = {name: f"const_{i}" for i, name in enumerate(weights)}
    return rename(model, {**names, **{name: f"value_{i}" for i, name in enumerate(inner)}})


def use_the_names_of_places(model: onnx.ModelProto) -> onnx.ModelProto:
    places = ("embed/Sub.1", "embed/Mul.1", "block0/qkv.1", "block0/fc1.1", "head/MatMul.1")
    weights = [w.name for w in model.graph.initializer]
    return rename(model, dict(zip(reversed(weights), places, strict=False)))


@pytest.mark.uncounted
@pytest.mark.parametrize(
    ("opset", "change"),
    [
        pytest.param(14, keep_names, id="opset 14"),
        pytest.param(20, keep_names, id="opset 20"),
        pytest.param(17, open_all_dimensions, id="every dimension open"),
        pytest.param(17, list_weights_as_inputs, id="weights listed as inputs"),
        pytest.param(20, use_the_names_that_rewrites_use, id="names that rewrites use"),
        pytest.param(20, use_the_names_of_places, id="names of other places"),
    ],
)
def test_exports_the_file_with_all_its_sites(source, tmp_path, opset, change):
    exported = export_file(change(export_legacy(source, opset)), tmp_path)
    graph = onnx.load_from_string(exported.fp32).graph
    assert [value.name for value in graph.input] == ["images"]
    assert count_sites(exported) == SITES
    assert exported.record.parity.spread > 100 * exported.record.parity.max_error


def behind(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Put `nodes`, which make ``seen`` of ``given``, in front of a model; return it."""
    name = model.graph.input[0].name
    model.graph.input[0].name = "given"
    for node in model.graph.node:
        node.input[:] = ["seen" if each == name else each for each in node.input]
    for index, node in enumerate(nodes):
        model.graph.node.insert(index, node)
    return model


def set_input(model: onnx.ModelProto, kind: int, *shape: int | str) -> onnx.ModelProto:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("given", kind, shape))
    return model


def take_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    node = helper.make_node("Transpose", ["given"], ["seen"], perm=(0, 3, 1, 2))
    return set_input(behind(model, node), TensorProto.FLOAT, "batch", "h", "w", 3)


def take_double(model: onnx.ModelProto) -> onnx.ModelProto:
    node = helper.make_node("Cast", ["given"], ["seen"], to=TensorProto.FLOAT)
    return set_input(behind(model, node), TensorProto.DOUBLE, "batch", 3, SIZE, SIZE)


def cast_weights_like_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    weights = {weight.name for weight in model.graph.initializer}
    for index, node in enumerate(list(model.graph.node)):
        if node.op_type in ("MatMul", "Mul", "Div") and node.input[1] in weights:
            cast = helper.make_node("CastLike", [node.input[1], node.input[0]], [f"cast{index}"])
            node.input[1] = cast.output[0]
            model.graph.node.insert(list(model.graph.node).index(node), cast)
    return model


def leave_shapes_out(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    return model


def write_any_batch_as_minus_one(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    return model


@pytest.mark.parametrize(
    "change",
    [
        *(take_channels_last, take_double, cast_weights_like_activations, leave_shapes_out),
        write_any_batch_as_minus_one,
    ],
)
def test_what_other_exporters_write_gives_the_same(source, tmp_path, change):
    plain = export_file(export_legacy(source, 17), tmp_path)
    exported = export_file(change(export_legacy(source, 17)), tmp_path)
    assert count_sites(exported) == SITES
    assert exported.record.notes == ()
    np.testing.assert_allclose(exported.outputs, plain.outputs, rtol=1e-5, atol=1e-5)


def test_pixels_with_their_channels_first_are_taken(source, tmp_path):
    nodes = [
        helper.make_node("Cast", ["given"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "share"], ["seen"]),
    ]
    model = behind(export_legacy(source, 17), *nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "share"))
    set_input(model, TensorProto.UINT8, "batch", 3, SIZE, SIZE)
    onnx.save(model, tmp_path / "vit.onnx")
    exported = export_model(SourceRequest(f"onnx:{tmp_path / 'vit.onnx'}"))
    assert count_sites(exported) == SITES
    assert "takes the channels of an image first" in exported.record.remarks[0]
    session = open_graph(model)
    wanted = session.run(None, {"given": exported.images.transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(exported.outputs, wanted, rtol=1e-4, atol=1e-5)


def test_names_the_operator_of_a_plug_in(source, tmp_path):
    model = export_legacy(source, 17)
    erf = next(node for node in model.graph.node if node.op_type == "Erf")
    erf.op_type, erf.domain, erf.name = "FastErf", "my.plugins", "the one"
    model.opset_import.append(helper.make_opsetid("my.plugins", 1))
    line = r"node 'the one' is my\.plugins\.FastErf, an operator of a plug-in\. Export"
    with pytest.raises(SpecError, match=line):
        export_file(model, tmp_path)


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"", r"is empty\. Fetch it again"), (b"PK\3\4" + 99 * b"0", "it is cut off, or something")],
)
def test_a_file_that_is_no_model_is_named(tmp_path, data, line):
    path = tmp_path / "vit.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=line):
        export_model(SourceRequest(f"onnx:{path}"))


def test_exports_attention_that_is_one_operator(tmp_path):
    attention = functools.partial(Attention, split_unbind, attend_by_torch)
    source = small_source(functools.partial(SmallViT, attention=attention))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            source.module,
            (torch.zeros(2, 3, SIZE, SIZE),),
            dynamo=True,
            opset_version=23,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    model = program.model_proto
    assert sum(node.op_type == "Attention" for node in model.graph.node) == DEPTH
    assert count_sites(export_file(model, tmp_path)) == SITES


def test_names_the_operators_of_one_runtime(source, tmp_path):
    model = export_legacy(source, 17)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type, softmax.domain = "QuickGelu", "com.microsoft"
    del softmax.attribute[:]
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(SpecError, match=r"uses com\.microsoft\.QuickGelu, which one runtime alone"):
        export_file(model, tmp_path)


def test_finds_the_attention_of_an_opset_that_flattened_softmax(source):
    model = make_canonical(export_legacy(source, 17), SPEC, "classification").model
    old = onnx.ModelProto()
    old.CopyFrom(model)
    graph = old.graph
    for softmax in [node for node in graph.node if node.op_type == "Softmax"]:
        shape = next(v for v in graph.value_info if v.name == softmax.input[0])
        dims = [d.dim_value for d in shape.type.tensor_type.shape.dim][1:]
        back = numpy_helper.from_array(np.array([-1, *dims], np.int64), f"{softmax.name}/back")
        graph.initializer.append(back)
        rows, flat, output = (f"{softmax.name}/{part}" for part in ("rows", "flat", "output"))
        nodes = [
            helper.make_node("Flatten", [softmax.input[0]], [rows], axis=3),
            helper.make_node("Softmax", [rows], [flat], axis=-1),
            helper.make_node("Reshape", [flat, back.name], [output]),
        ]
        index = list(graph.node).index(softmax)
        for node in list(graph.node)[index + 1 :]:
            node.input[:] = [output if name == softmax.output[0] else name for name in node.input]
        graph.node.remove(softmax)
        for offset, node in enumerate(nodes):
            graph.node.insert(index + offset, node)
    assert not find_sites(ir.from_proto(old).graph)
    again = make_canonical(old, SPEC, "classification", is_contract=True)
    assert (again.depth, again.notes) == (DEPTH, ())


def test_leaves_the_given_graph_as_it_was(source):
    given = export_legacy(source, 20)
    before = given.SerializeToString()
    make_canonical(given, SPEC, "classification")
    assert given.SerializeToString() == before


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write all of `model` in float16, as converters do."""
    graph = model.graph
    constants = [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for attribute in (a for n in graph.node for a in n.attribute if a.name == "to"):
        if attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    del graph.value_info[:]
    return model


def test_a_float16_file_is_exported_with_all_its_sites(source, tmp_path):
    halved = halve(export_legacy(source, 17))
    onnx.checker.check_model(halved, full_check=True)
    exported = export_file(halved, tmp_path)
    whole = export_file(export_legacy(source, 17), tmp_path)
    assert count_sites(exported) == SITES
    np.testing.assert_allclose(exported.outputs, whole.outputs, rtol=0.1, atol=0.05)
    assert (exported.outputs != whole.outputs).any()  # the weights are the file's, rounded


def in_one_file(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def in_a_file_each(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False)


def in_a_folder_below(model: onnx.ModelProto, path: Path) -> None:
    in_one_file(model, path)
    (path.parent / "weights").mkdir()
    (path.parent / "weights.bin").rename(path.parent / "weights" / "weights.bin")
    for entry in locations_of(model := onnx.load(path, load_external_data=False)):
        entry.value = "weights/weights.bin"
    onnx.save(model, path)


def in_float16(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(halve(model), path)


def in_float16_outside(model: onnx.ModelProto, path: Path) -> None:
    in_one_file(halve(model), path)


@pytest.mark.parametrize(
    "save", [in_one_file, in_a_file_each, in_a_folder_below, in_float16, in_float16_outside]
)
def test_a_file_over_the_limit_keeps_its_weights_outside(source, tmp_path, monkeypatch, save):
    path, size = tmp_path / "vit.onnx", (SIZE, SIZE)
    save(export_legacy(source, 17), path)
    request = SourceRequest(f"onnx:{path}", image_size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    whole = export_model(request)
    monkeypatch.setattr(large, "LIMIT", path.stat().st_size + 1000)
    exported = export_model(request)
    assert exported.weights is not None
    assert len(exported.fp32) < len(whole.fp32) / 5
    assert exported.spec == whole.spec
    np.testing.assert_array_equal(exported.outputs, whole.outputs)


def test_refuses_a_graph_of_other_types_in_one_line(source):
    with pytest.raises(SpecError) as refusal:
        make_canonical(halve(export_legacy(source, 17)), SPEC, "classification")
    assert "\n" not in str(refusal.value)


def test_a_fixed_batch_of_one_is_proven_on_every_image(source):
    fixed = make_canonical(export_legacy(source, 17, batch=1), SPEC, "classification")
    images = sample_photos(SPEC)
    parity, (outputs,) = check_parity(
        source, fixed.model.SerializeToString(), observe_reference(source, images, "photos", 1)
    )
    assert outputs.shape == (len(images), CLASSES)
    assert parity.spread > 100 * parity.max_error


def test_refuses_a_graph_that_gives_nan_where_the_model_does_not(source):
    graph = make_canonical(export_legacy(source, 17), SPEC, "classification").model
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    last = broken.graph.node[-1]
    inner, zero = "head/inner", numpy_helper.from_array(np.zeros((), np.float32), "zero")
    broken.graph.initializer.append(zero)
    name, last.output[0] = last.output[0], inner
    broken.graph.node.append(helper.make_node("Mul", [inner, "zero"], ["nothing"]))
    broken.graph.node.append(helper.make_node("Div", ["nothing", "nothing"], [name]))
    with pytest.raises(ParityError, match="gives as a graph NaN or infinity"):
        check_parity(
            source,
            broken.SerializeToString(),
            observe_reference(source, sample_photos(SPEC), "photos"),
        )
