"""Folding moves the difficulty and never the function; INT8 becomes blind to outliers."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest
import small_attentions as ways
import small_vits
import torch
from seeded import (
    CONFIG,
    Seeded,
    make_seeded,
    random_images,
    run_onnx,
    seeded_small,
    seeded_vit,
    sqnr_db,
)
from small_vits import ARCHITECTURES as FORMS
from small_vits import SmallViT as ViT
from traced import trace_small

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.graph.sites import Block, find_blocks
from edge_vit.lowering.qdq import write_qdq
from edge_vit.lowering.smoothing import choose_divisors, find_smoothing_targets, smooth
from edge_vit.spec import PreprocessSpec
from edge_vit.spec.table import RECIPES, Recipe
from edge_vit.training.vit import VisionTransformer

IMAGES = random_images(24)
USUAL = [["proj"], ["qkv"], ["fc1"]]


def add_outliers(model: VisionTransformer, factor: float) -> None:
    """Scale two channels of each LayerNorm and of the values, and undo it in the next layer."""
    with torch.no_grad():
        for block in model.blocks:
            pairs = ((block.norm1, block.attention.qkv), (block.norm2, block.mlp.fc1))
            for norm, linear in pairs:
                for channel in (3, 17):
                    norm.weight[channel] *= factor
                    norm.bias[channel] *= factor
                    linear.weight[:, channel] /= factor
            qkv, proj = block.attention.qkv, block.attention.proj
            for channel in (5, 20):
                row = 2 * CONFIG.embed_dim + channel
                qkv.weight[row] *= factor
                qkv.bias[row] *= factor
                proj.weight[:, channel] /= factor


def with_outliers(factor: float) -> Seeded:
    model = VisionTransformer(CONFIG)
    seeded = make_seeded(model, CONFIG.image_size, CONFIG.num_classes)  # draws the weights
    if factor == 1:
        return seeded
    add_outliers(model, factor)
    size = (CONFIG.image_size, CONFIG.image_size)
    preprocess = PreprocessSpec(size, crop_pct=1.0)
    proto = trace_small(model.eval(), size)
    changed = make_canonical(proto, preprocess, "classification").model
    return dataclasses.replace(seeded, model=changed)


def quality(seeded: Seeded, recipe: str) -> float:
    table = seeded.calibrate(IMAGES, RECIPES[recipe])
    quantized = write_qdq(seeded.model, table)
    return sqnr_db(run_onnx(seeded.model, IMAGES), run_onnx(quantized, IMAGES))


@pytest.fixture(scope="module")
def plain() -> Seeded:
    return with_outliers(1)


@pytest.fixture(scope="module")
def wild() -> Seeded:
    return with_outliers(100)


def test_outliers_leave_the_function_as_it_was(plain, wild):
    expected = run_onnx(plain.model, IMAGES)
    assert np.abs(run_onnx(wild.model, IMAGES) - expected).max() < 1e-4 * np.abs(expected).max()


def test_folds_proj_qkv_and_fc1_of_every_block(plain):
    blocks = find_blocks(ir.from_proto(plain.model).graph)
    assert [roles_of(block) for block in blocks] == [USUAL] * CONFIG.depth


PROJ_FC2 = [["proj"], ["fc2"]]


def seed(attention) -> Seeded:
    return make_seeded(ViT(attention), small_vits.SIZE, small_vits.CLASSES)


@pytest.mark.uncounted
@pytest.mark.parametrize(
    ("make", "roles"),
    [
        pytest.param(partial(seed, ways.RotaryAttention), USUAL, id="rotary positions"),
        pytest.param(partial(seed, ways.NormedAttention), USUAL, id="normed queries"),
        pytest.param(partial(seed, ways.SubNormAttention), USUAL, id="norm before proj"),
        pytest.param(partial(seed, ways.GatedAttention), [["qkv"], ["fc1"]], id="gated attention"),
        pytest.param(partial(seeded_small, "rms norm"), USUAL, id="rms norm"),
        pytest.param(
            partial(seeded_small, "gated, packed"),
            [*PROJ_FC2, ["qkv"], ["fc1"]],
            id="gated, packed",
        ),
        pytest.param(
            partial(seeded_small, "gated, apart"), [*PROJ_FC2, ["qkv"], ["fc1"]], id="gated, apart"
        ),
        pytest.param(partial(seeded_small, "relu"), [*PROJ_FC2, ["qkv"], ["fc1"]], id="relu"),
        pytest.param(partial(seeded_small, "parallel"), [["proj"], ["qkv", "fc1"]], id="parallel"),
    ],
)
def test_folds_other_architectures_as_well(make, roles):
    seeded = make()
    model, random = ir.from_proto(seeded.model), np.random.default_rng(0)
    blocks = find_blocks(model.graph)
    assert [roles_of(block) for block in blocks] == [roles] * len(blocks)
    for target in (target for block in blocks for target in find_smoothing_targets(block)):
        divisors = np.exp(random.normal(0, 2, target.width))
        offsets = random.normal(0, 1, target.width if target.is_shiftable else 0)
        smooth(model.graph, target, divisors, offsets)
    images = random_images(8, size=small_vits.SIZE)
    expected = run_onnx(seeded.model, images)
    off = np.abs(run_onnx(ir.to_proto(model), images) - expected).max()
    assert 0 < off < 1e-4 * np.abs(expected).max()


def roles_of(block: Block) -> list[list[str]]:
    """Return the roles of the layers of each target."""
    return [[site.role for site in target.sites] for target in find_smoothing_targets(block)]


def parallel(change=lambda block: None) -> Seeded:
    """Return a ViT of parallel blocks, its first block changed."""
    module, size = FORMS["parallel"](), small_vits.SIZE
    seeded = make_seeded(module, size, small_vits.CLASSES)
    with torch.no_grad():
        change(module.blocks[0])
    proto = trace_small(module.eval(), (size, size))
    model = make_canonical(proto, seeded.spec.preprocess, "classification").model
    return dataclasses.replace(seeded, model=model)


def test_layers_that_share_a_norm_share_its_factors():
    seeded = parallel(lambda block: block.norm1.bias.mul_(40))  # so that shifting pays
    table = seeded.calibrate(random_images(32, size=small_vits.SIZE), RECIPES["balanced"])
    qkv, fc1 = table.sites["block0/qkv"], table.sites["block0/fc1"]
    assert qkv.divisors == fc1.divisors != ()
    assert qkv.offsets == fc1.offsets != ()
    assert any(step.startswith("smoothing") for step in fc1.steps)
    apart = table.sites | {"block0/fc1": dataclasses.replace(fc1, offsets=())}
    with pytest.raises(ArtifactError, match="smooths block0/qkv otherwise than block0/fc1"):
        write_qdq(seeded.model, dataclasses.replace(table, sites=apart))


def test_the_rows_of_all_layers_that_share_a_norm_choose_its_factors():
    images = random_images(4, size=small_vits.SIZE)
    plain, heavy = (
        parallel(change).calibrate(images, RECIPES["fast"]).sites["block0/qkv"].divisors
        for change in (lambda block: None, lambda block: block.mlp.fc1.weight[:, 3].mul_(100))
    )
    assert plain[3] / heavy[3] == pytest.approx(75**0.3, rel=0.1)  # 128 of 224 columns are fc1's
    assert plain[:3] == pytest.approx(heavy[:3])


def test_folding_keeps_the_function(wild):
    table = wild.calibrate(IMAGES, RECIPES["fast"])
    floating = {
        name: dataclasses.replace(scales, precision="fp16") for name, scales in table.sites.items()
    }
    folded = write_qdq(wild.model, dataclasses.replace(table, sites=floating))
    expected = run_onnx(wild.model, IMAGES)
    assert "QuantizeLinear" not in {node.op_type for node in folded.graph.node}
    assert folded != wild.model
    assert np.abs(run_onnx(folded, IMAGES) - expected).max() < 1e-5 * np.abs(expected).max()


def test_outliers_ruin_plain_ranges_and_not_folded_ones(plain, wild):
    assert quality(wild, "minmax") < quality(plain, "minmax") - 10
    assert quality(wild, "fast") == pytest.approx(quality(plain, "fast"), abs=0.5)


def test_divisors_say_the_same_of_a_rescaled_channel():
    rng = np.random.default_rng(0)
    amax, weight = rng.uniform(1, 2, 8), rng.standard_normal((8, 5))
    factors = np.ones(8)
    factors[3] = 100
    plain = choose_divisors(amax, weight, 0.5)
    wild = choose_divisors(amax * factors, weight / factors[:, None], 0.5)
    assert amax * factors / wild == pytest.approx(amax / plain)


@pytest.mark.parametrize(
    ("strength", "amax", "expected"),
    [
        pytest.param(1.0, [1.0, 4.0], [1.0, 4.0], id="all of the activation's range"),
        pytest.param(0.0, [1.0, 4.0], [1.0, 1.0], id="rows alike, nothing of the activation's"),
        pytest.param(0.5, [0.0, 4.0], [1.0, 2.0], id="a dead channel stays"),
    ],
)
def test_strength_decides_how_much_moves(strength, amax, expected):
    divisors = choose_divisors(np.array(amax), np.ones((2, 3)), strength)
    assert divisors == pytest.approx(expected)


def test_refuses_a_table_whose_folds_do_not_fit(plain):
    table = plain.calibrate(IMAGES, RECIPES["fast"])
    sites = dict(table.sites)
    sites["block0/fc2"] = dataclasses.replace(sites["block0/fc2"], divisors=(1.0, 2.0))
    with pytest.raises(ArtifactError, match="smooths block0/fc2, where the graph has nothing"):
        write_qdq(plain.model, dataclasses.replace(table, sites=sites))


def test_refuses_a_recipe_that_one_pass_cannot_follow():
    with pytest.raises(SpecError, match="range_method is percentile, expected minmax"):
        Recipe("mine", range_method="percentile", fold_strength=0.5)


def test_static_batch_folds_as_well():
    seeded = seeded_vit(batch=2)
    table = seeded.calibrate(IMAGES[:4], RECIPES["fast"])
    assert sum(bool(scales.divisors) for scales in table.sites.values()) == 3 * CONFIG.depth
