"""Tiny models of every family, and what their architecture says is found in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEPTH = 2
PLAIN = 4 * DEPTH
"""Layers of plain blocks: queries, keys and values at once, projection, both of the MLP."""

WINDOWS = "tokens come as"
"""Attention within windows keeps its form."""


@dataclass(frozen=True)
class Member:
    """A tiny model of a family.

    Attributes:
        address: as a user writes it; of transformers, the class.
        arguments: what makes it tiny.
        layers: linear layers that may be quantized, in blocks or beside them.
        blocks: transformer blocks.
        image_size: where `arguments` do not tell it.
        attentions: in no block.
        one_token: linear layers for the class token alone, in blocks of class attention.
        note: words that say which attention keeps its form; empty where each is canonical.
    """

    family: str
    address: str
    arguments: Mapping[str, object]
    layers: int = PLAIN
    blocks: int = DEPTH
    image_size: tuple[int, int] | None = None
    attentions: int = 0
    one_token: int = 0
    note: str = ""


def _timm(family: str, name: str, arguments: Mapping[str, object], **found) -> Member:
    return Member(family, f"timm:{name}", arguments, **found)


def _hf(family: str, name: str, arguments: Mapping[str, object], **found) -> Member:
    return Member(family, f"hf:{name}", arguments, **({"image_size": (64, 64)} | found))


_VIT = {"depth": DEPTH, "embed_dim": 48, "num_heads": 4, "img_size": 64}
_VIT14 = _VIT | {"img_size": 56}
_HF = {"hidden_size": 48, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
_HF |= {"intermediate_size": 96, "image_size": 64, "patch_size": 16}
_SWIN = {"depths": [2, 1], "embed_dim": 24, "num_heads": [2, 4], "window_size": 4}
_SWIN_FOUND = {"layers": 4 * 3 + 1, "blocks": 3, "note": WINDOWS}  # one merges patches
_PVT = {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (1, 2), "mlp_ratios": (2, 2)}
_STAGES = {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32)}
_XCIT = {"cls_attn_layers": 1, "embed_dim": 48, "num_heads": 4, "img_size": 64}
_CROSS = {"embed_dim": (16, 32), "num_heads": (2, 2)}
_CROSSING = 2 * 2
"""Keys and values of each branch's tokens, for the class token of the other."""
_CONVOLUTIONS = {"layers": 0, "blocks": 0}

