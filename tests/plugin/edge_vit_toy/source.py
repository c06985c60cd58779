"""Models by address ``toy:NAME``: a seeded ViT of two blocks with one output."""

from __future__ import annotations

import torch

from edge_vit.export.sources.values import torch_source
from edge_vit.spec import PreprocessSpec
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig


def open_toy(request):
    """Return the model, named after the address."""
    torch.manual_seed(0)
    config = VisionTransformerConfig(
        image_size=16, patch_size=8, num_classes=1, embed_dim=16, depth=1, num_heads=2
    )
    model = VisionTransformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    preprocess = PreprocessSpec((16, 16), crop_pct=1.0)
    name, task = request.target, request.task or "brightness"
    return torch_source(request, model, name=name, task=task, preprocess=preprocess)
