"""TensorRT-RTX really builds FP16 and INT8 of every kind of model, for a fixed batch and for any.

Two blocks each here; `make test-full` builds whole models and writes down how large and how long.
"""

from __future__ import annotations

import dataclasses
import functools

import onnx
import pytest
from rtx import HAS_RTX
from seeded import Seeded, make_seeded, random_images
from small_vits import SPEC, SmallViT, export_legacy, small_source

from edge_vit.export.canonical import make_canonical
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.trt.api import open_api
from edge_vit.runtime.trt.audit import Asked, audit_network, check_audit
from edge_vit.runtime.trt.listeners import Phases
from edge_vit.runtime.trt.network import BuilderSettings, BuiltPlan, ParsedNetwork, ShapeRange
from edge_vit.spec import PreprocessSpec, image_input
from edge_vit.spec.table import CalibrationTable
from tests.export.test_model_zoo import CASES, prove

pytestmark = [
    pytest.mark.uncounted,
    pytest.mark.skipif(
        not HAS_RTX, reason="tensorrt_rtx comes with the dev extra on x86-64 Linux alone"
    ),
]


def timm_vit():
    import timm

    return timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, num_classes=10)


def timm_deit3():
    import timm

    return timm.create_model("deit3_small_patch16_224", depth=2, img_size=64, num_classes=10)


def torchvision_vit():
    import torchvision

    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=96, mlp_dim=192,
        num_classes=10,
    )  # fmt: skip


def huggingface_vit():
    import torch
    import transformers

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.ViTConfig(
                image_size=64, hidden_size=96, num_hidden_layers=2, num_attention_heads=3,
                intermediate_size=192, num_labels=10,
            )  # fmt: skip
            self.model = transformers.ViTForImageClassification(config)

        def forward(self, images):
            return self.model(pixel_values=images).logits

    return Logits()


def own_module():
    return SmallViT()


def reference():
    from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig

    return VisionTransformer(
        VisionTransformerConfig(
            image_size=64, patch_size=16, num_classes=10, embed_dim=96, depth=2, num_heads=3
        )
    )


MODELS = {
    "edgevit": (reference, 64, 10),
    "timm": (timm_vit, 64, 10),
    "timm layer scale": (timm_deit3, 64, 10),
    "torchvision": (torchvision_vit, 64, 10),
    "transformers": (huggingface_vit, 64, 10),
    "python": (own_module, 16, 7),
}


def from_onnx_file() -> Seeded:
    """Return a graph as people hold it, from the older exporter."""
    graph = make_canonical(export_legacy(small_source()), SPEC, "classification")
    return dataclasses.replace(make_seeded(SmallViT(), 16, 7), model=graph.model)


@functools.cache
def seeded(name: str, batch: int | None = None) -> Seeded:
    """Return a model of 2 blocks, exported for any batch, or for `batch` images."""
    if name == "onnx":
        return from_onnx_file()
    make, size, classes = MODELS[name]
    return make_seeded(make(), size, classes, batch)


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return `model` for `batch` images alone."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return fixed


def parse_and_check(
    model: onnx.ModelProto, table: CalibrationTable, precision: str
) -> ParsedNetwork:
    """Return the network of `model`, which says what the table asks."""
    network = open_api("rtx").parse(model.SerializeToString())
    sites = frozenset(table.sites) if precision == "int8" else frozenset()
    audit = audit_network(tuple(network.layers))
    check_audit(audit, Asked(precision, dict.fromkeys(table.fp32_nodes, "fp32"), sites), precision)
    found = {name for name, product in audit.products.items() if product.precision == "int8"}
    assert found == sites
    return network


def build(network: ParsedNetwork, most: int | None) -> BuiltPlan:
    """Return the plan for one target, for any batch up to `most` or for the fixed one."""
    profile = {}
    if most is not None:
        (image,) = network.inputs
        sizes = ((batch, *image.shape[1:]) for batch in (1, 1, most))
        profile = {image.name: ShapeRange(*sizes)}
    settings = BuilderSettings(profile, optimization_level=0, targets=("sm_86",))
    return network.build(settings, Phases(lambda share: None))


def graphs_of(vit: Seeded, table: CalibrationTable) -> dict[str, onnx.ModelProto]:
    return {
        "fp16": write_half(vit.model, table.fp32_nodes),
        "int8": write_half(write_qdq(vit.model, table), table.fp32_nodes),
    }


SAME_FORM = ("timm", "torchvision", "python")
"""Canonical graphs of these are as that of edgevit, whichever library they came from."""

BUILDS = [
    pytest.param(name, batch, marks=[pytest.mark.full] if name in SAME_FORM else [])
    for name, batch in (*((name, None) for name in (*MODELS, "onnx")), ("edgevit", 2), ("onnx", 2))
]


@pytest.mark.parametrize(("name", "batch"), BUILDS)
def test_builds_fp16_and_int8(name, batch):
    vit = seeded(name)
    size = vit.spec.preprocess.image_size[0]
    table = vit.calibrate(random_images(2, size=size))
    assert len(table.sites) in (8, 12)
    for precision, model in graphs_of(vit, table).items():
        model = with_batch(model, batch) if batch else model
        network = parse_and_check(model, table, precision)
        (image,) = network.inputs
        assert (image.dtype, image.shape) == ("UINT8", (batch or -1, size, size, 3))
        built = build(network, None if batch else 4)
        assert len(built.plan) > 10_000
        assert built.warnings == ()


def test_builds_what_was_exported_for_a_fixed_batch():
    vit = seeded("edgevit", 2)
    table = vit.calibrate(random_images(2, size=64))
    network = parse_and_check(graphs_of(vit, table)["int8"], table, "int8")
    assert [*network.layers][-1].outputs[0].shape == (2, 10)
    assert build(network, None).warnings == ()


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.address)
def test_builds_whole_models(case, tmp_path, record_result):
    proven = prove(case, tmp_path)
    size = proven.source.preprocess.image_size
    spec = dataclasses.replace(
        seeded("python").spec,
        inputs=(image_input(size),),
        preprocess=PreprocessSpec(size, crop_pct=1.0, crop_mode="squash"),
    )
    vit = Seeded(proven.graph.model, spec)
    table = vit.calibrate(proven.images[:2])
    sizes = {}
    for precision, model in graphs_of(vit, table).items():
        built = build(parse_and_check(model, table, precision), 8)
        assert built.warnings == ()
        sizes[precision] = {"plan_bytes": len(built.plan)}
    record_result("engines", case.address, sizes)
