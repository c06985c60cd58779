"""Small seeded detectors of transformers: one of each class that an ``hf:`` address takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from edge_vit.spec import ModelSpec, TensorSpec, image_input

NUM_CLASSES = 5
NUM_QUERIES = 10
SIDE = 64


def make_detector(model_type: str) -> Any:
    """Return the detector of `model_type`, in eval mode, whose scores differ between images."""
    torch.manual_seed(0)
    model = _MAKERS[model_type]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_parameters()  # RT-DETR v2's begin at 0.01, one behind the other
        for name, parameter in model.named_parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)  # else nothing of the image is left
            elif parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.1)  # a head of zeros gives every query the same score
            elif parameter.ndim > 1 and ("class" in name or "bbox" in name):
                parameter.mul_(8)  # scores and boxes that differ between queries and images
            elif parameter.ndim > 1 and "embed_positions" not in name:
                parameter.mul_(1.5)
    return model


def save_with_processor(model: Any, path: Path, processor: str) -> None:
    """Write a model's folder, with facts of a processor that resizes images to `SIDE`."""
    model.save_pretrained(path)
    facts = {
        "image_processor_type": processor,
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
    }
    (path / "preprocessor_config.json").write_text(json.dumps(facts))


def _labels() -> dict[str, Any]:
    names = {index: f"thing {index}" for index in range(NUM_CLASSES)}
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def _resnet(*stages: str) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        out_features=list(stages or ("stage4",)),
    )


def _yolos() -> Any:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[SIDE, SIDE],
        patch_size=16,
        num_detection_tokens=NUM_QUERIES,
        **_labels(),
    )
    return YolosForObjectDetection(config)


def _detr(name: str = "Detr", width: str = "d_model", *stages: str, **more: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_resnet(*stages),
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=NUM_QUERIES,
        **{width: 32},
        **_labels(),
        **more,
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def _deformable(**more: Any) -> Any:
    stages = ("stage2", "stage3", "stage4")
    points = {"num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 2}
    return _detr("DeformableDetr", "d_model", *stages, **points, **more)


def _hybrid(name: str, **more: Any) -> Any:
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 32],
        encoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_in_channels=[32, 32, 32],
        d_model=32,
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=NUM_QUERIES,
        num_denoising=0,
        anchor_image_size=[SIDE, SIDE],
        **_labels(),
        **more,
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def rf_detr_config() -> Any:
    """Return the config of a small RF-DETR."""
    from transformers import RfDetrConfig, RfDetrDinov2Config

    backbone = RfDetrDinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=SIDE,
        patch_size=8,
        num_windows=2,
        out_features=["stage1", "stage2"],
    )
    return RfDetrConfig(
        backbone_config=backbone,
        d_model=32,
        decoder_layers=2,
        decoder_ffn_dim=64,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        decoder_n_points=2,
        group_detr=2,
        num_queries=NUM_QUERIES,
        c2f_num_blocks=1,
        **_labels(),
    )


def _rf_detr() -> Any:
    from transformers import RfDetrForObjectDetection

    return RfDetrForObjectDetection(rf_detr_config())


def _lw_detr() -> Any:
    from transformers import LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig

    backbone = LwDetrViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=SIDE,
        pretrain_image_size=SIDE,
        patch_size=8,
        num_windows=4,
        window_block_indices=[0],
        out_indices=[1, 2],
    )
    config = LwDetrConfig(
        backbone_config=backbone,
        projector_scale_factors=[1.0],
        d_model=32,
        decoder_layers=2,
        decoder_ffn_dim=64,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        decoder_n_points=2,
        group_detr=2,
        num_queries=NUM_QUERIES,
        **_labels(),
    )
    return LwDetrForObjectDetection(config)


_MAKERS: Mapping[str, Callable[[], Any]] = {
    "yolos": _yolos,
    "detr": _detr,
    "conditional_detr": lambda: _detr("ConditionalDetr"),
    "dab-detr": lambda: _detr("DabDetr", "hidden_size"),
    "deformable_detr": _deformable,
    "table-transformer": lambda: _detr("TableTransformer"),
    "rt_detr": lambda: _hybrid("RTDetr"),
    "rt_detr_v2": lambda: _hybrid("RTDetrV2"),
    "d_fine": lambda: _hybrid("DFine", num_feature_levels=3, decoder_n_points=[2, 2, 2]),
    "deimv2": lambda: _hybrid("Deimv2", num_feature_levels=3, decoder_n_points=[2, 2, 2]),
    "rf_detr": _rf_detr,
    "lw_detr": _lw_detr,
}

DETECTORS = tuple(_MAKERS)


def spec_of(source: Any, columns: int) -> ModelSpec:
    """Return the facts of a detector `source` whose class output has `columns`."""
    shape = ("batch", NUM_QUERIES)
    return ModelSpec(
        name=source.name,
        source=source.address,
        task="detection",
        labels=source.labels,
        inputs=(image_input(source.preprocess.image_size),),
        outputs=(
            TensorSpec("logits", "float32", (*shape, columns)),
            TensorSpec("boxes", "float32", (*shape, 4)),
        ),
        preprocess=source.preprocess,
        activation=source.activation,
    )
