"""Folders of small models of transformers, as the hub would give them, all weights random."""

from __future__ import annotations

import json

import torch
import transformers

from edge_vit.export.sources import SourceRequest, open_source

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SMALL = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
NAMES = {0: "cat", 1: "dog", 2: "cow"}
VIT_IMAGES = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def make(folder, class_name="ViTForImageClassification", images=VIT_IMAGES, **config):
    """Return the model that is saved in `folder`, all weights random, with its preprocessing."""
    model_class = getattr(transformers, class_name)
    torch.manual_seed(1)
    model = model_class(model_class.config_class(**{**SMALL, "id2label": NAMES, **config})).eval()
    with torch.no_grad():  # tokens start at zero, layer scales at one
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    if images is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return model


def open_folder(folder, **said):
    return open_source(SourceRequest(f"hf:{folder}", **said))
