import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rtx import HAS_RTX
from seeded import random_images, run_onnx
from small_vits import ARCHITECTURES, small_source
from traced import trace_small
from turnable import TURNABLE, export_small

from edge_vit.errors import ArtifactError
from edge_vit.export.canonical import make_canonical
from edge_vit.graph.exact import map_weights
from edge_vit.graph.sites import find_sites
from edge_vit.graph.walk import array_of
from edge_vit.lowering.rotation import make_rotation, rotate

pytestmark = pytest.mark.uncounted

SEED = 3


@functools.cache
def model_of(family):
    if family in TURNABLE:
        return export_small(*TURNABLE[family])
    source = small_source(ARCHITECTURES[family])
    graph = trace_small(source.module, source.preprocess.image_size)
    return make_canonical(graph, source.preprocess, source.task).model


def images_for(model):
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return random_images(3, size=size)


def error(model, rotated):
    """Largest difference of the outputs, of the largest output."""
    images = images_for(model)
    exact = run_onnx(model, images)
    assert np.ptp(exact, axis=0).max() > 1e-2 * np.abs(exact).max()  # the images matter
    return float(np.abs(run_onnx(rotated, images) - exact).max() / np.abs(exact).max())


def sites_of(model):
    return {site.name: site.linear for site in find_sites(ir.from_proto(model).graph)}


def norms_of(model):
    return [node.name for node in model.graph.node if node.op_type == "LayerNormalization"]


@pytest.mark.parametrize("width", [2, 3, 32, 85])
def test_rotations_are_orthogonal_and_keep_the_vector_of_ones(width):
    rotation = make_rotation(width, SEED)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(rotation.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(rotation, make_rotation(width, SEED))
    if width > 2:
        assert np.abs(rotation - make_rotation(width, SEED + 1)).max() > 0.1


@pytest.mark.parametrize("family", [*TURNABLE, "rms norm, gated"])
def test_rotated_models_are_the_same_function(family):
    model = model_of(family)
    rotated = rotate(model, SEED)
    onnx.checker.check_model(rotated, full_check=True)
    assert error(model, rotated) < 1e-5
    assert norms_of(rotated) == norms_of(model)
    before, after = sites_of(model), sites_of(rotated)
    assert list(after) == list(before)
    assert before
    for name in before:  # every layer that reads or writes the stream is another one now
        assert np.abs(before[name].weight - after[name].weight).max() > 1e-3


def test_weights_in_a_file_and_weights_inside_are_rotated_alike():
    """Those that rotation leaves alone, such as deeper layers of a head, come along too."""
    model = onnx.ModelProto()
    model.CopyFrom(model_of("plain"))
    (output,) = model.graph.output
    width = output.type.tensor_type.shape.dim[1].dim_value
    deeper = np.arange(width * 500, dtype=np.float32).reshape(width, 500)
    model.graph.initializer.append(onnx.numpy_helper.from_array(deeper, "deeper"))
    model.graph.node.append(onnx.helper.make_node("MatMul", [output.name, "deeper"], ["last"]))
    output.CopyFrom(onnx.helper.make_tensor_value_info("last", 1, ["batch", 500]))

    def weights(rotated):
        assert not any(tensor.external_data for tensor in rotated.graph.initializer)
        return {t.name: onnx.numpy_helper.to_array(t) for t in rotated.graph.initializer}

    inside = weights(rotate(model, SEED))
    with map_weights(model.SerializeToString()) as mapped:
        in_a_file = weights(rotate(mapped, SEED))
    assert inside.keys() == in_a_file.keys()
    assert "deeper" in inside
    for name, array in inside.items():
        np.testing.assert_array_equal(in_a_file[name], array)


def test_outlier_channels_are_spread_and_the_function_stays():
    model = onnx.ModelProto()
    model.CopyFrom(model_of("dinov2 with registers"))
    for matmul in [n for n in model.graph.node if n.name.endswith(("/proj", "/fc2"))]:
        weight = next(c for c in model.graph.initializer if c.name == matmul.input[1])
        array = onnx.numpy_helper.to_array(weight).copy()
        array[:, [3, 17]] *= 60
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    rotated = rotate(model, SEED)
    assert error(model, rotated) < 1e-5
    before, after = (largest_share(m, "block1/LayerNormalization") for m in (model, rotated))
    assert before > 4
    assert after < 0.75 * before


def largest_share(model, norm):
    """How many times its root mean square the output of `norm` reaches, but for the gain."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    node = next(n for n in extended.graph.node if n.name == norm)
    del extended.graph.output[:]
    extended.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    values = run_onnx(extended, images_for(model))
    return float(np.abs(values).max() / np.sqrt(np.square(values).mean()))


def test_features_get_their_own_channels_back_by_one_product():
    model = model_of("dinov2, features")
    rotated = rotate(model, SEED)
    more = {n.name for n in rotated.graph.node} - {n.name for n in model.graph.node}
    assert sum(name.endswith("/unrotated") for name in more) == 1
    assert [o.name for o in rotated.graph.output] == [o.name for o in model.graph.output]


def test_norms_keep_their_gain_and_bias_for_smoothing():
    graph = ir.from_proto(rotate(model_of("vit"), SEED)).graph
    norm = next(n for n in graph if n.op_type == "LayerNormalization")
    np.testing.assert_array_equal(array_of(norm.inputs[1]), np.ones(32))
    np.testing.assert_array_equal(array_of(norm.inputs[2]), np.zeros(32))


def test_what_has_no_stream_ends_in_one_line():
    with pytest.raises(ArtifactError, match=r"in parallel\. Run: edgevit calibrate"):
        rotate(model_of("parallel"), SEED)


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT for RTX is for Linux on x86-64")
def test_tensorrt_builds_a_rotated_graph():
    from rtx import build

    from edge_vit.lowering.fp16 import write_half

    network = build(write_half(rotate(model_of("clip"), SEED)))
    assert network.plan_bytes > 0
