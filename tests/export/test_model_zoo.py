"""Every source and model that edge-vit promises: parity, sites, canonical form, quantized sites.

`make test` cuts them to two narrow blocks of few tokens; `make test-full` takes them whole and
records the parity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import kernels
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import rtx
import transformers
from canonical_form import ROLES, assert_canonical
from onnx import numpy_helper
from reseed import reseed
from torchvision.models import vision_transformer
from traced import trace_small

from edge_vit.bundle.record import Parity
from edge_vit.errors import ParityError
from edge_vit.export.canonical import CanonicalGraph, make_canonical
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import SourceRequest, TorchSource, open_source
from edge_vit.export.trace import trace_module
from edge_vit.graph.sites import find_sites
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.runtime.cpu import has_vnni

LAYER_SCALE = {"Mul": 2}
CUT_DEPTH, CUT_HEADS, CUT_WIDTH = 2, 3, 96
CUT_NAMES = {
    "edgevit": ("depth", "num_heads", "embed_dim"),
    "timm": ("depth", "num_heads", "embed_dim"),
    "torchvision": ("num_layers", "num_heads", "hidden_dim"),
    "hf": ("num_hidden_layers", "num_attention_heads", "hidden_size"),
}
"""What each library calls the blocks, heads and channels."""
ROTARY = {"Mul": 4, "Add": 2, "Neg": 2, "Slice": 4, "Split": 2, "Concat": 4, "Transpose": 1}


@dataclass(frozen=True)
class Case:
    """A model, and what is to be learnt of it.

    Attributes:
        cut: image side and tokens of the cut model.
        more: operators of a block beside the usual ones.
        is_other_size: another size of a model in this table, by the same code: only taken whole.
        has_own_code: whether no other case is exported alike. Cut, the others come from torch's
            older exporter, in a thirtieth of the time; whole, from the one in use.
        config: of a transformers model, whose class is the target of the address.
    """

    address: str
    depth: int
    num_heads: int
    embed_dim: int
    num_tokens: int
    task: str = "classification"
    cut: tuple[int, int] = (64, 17)
    more: Mapping[str, int] = field(default_factory=dict)
    is_other_size: bool = False
    has_own_code: bool = False
    config: Mapping[str, object] = field(default_factory=dict)


def _transformers(name: str, num_tokens: int, task="classification", **said) -> Case:
    config = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    config |= said.pop("config", {})
    return Case(f"hf:{name}", 12, 6, 384, num_tokens, task, config=config, **said)


pytestmark = pytest.mark.uncounted

CASES = (
    Case("edgevit:vit_digits", 6, 3, 96, 17, cut=(32, 17)),
    Case("edgevit:vit_tiny_patch16_224", 12, 3, 192, 197, is_other_size=True),
    Case("timm:vit_tiny_patch16_224", 12, 3, 192, 197, has_own_code=True),
    Case("timm:vit_small_patch16_224", 12, 6, 384, 197, is_other_size=True),
    Case("timm:vit_base_patch16_224", 12, 12, 768, 197, is_other_size=True),
    Case("timm:vit_base_patch32_384", 12, 12, 768, 145, is_other_size=True),
    Case("timm:deit3_small_patch16_224", 12, 6, 384, 197, more=LAYER_SCALE),
    Case("timm:deit_tiny_distilled_patch16_224", 12, 3, 192, 198, cut=(64, 18)),
    *(
        Case(f"timm:{name}", 12, 6, 384, extra + 37 * 37, "features", (56, extra + 16), LAYER_SCALE)
        for name, extra in (
            ("vit_small_patch14_dinov2", 1),
            ("vit_small_patch14_reg4_dinov2", 1 + 4),
        )
    ),
    Case("timm:vit_base_patch16_siglip_224", 12, 12, 768, 196, "features", cut=(64, 16)),
    Case("torchvision:vit_b_16", 12, 12, 768, 197, is_other_size=True),
    Case("torchvision:vit_b_32", 12, 12, 768, 50, cut=(128, 17), has_own_code=True),
    Case("torchvision:vit_l_16", 24, 16, 1024, 197, is_other_size=True),
    _transformers("ViTForImageClassification", 197),
    _transformers("DeiTForImageClassification", 198, cut=(64, 18)),
    _transformers(
        *("Dinov2Model", 257, "features"),
        cut=(56, 17),
        more=LAYER_SCALE,
        config={"patch_size": 14},
    ),
    _transformers(
        *("DINOv3ViTModel", 197, "features"), more=ROTARY | {"Mul": 6}, has_own_code=True
    ),
)
"""With the facts that each model's paper or config states."""


