"""INT8 at the four linear layers of each block, nowhere else, and the kernels really are INT8."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from seeded import ALL_INT8, SITES, random_images, run_onnx, sqnr_db

from edge_vit.errors import ArtifactError
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import DEFAULT_RECIPE, SiteScales

QDQ = ("QuantizeLinear", "DequantizeLinear")


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = [n for n in model.graph.node if n.name == name]
    return found


def without_qdq(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(n.name, n.op_type) for n in model.graph.node if n.op_type not in QDQ]


@pytest.fixture(scope="session")
def int8(vit, table) -> onnx.ModelProto:
    return write_qdq(vit.model, table)


@pytest.fixture(params=["minmax", DEFAULT_RECIPE.name])
def either_int8(request, either_vit) -> onnx.ModelProto:
    """The quantized `either_vit`, without folding and as users get it."""
    table = either_vit.calibrate(random_images(16), ALL_INT8[request.param])
    return write_qdq(either_vit.model, table)


def test_exactly_the_sites_are_quantized(vit, int8):
    onnx.checker.check_model(int8, full_check=True)
    sources = producers(int8)
    quantized = {
        n.name
        for n in int8.graph.node
        if n.op_type not in QDQ
        and any(sources[i].op_type == "DequantizeLinear" for i in n.input if i in sources)
    }
    assert quantized == set(SITES)
    assert without_qdq(int8) == without_qdq(vit.model)
    counts = collections.Counter(n.op_type for n in int8.graph.node)
    assert counts["QuantizeLinear"] == len(SITES)
    assert counts["DequantizeLinear"] == 2 * len(SITES)


def test_every_quantized_value_feeds_a_site_alone(int8):
    """No Q/DQ beside a residual addition, a norm, a softmax, the patch embedding or the head."""
    readers = collections.defaultdict(list)
    for n in int8.graph.node:
        for name in n.input:
            readers[name].append(n)
    for n in int8.graph.node:
        if n.op_type == "QuantizeLinear":
            (reader,) = readers[n.output[0]]
            assert reader.op_type == "DequantizeLinear"
        if n.op_type == "DequantizeLinear":
            (reader,) = readers[n.output[0]]
            assert reader.name in SITES
    beside = {producers(int8)[n.input[0]].op_type for n in int8.graph.node if n.name in SITES}
    assert beside == {"DequantizeLinear"}


@pytest.mark.parametrize("site", SITES)
def test_both_inputs_of_a_site_are_dequantized_by_the_tables_scales(int8, vit, table, site):
    sources, numbers, scales = producers(int8), constants(int8), table.sites[site]
    matmul = node(int8, site)
    activation, weight = (sources[name] for name in matmul.input)
    quantize = sources[activation.input[0]]
    assert quantize.op_type == "QuantizeLinear"
    assert quantize.input[0] == vit.site_inputs[site]
    assert quantize.input[1:] == activation.input[1:]
    assert numbers[quantize.input[1]].shape == ()
    assert numbers[quantize.input[1]] == np.float32(scales.activation_scale)
    assert numbers[quantize.input[2]].dtype == np.int8

    levels, weight_scale, zeros = (numbers[name] for name in weight.input)
    original = constants(vit.model)[node(vit.model, site).input[1]]
    assert levels.dtype == zeros.dtype == np.int8
    assert weight_scale.shape == zeros.shape == (original.shape[1],)
    assert [a.i for a in weight.attribute if a.name == "axis"] == [1]
    assert weight_scale.tolist() == list(scales.weight_scales)
    assert np.abs(levels * weight_scale - original).max() <= weight_scale.max() * 0.501
    assert not zeros.any()
    assert not numbers[quantize.input[2]].any()


def test_sites_share_no_scale_and_no_quantizer(int8):
    inputs = [
        name for n in int8.graph.node if n.op_type == "QuantizeLinear" for name in n.input[1:]
    ]
    assert len(set(inputs)) == len(inputs)


def test_scales_are_float16_numbers(int8):
    scales = [value for name, value in constants(int8).items() if name.endswith("_scale")]
    assert len(scales) == 2 * len(SITES)
    for scale in scales:
        assert np.array_equal(scale.astype(np.float16).astype(np.float32), scale)


def test_answers_stay_close_to_fp32(either_vit, either_int8):
    images = random_images(48, seed=7)
    batch = either_vit.spec.static_batch or len(images)
    parts = np.split(images, len(images) // batch)
    reference = np.concatenate([run_onnx(either_vit.model, part) for part in parts])
    output = np.concatenate([run_onnx(either_int8, part) for part in parts])
    spread = np.abs(reference - reference.mean(axis=0)).max()
    assert spread > 0.3 * np.abs(reference).max()  # the answers depend on the image
    assert sqnr_db(reference, output) > 20
    assert sqnr_db(reference, np.roll(output, 1, axis=0)) < 0  # and the measure sees it


def test_activations_alone_are_quantized_where_weights_are_not_rounded(vit, table, int8):
    exact = write_qdq(vit.model, table, rounds_weights=False)
    kinds = {tensor.data_type for tensor in exact.graph.initializer if len(tensor.dims) == 2}
    assert onnx.TensorProto.INT8 not in kinds
    images = random_images(16, seed=1)
    wanted = run_onnx(vit.model, images)
    errors = [np.square(run_onnx(graph, images) - wanted).sum() for graph in (exact, int8)]
    assert 0 < errors[0] < 0.9 * errors[1]


def test_a_scale_that_is_ten_times_too_small_shows(vit, table):
    images = random_images(16, seed=7)
    site = table.sites["block0/fc1"]
    wrong = dataclasses.replace(site, activation_scale=site.activation_scale / 10)
    clipped = dataclasses.replace(table, sites={**table.sites, "block0/fc1": wrong})
    output = run_onnx(write_qdq(vit.model, clipped), images)
    assert sqnr_db(run_onnx(vit.model, images), output) < 10


def test_an_fp16_site_is_left_alone(vit, table):
    kept = dataclasses.replace(table.sites["block1/fc2"], precision="fp16", reason="test")
    mixed = write_qdq(
        vit.model, dataclasses.replace(table, sites={**table.sites, "block1/fc2": kept})
    )
    assert node(mixed, "block1/fc2") == node(vit.model, "block1/fc2")
    names = [n.name for n in mixed.graph.node if n.op_type in QDQ]
    assert len(names) == 3 * (len(SITES) - 1)
    assert not any("block1/fc2" in name for name in names)


def test_all_sites_fp16_is_the_model_itself(vit, table):
    sites = {
        name: dataclasses.replace(site, precision="fp16", reason="test")
        for name, site in table.sites.items()
    }
    same = write_qdq(vit.model, dataclasses.replace(table, sites=sites))
    images = random_images(2)
    assert [n.name for n in same.graph.node] == [n.name for n in vit.model.graph.node]
    assert np.array_equal(run_onnx(same, images), run_onnx(vit.model, images))


def renamed(sites: dict[str, SiteScales]) -> dict[str, SiteScales]:
    return {name.replace("block1/qkv", "block7/qkv"): site for name, site in sites.items()}


def of_another_width(sites: dict[str, SiteScales]) -> dict[str, SiteScales]:
    site = dataclasses.replace(sites["block1/fc1"], weight_scales=(0.1,) * 64)
    return {**sites, "block1/fc1": site}


MISFITS = {
    "one missing": (lambda s: {k: v for k, v in s.items() if k != "block1/fc2"}, "block1/fc2"),
    "none": (lambda s: {}, "block0/fc1, block0/fc2, block0/proj"),
    "one too many": (lambda s: {**s, "block2/qkv": s["block0/qkv"]}, "block2/qkv"),
    "another name": (renamed, "block1/qkv, block7/qkv"),
    "another width": (of_another_width, "block1/fc1"),
}


@pytest.mark.parametrize(("change", "named"), MISFITS.values(), ids=MISFITS)
def test_refuses_a_table_of_another_graph(vit, table, change, named):
    other = dataclasses.replace(table, sites=change(dict(table.sites)))
    with pytest.raises(ArtifactError, match=f"does not fit the graph: {named} .*edgevit calib"):
        write_qdq(vit.model, other)


def test_norms_that_share_their_constants_are_folded_apart(vit):
    """Equal constants are stored once: in a model fresh from its constructor, all norms are."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    norms = [n for n in model.graph.node if n.op_type == "LayerNormalization"]
    for n in norms:
        n.input[1:] = norms[0].input[1:]
    shared = dataclasses.replace(vit, model=model)
    quantized = write_qdq(model, shared.calibrate(random_images(16), DEFAULT_RECIPE))
    images = random_images(16, seed=7)
    assert sqnr_db(run_onnx(model, images), run_onnx(quantized, images)) > 20


