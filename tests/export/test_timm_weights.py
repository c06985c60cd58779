"""Checkpoints of timm's families as their authors published them, and of other image sizes."""

from __future__ import annotations

import argparse

import pytest
import timm
import torch

from edge_vit.errors import ArtifactError
from edge_vit.export.sources import SourceRequest, open_source

SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 3}
WINDOWS = {"depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4)}
TINY = "vit_tiny_patch16_224"


def make(name, **arguments):
    """Return timm's model `name` with random weights everywhere."""
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def reopen(tmp_path, name, content, **said):
    path = tmp_path / "published.pth"
    torch.save(content, path)
    return open_source(SourceRequest(f"timm:{name}", checkpoint=path, **said))


def same(left, right):
    weights = right.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in left.state_dict().items())


def publish_swin(state):
    """Return Swin's names before timm moved each downsampling to the next stage."""
    old = {}
    for name, value in state.items():
        parts = name.replace("head.fc.", "head.").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts)] = value
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    old["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    return {"model": old}


def publish_dinov2(state):
    return {**state, "mask_token": torch.zeros(1, 24)}


def publish_dinov2_registers(state):
    """Return registers by their old name, and a position of the class token."""
    first = torch.zeros(1, 1, 24)
    rest = {k: v for k, v in state.items() if k not in ("reg_token", "pos_embed")}
    return {
        **rest,
        "register_tokens": state["reg_token"],
        "pos_embed": torch.cat([first, state["pos_embed"]], 1),
        "mask_token": torch.zeros(1, 24),
    }


def publish_dinov3(state):
    renamed = {
        name.replace("gamma_1", "ls1.gamma")
        .replace("gamma_2", "ls2.gamma")
        .replace("reg_token", "storage_tokens"): value
        for name, value in state.items()
    }
    return {
        **renamed,
        "mask_token": torch.zeros(1, 24),
        "rope_embed.periods": torch.ones(4),
        "blocks.0.attn.qkv.bias": torch.zeros(72),
        "blocks.0.attn.qkv.bias_mask": torch.ones(72),
    }


def publish_beit(state):
    index = torch.zeros(197, 197, dtype=torch.long)
    return {"module": {**state, "blocks.0.attn.relative_position_index": index}}


def publish_clip(state):
    """Return OpenAI's names, with a text half beside."""
    names = {
        "conv1.weight": "patch_embed.proj.weight",
        **{f"ln_pre.{w}": f"norm_pre.{w}" for w in ("weight", "bias")},
        **{f"ln_post.{w}": f"norm.{w}" for w in ("weight", "bias")},
    }
    block, old = "blocks.0.", "transformer.resblocks.0."
    for theirs, ours in (
        ("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
        ("attn.out_proj", "attn.proj"),
    ):  # fmt: skip
        names |= {f"{old}{theirs}.{w}": f"{block}{ours}.{w}" for w in ("weight", "bias")}
    names |= {f"{old}attn.in_proj_{w}": f"{block}attn.qkv.{w}" for w in ("weight", "bias")}
    return {
        **{f"visual.{theirs}": state[ours] for theirs, ours in names.items()},
        "visual.class_embedding": state["cls_token"][0, 0],
        "visual.positional_embedding": state["pos_embed"][0],
        "token_embedding.weight": torch.ones(5, 4),
        "logit_scale": torch.tensor(1.0),
    }


FAMILIES = {
    "swin": ("swin_tiny_patch4_window7_224", {**WINDOWS, "img_size": 56}, publish_swin),
    "swin-v2": ("swinv2_tiny_window8_256", {**WINDOWS, "img_size": 64}, publish_swin),
    "dinov2": ("vit_small_patch14_dinov2", {**SMALL, "img_size": 56}, publish_dinov2),
    "dinov2-registers": ("vit_small_patch14_reg4_dinov2", SMALL, publish_dinov2_registers),
    "dinov3": ("vit_small_patch16_dinov3", {**SMALL, "img_size": 64}, publish_dinov3),
    "beit": ("beit_base_patch16_224", SMALL, publish_beit),
    "clip": ("vit_base_patch16_clip_224", {**SMALL, "num_classes": 0}, publish_clip),
}


@pytest.mark.parametrize(("name", "arguments", "publish"), FAMILIES.values(), ids=FAMILIES)
def test_files_as_published_are_read_through_the_familys_own_filter(
    tmp_path, name, arguments, publish, capsys
):
    model = make(name, **arguments)
    args = {
        key: value for key, value in arguments.items() if key not in ("img_size", "num_classes")
    }
    side = arguments.get("img_size")
    source = reopen(
        tmp_path,
        name,
        publish(model.state_dict()),
        model_args=args,
        image_size=(side, side) if side else None,
        num_classes=arguments.get("num_classes"),
    )
    assert same(source.module, model)
    assert ("renamed by timm's" in source.weights) == (name != "vit_small_patch14_dinov2")
    assert "resampled" not in source.weights
    assert capsys.readouterr() == ("", "")


def test_the_average_of_a_published_file_goes_through_the_filter_too(tmp_path):
    model = make("swin_tiny_patch4_window7_224", **WINDOWS, img_size=56, num_classes=3)
    old = publish_swin(model.state_dict())["model"]
    other = {name: value * 0 for name, value in old.items()}
    source = reopen(
        tmp_path,
        "swin_tiny_patch4_window7_224",
        {"model": other, "model_ema": old},
        model_args=WINDOWS,
        image_size=(56, 56),
        num_classes=3,
    )
    assert same(source.module, model)
    assert "weights of model_ema, an average" in source.weights


def test_another_window_is_refused_and_named(tmp_path):
    model = make("swin_tiny_patch4_window7_224", **WINDOWS, img_size=56, num_classes=3)
    with pytest.raises(ArtifactError, match=r"Add --model-arg window_size=7$") as error:
        reopen(
            tmp_path,
            "swin_tiny_patch4_window7_224",
            model.state_dict(),
            model_args={**WINDOWS, "window_size": 4},
            num_classes=3,
        )
    assert "\n" not in str(error.value)


def test_another_patch_size_is_refused_and_named(tmp_path):
    model = make(TINY, **SMALL, patch_size=8, img_size=112)
    with pytest.raises(
        ArtifactError, match=r"\(24, 3, 8, 8\) where .*Add --model-arg patch_size=8$"
    ):
        reopen(tmp_path, TINY, model.state_dict(), model_args=SMALL)


@pytest.fixture(scope="module")
def tall():
    """A model for images of 256 x 128: 16 x 8 patches."""
    return make(TINY, **SMALL, img_size=(256, 128), num_classes=3)


def reopen_tall(tmp_path, tall, image_size, beside=None, **said):
    content = {"model": tall.state_dict(), **(beside or {})}
    said = {"model_args": SMALL, "num_classes": 3, "image_size": image_size, **said}
    return reopen(tmp_path, TINY, content, **said)


EVIDENCE = {
    "options": {"args": argparse.Namespace(img_size=(256, 128))},
    "input-size": {"config": {"data": {"input_size": [3, 256, 128]}}},
    "hyper-parameters": {"hyper_parameters": {"image_size": [256, 128], "lr": 0.1}},
}


@pytest.mark.parametrize("beside", EVIDENCE.values(), ids=EVIDENCE)
def test_the_files_own_options_tell_the_shape_of_its_grid(tmp_path, tall, beside):
    assert same(reopen_tall(tmp_path, tall, (256, 128), beside).module, tall)
    source = reopen_tall(tmp_path, tall, (384, 192), beside)
    assert "from 16 x 8 to 24 x 12 patches" in source.weights
    turned = reopen_tall(tmp_path, tall, (128, 256), beside)
    assert "from 16 x 8 to 8 x 16 patches" in turned.weights
    assert not torch.equal(turned.module.pos_embed, tall.pos_embed)
    with pytest.raises(ArtifactError, match=r"Add --image-size 256,128 "):
        reopen_tall(tmp_path, tall, None, beside)


@pytest.mark.parametrize("size", [None, (64, 64), (256, 128), (128, 256), (384, 192), (512, 64)])
def test_a_grid_that_nothing_tells_is_asked_for(tmp_path, tall, size):
    with pytest.raises(ArtifactError, match=r"Add --checkpoint-size .*256,128 or 128,256$"):
        reopen_tall(tmp_path, tall, size)


def test_the_users_word_tells_the_shape_of_the_grid(tmp_path, tall):
    said = {"checkpoint_size": (256, 128)}
    assert same(reopen_tall(tmp_path, tall, (256, 128), **said).module, tall)
    resized = reopen_tall(tmp_path, tall, (384, 192), **said).module
    expected = timm.layers.resample_abs_pos_embed(
        tall.pos_embed.detach(), [24, 12], [16, 8], num_prefix_tokens=1
    )
    assert torch.allclose(resized.pos_embed, expected, atol=1e-6)


def test_a_word_that_cannot_be_is_refused(tmp_path, tall):
    with pytest.raises(ArtifactError, match=r"--checkpoint-size 224,224 makes 14 x 14 of"):
        reopen_tall(tmp_path, tall, (256, 128), checkpoint_size=(224, 224))


def test_a_square_number_of_patches_is_a_square_and_never_another_grid_of_as_many(tmp_path):
    model = make(TINY, **SMALL, img_size=(128, 128), num_classes=3)
    source = reopen_tall(tmp_path, model, (256, 64))
    assert "from 8 x 8 to 16 x 4 patches" in source.weights


def test_the_models_published_size_tells_before_the_square(tmp_path):
    model = make(TINY, **SMALL, num_classes=3)
    source = reopen_tall(tmp_path, model, (448, 112))
    assert "from 14 x 14 to 28 x 7 patches" in source.weights


def test_options_of_as_many_patches_in_another_shape_are_refused_where_no_size_is_asked_for(
    tmp_path,
):
    model = make(TINY, **SMALL, img_size=(448, 112), num_classes=3)
    beside = {"args": {"img_size": [448, 112]}}
    with pytest.raises(ArtifactError, match=r"28 x 7 patches, .*Add --image-size 448,112$"):
        reopen_tall(tmp_path, model, None, beside)


def trained_positions(rows, columns, noise=0.2):
    """Return positions (1, 1 + rows * columns, 24) whose neighbours are alike."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    waves = [
        f(axis.flatten() / 4 + k)
        for k in range(6)
        for axis in (x, y)
        for f in (torch.sin, torch.cos)
    ]
    grid = torch.stack(waves, 1)
    return torch.cat([torch.randn(1, 24), grid + noise * torch.randn_like(grid)])[None]


@pytest.mark.parametrize(("rows", "columns"), [(16, 8), (8, 16), (4, 32), (16, 4)])
def test_trained_positions_tell_the_shape_of_their_grid(tmp_path, tall, rows, columns):
    state = {**tall.state_dict(), "pos_embed": trained_positions(rows, columns)}
    said = {"model_args": SMALL, "num_classes": 3}
    size = (rows * 16, columns * 16)
    source = reopen(tmp_path, TINY, state, image_size=size, **said)
    assert torch.equal(source.module.pos_embed, state["pos_embed"])
    turned = reopen(tmp_path, TINY, state, image_size=size[::-1], **said)
    assert f"from {rows} x {columns} to {columns} x {rows} patches" in turned.weights
    with pytest.raises(ArtifactError, match=rf"Add --image-size {size[0]},{size[1]} "):
        reopen(tmp_path, TINY, state, **said)


def test_positions_that_are_mostly_noise_tell_nothing(tmp_path, tall):
    state = {**tall.state_dict(), "pos_embed": trained_positions(16, 8, noise=3.0)}
    with pytest.raises(ArtifactError, match="Add --checkpoint-size"):
        reopen(tmp_path, TINY, state, image_size=(256, 128), model_args=SMALL, num_classes=3)