@dataclass(frozen=True)
class Proven:
    """A model that went all the way: opened, reseeded, traced, canonical, proven."""

    case: Case
    source: TorchSource
    graph: CanonicalGraph
    images: np.ndarray
    parity: Parity


def prove(case: Case, folder, *, is_cut: bool = False) -> Proven:
    """Export `case`, cut or whole."""
    source = open_case(case, folder, is_cut=is_cut)
    reseed(source.module)
    trace = trace_small if is_cut and not case.has_own_code else trace_module
    proto = trace(source.module, source.preprocess.image_size)
    graph = make_canonical(proto, source.preprocess, source.task)
    images = sample_photos(source.preprocess)
    parity, _ = check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, images, "photographs")
    )
    return Proven(case, source, graph, images, parity)


def open_case(case: Case, folder, *, is_cut: bool = False) -> TorchSource:
    scheme = case.address.partition(":")[0]
    address, names = case.address, CUT_NAMES[scheme]
    cut = dict(zip(names, (CUT_DEPTH, CUT_HEADS, CUT_WIDTH), strict=True)) if is_cut else {}
    size = (case.cut[0], case.cut[0]) if is_cut else None
    with pytest.MonkeyPatch.context() as patch:
        if scheme == "torchvision" and is_cut:
            make = vision_transformer._vision_transformer  # its builders fix what is cut
            narrow = {**cut, "mlp_dim": 4 * CUT_WIDTH}
            patch.setattr(
                vision_transformer,
                "_vision_transformer",
                lambda **said: make(**{**said, **narrow}),
            )
            cut = {}
        elif scheme == "hf":
            narrow = {**cut, "intermediate_size": 4 * CUT_WIDTH} if is_cut else {}
            side = case.cut[0] if is_cut else 224
            address = f"hf:{write_config(case, folder, side, narrow)}"
            cut, size = {}, None
        return open_source(
            SourceRequest(address, random_weights=True, model_args=cut, image_size=size)
        )


def write_config(case: Case, folder, side: int, narrow: Mapping[str, object]):
    """Write the folder that the hub would give, without weights."""
    name = case.address.partition(":")[2]
    config = {"image_size": side, **case.config, **narrow}
    getattr(transformers, name).config_class(architectures=[name], **config).save_pretrained(folder)
    images = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": side, "width": side},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def swap_channels(model: onnx.ModelProto, weight_name: str) -> bytes:
    """Return the graph with two input channels of one linear layer swapped."""
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    (tensor,) = [t for t in swapped.graph.initializer if t.name == weight_name]
    weight = numpy_helper.to_array(tensor).copy()
    weight[[3, 7]] = weight[[7, 3]]
    tensor.CopyFrom(numpy_helper.from_array(weight, weight_name))
    return swapped.SerializeToString()


def quantized_sites(model: onnx.ModelProto) -> set[str]:
    """Return the names of the layers that have INT8 weights once every site is quantized."""
    quantized = kernels.quantize_blindly(model)
    made_by = {value: node for node in quantized.graph.node for value in node.output}
    return {
        node.name
        for node in quantized.graph.node
        if any(getattr(made_by.get(v), "op_type", "") == "DequantizeLinear" for v in node.input)
    }


CUT = tuple(case for case in CASES if not case.is_other_size)


@pytest.fixture(scope="module", params=CUT, ids=lambda case: case.address)
def cut(request, tmp_path_factory) -> Proven:
    return prove(request.param, tmp_path_factory.mktemp("model"), is_cut=True)


def assert_looks_at_images(parity: Parity) -> None:
    assert parity.batches == (1, 2, 5)
    assert parity.spread > 100 * max(parity.max_error, 1e-7)


def test_the_outputs_are_those_of_the_model_and_follow_the_image(cut):
    assert_looks_at_images(cut.parity)


def test_a_swap_of_two_channels_fails_parity(cut):
    swapped = swap_channels(cut.graph.model, "block0/qkv.1")
    with pytest.raises(ParityError, match="the exported graph is not the model"):
        check_parity(
            cut.source, swapped, observe_reference(cut.source, cut.images, "photographs", batch=1)
        )