def test_leaves_the_model_as_it_was(vit, table):
    before = vit.model.SerializeToString()
    write_qdq(vit.model, table)
    assert vit.model.SerializeToString() == before


def test_float_weights_of_the_sites_are_gone(vit, int8):
    floats = {name for name, value in constants(int8).items() if value.dtype == np.float32}
    assert not floats & {node(vit.model, site).input[1] for site in SITES}
    assert len(int8.SerializeToString()) < 0.6 * len(vit.model.SerializeToString())


def optimised(model: onnx.ModelProto, path, **config: str) -> collections.Counter:
    """Count the operators of the graph that ONNX Runtime makes of `model`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    for key, value in config.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return collections.Counter(n.op_type for n in onnx.load(path).graph.node)


INT8_KERNELS = ("MatMulIntegerToFloat", "QGemm", "QLinearMatMul", "MatMulInteger")
FLOAT_KERNELS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits")


@pytest.mark.parametrize(
    "config", [{}, {"session__x64quantprecision": "1"}], ids=["default", "as edge-vit opens it"]
)
def test_onnx_runtime_really_runs_int8_kernels(either_vit, either_int8, config, tmp_path):
    before = optimised(either_vit.model, tmp_path / "fp32.onnx", **config)
    after = optimised(either_int8, tmp_path / "int8.onnx", **config)
    assert sum(before[op] for op in INT8_KERNELS) == 0
    assert sum(after[op] for op in INT8_KERNELS) == len(SITES)
    assert after["DequantizeLinear"] == 0
    # What stays in float: the two products of each attention, and the head.
    assert sum(before[op] for op in FLOAT_KERNELS) == len(SITES) + 2 * 2 + 1
    assert sum(after[op] for op in FLOAT_KERNELS) == 2 * 2 + 1


def test_biases_of_one_dimension_would_lose_the_int8_kernels(static_vit, table, tmp_path):
    """Why biases are (1, 1, N): the test above would see it if they were not."""
    model = write_qdq(static_vit.model, table)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 3 and value.shape[:2] == (1, 1) and value.shape[2] > 1:
            tensor.CopyFrom(numpy_helper.from_array(value.reshape(-1), tensor.name))
    after = optimised(model, tmp_path / "flat.onnx")
    assert sum(after[op] for op in INT8_KERNELS) < len(SITES)
