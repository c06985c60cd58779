"""Small seeded depth models of transformers, in folders as its hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = (56, 84)  # height and width in pixels: not square, in patches of 14


def _backbone() -> Any:
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=70,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )


def _depth_anything() -> Any:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

    config = DepthAnythingConfig(
        backbone_config=_backbone(),
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
        patch_size=14,
    )
    return DepthAnythingForDepthEstimation(config)


def _dpt_config(**more: Any) -> Any:
    from transformers import DPTConfig

    return DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=70,
        patch_size=14,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        is_hybrid=False,
        **more,
    )


def _dpt() -> Any:
    from transformers import DPTForDepthEstimation

    return DPTForDepthEstimation(_dpt_config())


def _dpt_dinov2() -> Any:
    from transformers import DPTForDepthEstimation

    return DPTForDepthEstimation(_dpt_config(backbone_config=_backbone()))


MAKERS = {"depth_anything": _depth_anything, "dpt": _dpt, "dpt of DINOv2": _dpt_dinov2}


def make_depth_model(kind: str) -> Any:
    """Return the model of `kind`, in eval mode, whose depth is not flat and nowhere cut off."""
    torch.manual_seed(0)
    model = MAKERS[kind]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif "position" in name:
                parameter.normal_(std=0.3)
            elif parameter.ndim > 1:
                parameter.mul_(3)
        last = [m for m in model.head.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.weight.mul_(0.1)
        last.bias.fill_(3)  # so that the last ReLU lets all pass
    return model


def save_depth_model(kind: str, folder: Path) -> Path:
    """Write the model of `kind`, with the image processor of its kind, into `folder`."""
    make_depth_model(kind).save_pretrained(folder)
    processor = {
        "image_processor_type": "DPTImageProcessor",
        **{"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": False},
        **{"size": {"height": SIDE[0], "width": SIDE[1]}, "keep_aspect_ratio": False},
        **{"ensure_multiple_of": 14, "resample": 3, "rescale_factor": 1 / 255},
        **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