MEMBERS = (
    _timm("DeiT", "deit_tiny_distilled_patch16_224", _VIT),
    _hf("DeiT", "DeiTForImageClassification", _HF),
    _timm("DeiT-3", "deit3_small_patch16_224", _VIT),
    _timm("DeiT-3", "deit3_medium_patch16_224", _VIT | {"img_size": (48, 80)}),
    _timm("BEiT", "beit_base_patch16_224", _VIT),
    _timm("BEiT", "beit3_base_patch16_224", _VIT),
    _hf("BEiT", "BeitForImageClassification", _HF),
    _timm("DINOv2", "vit_giant_patch14_dinov2", _VIT14),
    _hf("DINOv2", "Dinov2WithRegistersModel", _HF | {"patch_size": 14}, image_size=(56, 70)),
    _timm("DINOv3", "vit_small_patch16_dinov3", _VIT),
    _hf("DINOv3", "DINOv3ViTModel", _HF),
    _timm("EVA-02", "eva02_tiny_patch14_224", _VIT14),
    _timm("EVA-02", "eva02_base_patch16_clip_224", _VIT),
    _timm("CLIP", "vit_base_patch16_clip_quickgelu_224", _VIT),
    _hf("CLIP", "CLIPVisionModelWithProjection", _HF),
    _timm("SigLIP", "vit_base_patch16_siglip_gap_224", _VIT),
    _hf("SigLIP", "SiglipVisionModel", _HF),
    _timm("MAE", "vit_base_patch16_224.mae", _VIT),
    _timm("MAE", "vit_huge_patch14_224.mae", _VIT14),
    _timm("I-JEPA", "vit_huge_patch14_gap_224.in1k_ijepa", _VIT14),
    _hf("I-JEPA", "IJepaModel", _HF),
    _timm("Swin", "swin_tiny_patch4_window7_224", _SWIN | {"img_size": 32}, **_SWIN_FOUND),
    _hf("Swin", "SwinForImageClassification", _SWIN, image_size=(32, 32), **_SWIN_FOUND),
    _timm("SwinV2", "swinv2_tiny_window8_256", _SWIN | {"img_size": 32}, **_SWIN_FOUND),
    _hf("SwinV2", "Swinv2ForImageClassification", _SWIN, image_size=(32, 32), **_SWIN_FOUND),
    _timm(
        *("Hiera", "hiera_tiny_224"),
        {
            "embed_dim": 16,
            "num_heads": 1,
            "stages": (1, 1, 1),
            "q_pool": 2,
            "mask_unit_size": (4, 4),
        },
        image_size=(64, 64),
        layers=4 * 3 + 2,  # two widen
        blocks=3,
        note="attention over 16 of 256 tokens",
    ),
    _timm(
        *("Hiera", "hieradet_small"),
        {
            **{"embed_dim": 16, "stages": (1, 1, 2), "global_att_blocks": (3,), "q_pool": 2},
            "window_spec": (4, 4, 4),
        },
        image_size=(64, 64),
        layers=4 * 4 + 2,
        blocks=4,
        note=WINDOWS,
    ),
    _timm(
        *("SAM", "samvit_base_patch16"),
        _VIT | {"global_attn_indexes": (1,), "window_size": 2},
        note=WINDOWS,
    ),
    _timm("SAM", "samvit_base_patch16_224", _VIT | {"window_size": 2}, note=WINDOWS),
    # Where keys are pooled, queries are apart from keys and values.
    _timm(
        *("PVT", "pvt_v2_b0", _PVT | {"sr_ratios": (4, 1)}),
        image_size=(64, 64),
        layers=5 + 4,
        blocks=1,
        attentions=1,
    ),
    _hf(
        *("PVT", "PvtV2ForImageClassification"),
        {
            **{"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32]},
            **{"num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "sr_ratios": [4, 1]},
            **{"patch_sizes": [7, 3], "strides": [4, 2]},
        },
        layers=6 + 4,  # keys apart from values too
        blocks=1,
        attentions=1,
    ),
    # Attention over channels is in no block; the class reads from all tokens in the last.
    _timm(
        *("XCiT", "xcit_nano_12_p16_224", _XCIT | {"depth": DEPTH}),
        layers=PLAIN + 2,
        blocks=0,
        attentions=DEPTH + 1,
    ),
    _timm(
        *("XCiT", "xcit_tiny_12_p8_224", _XCIT | {"depth": 1}),
        layers=4 + 6,
        blocks=1,
        attentions=1,
        one_token=4,
        note="attention over 1 of 65 tokens",
    ),
    # A block over windows and a block over channels in turn.
    _timm(
        *("DaViT", "davit_tiny"),
        {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 2)},
        image_size=(56, 56),
        layers=2 * 2 * 4,
        blocks=0,
        attentions=2 * 2,
    ),
    _timm(
        *("DaViT", "davit_small"),
        {"depths": (1,), "embed_dims": (16,), "num_heads": (2,)},
        image_size=(56, 56),
        layers=2 * 4,
        blocks=0,
        attentions=2,
    ),
    _timm("MobileViT v2", "mobilevitv2_050", {}, image_size=(64, 64), **_CONVOLUTIONS),
    _timm("MobileViT v2", "mobilevitv2_075", {}, image_size=(64, 64), **_CONVOLUTIONS),
    # Heads that talk are mixed on both sides of the softmax, which is then no attention that is
    # known; in the last two blocks the class reads from all tokens.
    _timm(
        *("CaiT", "cait_xxs24_224", _VIT),
        layers=PLAIN + 2 * 6,
        one_token=2 * 4,
        note="attention over 1 of 17 tokens",
    ),
    _timm(
        *("CaiT", "cait_s24_224", _VIT | {"depth": 1}),
        layers=4 + 2 * 6,
        one_token=2 * 4,
        note="attention over 1 of 17 tokens",
    ),
    _timm(
        *("CrossViT", "crossvit_tiny_240", _CROSS | {"depth": ((1, 1, 0),)}),
        layers=2 * 4 + _CROSSING,
        blocks=2,
        attentions=2,
    ),
    _timm(
        *("CrossViT", "crossvit_9_dagger_240", _CROSS | {"depth": ((1, 2, 0),)}),
        layers=3 * 4 + _CROSSING,
        blocks=3,
        attentions=2,
    ),
    _timm("FastViT", "fastvit_t8", _STAGES, image_size=(64, 64), **_CONVOLUTIONS),
    _timm(
        *("FastViT", "fastvit_sa12", _STAGES),
        image_size=(64, 64),
        layers=2,  # the MLP is made of convolutions
        blocks=0,
        attentions=1,
    ),
    _timm("EfficientViT", "efficientvit_b0", {}, image_size=(64, 64), **_CONVOLUTIONS),
    _timm(
        *("EfficientViT", "efficientvit_b1"),
        {"widths": (8, 16, 16, 32, 32), "depths": (1, 1, 1, 1, 1)},
        image_size=(64, 64),
        **_CONVOLUTIONS,
    ),
    # Two attentions side by side, then two MLPs; one layer for all that reads the tokens.
    _timm(
        *("parallel", "vit_small_patch16_18x2_224", _VIT),
        layers=2 * PLAIN,
        blocks=0,
        attentions=2 * DEPTH,
    ),
    _timm(
        *("parallel", "vit_large_patch14_xp_224", _VIT14),
        layers=3 * DEPTH,
        blocks=0,
        attentions=DEPTH,
    ),
    # The difference of two softmaxes is no attention that is known.
    _timm("differential", "vit_dwee_patch16_reg1_gap_256", _VIT, blocks=0),
    _timm("differential", "vit_dpwee_patch16_reg1_gap_256", _VIT, layers=2 * DEPTH, blocks=0),
)
"""Two of each family that people deploy; some are not square."""
