"""Small seeded segmentation models of transformers: one of each class that ``hf:`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

NUM_CLASSES = 5
NUM_QUERIES = 6
SIDE = 64


def make_segmenter(model_type: str) -> Any:
    """Return the model of `model_type`, in eval mode, whose masks differ between images."""
    torch.manual_seed(0)
    model = _MAKERS[model_type]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_parameters()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1 and ("class" in name or "bbox" in name):
                parameter.mul_(8)
            elif parameter.ndim > 1:
                parameter.mul_(1.5)
    return model


def _labels() -> dict[str, Any]:
    names = {index: f"thing {index}" for index in range(NUM_CLASSES)}
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def _segformer() -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 32],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
        mlp_ratios=[2, 2, 2, 2],
        **_labels(),
    )
    return SegformerForSemanticSegmentation(config)


def _dpt() -> Any:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        use_auxiliary_head=False,
        **_labels(),
    )
    return DPTForSemanticSegmentation(config)


def _beit(name: str) -> Any:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=16,
        out_indices=[1, 2, 3, 4],
        use_auxiliary_head=False,
        use_relative_position_bias=True,
        **_labels(),
    )
    return getattr(transformers, f"{name}ForSemanticSegmentation")(config)


def _eomt(name: str = "Eomt") -> Any:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
        num_blocks=2,
        num_queries=NUM_QUERIES,
        num_register_tokens=2,
        num_upscale_blocks=2,
        **_labels(),
    )
    return getattr(transformers, f"{name}ForUniversalSegmentation")(config)


def _swin() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        image_size=SIDE,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _mask2former() -> Any:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config = Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=NUM_QUERIES,
        **_labels(),
    )
    return Mask2FormerForUniversalSegmentation(config)


def _maskformer() -> Any:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation

    decoder = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        num_queries=NUM_QUERIES,
    )
    config = MaskFormerConfig(
        backbone_config=_swin(),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        **_labels(),
    )
    return MaskFormerForInstanceSegmentation(config)


def _rf_detr() -> Any:
    from small_detectors import rf_detr_config
    from transformers import RfDetrForInstanceSegmentation

    return RfDetrForInstanceSegmentation(rf_detr_config())


def _upernet() -> Any:
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    config = UperNetConfig(
        backbone_config=_swin(),
        hidden_size=16,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        **_labels(),
    )
    return UperNetForSemanticSegmentation(config)


def _mobilevit_v2() -> Any:
    from transformers import MobileViTV2Config, MobileViTV2ForSemanticSegmentation

    config = MobileViTV2Config(
        image_size=SIDE,
        width_multiplier=0.25,
        n_attn_blocks=[1, 1, 1],
        aspp_out_channels=16,
        **_labels(),
    )
    return MobileViTV2ForSemanticSegmentation(config)


def _mobilevit() -> Any:
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    config = MobileViTConfig(
        image_size=SIDE,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        expand_ratio=2.0,
        aspp_out_channels=16,
        **_labels(),
    )
    return MobileViTForSemanticSegmentation(config)


_MAKERS: Mapping[str, Callable[[], Any]] = {
    "segformer": _segformer,
    "dpt": _dpt,
    "beit": lambda: _beit("Beit"),
    "data2vec-vision": lambda: _beit("Data2VecVision"),
    "eomt": _eomt,
    "mask2former": _mask2former,
    "maskformer": _maskformer,
    "rf_detr": _rf_detr,
    "upernet": _upernet,
    "mobilevit": _mobilevit,
    "mobilevitv2": _mobilevit_v2,
    "eomt_dinov3": lambda: _eomt("EomtDinov3"),
}
SEGMENTERS = tuple(_MAKERS)


def spec_of(source: Any, outputs: Any) -> Any:
    """Return the facts of an opened model that gave `outputs`."""
    from edge_vit.spec import ModelSpec, TensorSpec, image_input

    tensors = tuple(
        TensorSpec(name, "float32", ("batch", *output.shape[1:]))
        for name, output in zip(source.outputs, outputs, strict=True)
    )
    return ModelSpec(
        *(source.name, source.address, source.task, source.labels),
        *((image_input(source.preprocess.image_size),), tensors, source.preprocess),
        activation=source.activation,
    )
