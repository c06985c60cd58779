"""The reference model: its formulas, its config, and torchvision's numbers."""

import math

import pytest
import torch

from edge_vit.errors import SpecError
from edge_vit.training.vit import (
    PRESETS,
    MultiHeadSelfAttention,
    VisionTransformer,
    VisionTransformerConfig,
    create_model,
    find_config,
    resize_positions,
)

TINY = VisionTransformerConfig(32, 8, 10, embed_dim=32, depth=2, num_heads=4)


def tiny(**overrides):
    torch.manual_seed(0)
    return VisionTransformer(VisionTransformerConfig(**{**vars(TINY), **overrides}))


def reseed(model):
    """Move every weight away from the zeros and ones that hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


def copy_from_torchvision(theirs, ours):
    state = {
        "class_token": theirs.class_token,
        "position_embedding": theirs.encoder.pos_embedding,
        "patch_embedding.projection.weight": theirs.conv_proj.weight,
        "patch_embedding.projection.bias": theirs.conv_proj.bias,
        "norm.weight": theirs.encoder.ln.weight,
        "norm.bias": theirs.encoder.ln.bias,
        "head.weight": theirs.heads.head.weight,
        "head.bias": theirs.heads.head.bias,
    }
    for index, layer in enumerate(theirs.encoder.layers):
        block = f"blocks.{index}"
        state[f"{block}.attention.qkv.weight"] = layer.self_attention.in_proj_weight
        state[f"{block}.attention.qkv.bias"] = layer.self_attention.in_proj_bias
        for name, module in {
            "norm1": layer.ln_1,
            "attention.proj": layer.self_attention.out_proj,
            "norm2": layer.ln_2,
            "mlp.fc1": layer.mlp[0],
            "mlp.fc2": layer.mlp[3],
        }.items():
            state[f"{block}.{name}.weight"] = module.weight
            state[f"{block}.{name}.bias"] = module.bias
    ours.load_state_dict(state)


def test_gives_the_numbers_of_torchvision():
    vision_transformer = pytest.importorskip("torchvision").models.VisionTransformer
    theirs = vision_transformer(
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        num_classes=7,
    ).eval()
    reseed(theirs)
    ours = tiny(embed_dim=64, depth=3, mlp_ratio=2.0, num_classes=7).eval()
    copy_from_torchvision(theirs, ours)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, got = theirs(images), ours(images)
    assert (wanted[0] - wanted[1]).abs().max() > 0.1  # the outputs do depend on the image
    assert (got - wanted).abs().max() < 1e-5


def test_attention_is_softmax_of_scaled_products_head_by_head():
    attention = MultiHeadSelfAttention(TINY)
    reseed(attention)
    tokens = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    heads = []
    for head in range(4):
        part = slice(8 * head, 8 * (head + 1))
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(8)
        heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ value[..., part])
    wanted = attention.proj(torch.cat(heads, dim=-1))
    assert torch.allclose(attention(tokens), wanted, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    model = tiny(dropout=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max()]
    assert without == []


def test_positions_tell_patches_apart():
    model = tiny().eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        difference = model(image) - model(image.roll(8, dims=-1))
    assert difference.abs().max() > 1e-4


def test_without_classes_returns_the_features_that_the_head_reads():
    with_head, without = tiny(num_classes=10).eval(), tiny(num_classes=0).eval()
    without.load_state_dict(
        {k: v for k, v in with_head.state_dict().items() if not k.startswith("head.")}
    )
    images = torch.randn(2, 3, 32, 32)
    features = without(images)
    assert features.shape == (2, 32)
    assert torch.allclose(with_head.head(features), with_head(images), atol=1e-6)


def test_dropout_acts_in_training_only():
    model, images = tiny(dropout=0.5), torch.randn(1, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"embed_dim": 30}, "embed_dim: got 30, expected a multiple of num_heads 4"),
        ({"image_size": 30}, "image_size: got 30, expected a multiple of patch_size 8"),
        ({"patch_size": 0}, "patch_size: got 0, expected at least 1"),
        ({"num_classes": -1}, "num_classes: got -1"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio: got 0.0"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps: got 0.0"),
        ({"positions": "rotary"}, "positions: got rotary, expected learned"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refuses_a_config_that_cannot_be(overrides, message):
    with pytest.raises(SpecError, match=message):
        VisionTransformerConfig(**{**vars(TINY), **overrides})


def test_presets_are_the_sizes_of_the_papers():
    counts = {
        name: sum(p.numel() for p in create_model(name).parameters())
        for name in ("vit_digits", "vit_tiny_patch16_224", "vit_small_patch16_224")
    }
    # The last two as timm counts them; vit_base is left out for its size.
    assert counts["vit_tiny_patch16_224"] == 5_717_416
    assert counts["vit_small_patch16_224"] == 22_050_664
    assert (PRESETS["vit_digits"].depth, PRESETS["vit_digits"].embed_dim) == (6, 96)


def test_creates_a_preset_with_overrides():
    model = create_model("vit_digits", num_classes=5, depth=1)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert len(model.blocks) == 1


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("vit_digit", {}, "model 'vit_digit' is unknown, did you mean vit_digits"),
        ("resnet50", {}, "known are vit_digits, vit_cifar"),
        ("vit_digits", {"dept": 3}, "vit_digits has no option 'dept', expected one of image_size"),
        ("vit_digits", {"depth": 0}, "depth: got 0, expected at least 1"),
    ],
    ids=["near-match", "no-match", "unknown-option", "impossible-option"],
)
def test_refuses_an_unknown_model(name, overrides, message):
    with pytest.raises(SpecError, match=message):
        find_config(name, **overrides)


@pytest.mark.parametrize("grid_size", [2, 7, 10], ids=["smaller", "larger", "much-larger"])
def test_resizes_learned_positions_as_timm_does(grid_size):
    timm_layers = pytest.importorskip("timm.layers")
    embedding = torch.randn(1, 1 + 4 * 4, 8, generator=torch.Generator().manual_seed(0))
    wanted = timm_layers.resample_abs_pos_embed(embedding, [grid_size, grid_size])
    resized = resize_positions(embedding, grid_size)
    assert torch.allclose(resized, wanted, atol=1e-6)
    assert torch.equal(resized[:, 0], embedding[:, 0])


def test_leaves_positions_of_the_same_size_alone():
    embedding = torch.randn(1, 17, 8)
    assert torch.equal(resize_positions(embedding, 4), embedding)