def test_has_the_canonical_form_and_four_sites_per_block(cut):
    assert cut.graph.notes == ()
    assert_canonical(
        cut.graph.model,
        depth=CUT_DEPTH,
        image_size=cut.source.preprocess.image_size,
        output="logits" if cut.case.task == "classification" else "features",
        more=cut.case.more,
    )


def test_says_depth_heads_width_and_tokens(cut):
    graph, case = cut.graph, cut.case
    found = (graph.depth, graph.num_heads, graph.embed_dim, graph.num_tokens)
    assert found == (CUT_DEPTH, CUT_HEADS, CUT_WIDTH, case.cut[1])
    assert cut.source.task == case.task


def test_exactly_the_sites_are_quantized(cut):
    sites = {f"block{index}/{role}" for index in range(CUT_DEPTH) for role in ROLES}
    assert quantized_sites(cut.graph.model) == sites


@pytest.mark.parametrize("write", [lambda m: m, write_ort_x64], ids=["portable", "x64"])
def test_onnx_runtime_runs_every_site_in_int8(cut, write, tmp_path):
    model = write(kernels.quantize_blindly(cut.graph.model))
    products = kernels.onnx_runtime_products(model, tmp_path)
    sites = {f"block{index}/{role}" for index in range(CUT_DEPTH) for role in ROLES}
    assert products.int8 - {"embed/pixels"} == sites
    assert not products.floating & sites


@pytest.mark.skipif(not has_vnni(), reason="without VNNI, OpenVINO is told to compute in float")
def test_openvino_runs_every_site_in_int8(cut):
    products = kernels.openvino_products(kernels.quantize_blindly(cut.graph.model))
    sites = {f"block{index}/{role}" for index in range(CUT_DEPTH) for role in ROLES}
    assert products.int8 == sites
    assert not products.floating & sites


@pytest.mark.skipif(not rtx.HAS_RTX, reason="tensorrt_rtx is for x86-64 Linux alone")
def test_tensorrt_builds_fp16_and_int8(cut):
    """Strongly typed, with INT8 on both inputs of every site and float16 in all other products."""
    assert_builds(cut.graph.model, CUT_DEPTH)


def assert_builds(model: onnx.ModelProto, depth: int) -> None:
    sites = {f"block{index}/{role}" for index in range(depth) for role in ROLES}
    for quantize in (False, True):
        half = write_half(kernels.quantize_blindly(model) if quantize else model)
        network = rtx.build(half)
        assert network.complaints == ()
        assert network.int8_layers(sites) == (sites if quantize else set())
        for layer in network.layers.values():
            if layer.kind in ("MATRIX_MULTIPLY", "CONVOLUTION", "NORMALIZATION", "SOFTMAX"):
                assert {*layer.input_types, *layer.output_types} == {"HALF"}


@pytest.mark.full
@pytest.mark.parametrize("batch", [None, 1], ids=["dynamic", "static"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.address)
@pytest.mark.skipif(not rtx.HAS_RTX, reason="tensorrt_rtx is for x86-64 Linux alone")
def test_tensorrt_builds_the_whole_model(case, batch, tmp_path):
    source = open_case(case, tmp_path)
    reseed(source.module)
    proto = trace_module(source.module, source.preprocess.image_size, batch)
    graph = make_canonical(proto, source.preprocess, source.task)
    assert_builds(graph.model, case.depth)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.address)
def test_the_whole_model(case, tmp_path, record_result):
    proven = prove(case, tmp_path)
    record_result("parity", case.address, proven.parity)
    graph = proven.graph
    assert_looks_at_images(proven.parity)
    assert graph.notes == ()
    assert (graph.depth, graph.num_heads, graph.embed_dim, graph.num_tokens) == (
        case.depth,
        case.num_heads,
        case.embed_dim,
        case.num_tokens,
    )
    sites = {f"block{index}/{role}" for index in range(case.depth) for role in ROLES}
    assert {site.name for site in find_sites(ir.from_proto(graph.model).graph)} == sites
    assert quantized_sites(graph.model) == sites
    swapped = swap_channels(graph.model, "block0/qkv.1")
    with pytest.raises(ParityError, match="the exported graph is not the model"):
        check_parity(
            proven.source,
            swapped,
            observe_reference(proven.source, proven.images, "photographs", batch=1),
        )
