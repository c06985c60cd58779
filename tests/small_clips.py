"""Small seeded models of clips of transformers, in folders as its hub has them."""

from __future__ import annotations

import torch
import transformers

SIZE, FRAMES, CLASSES = 16, 4, 3
SMALL = {
    "image_size": SIZE,
    "patch_size": 8,
    "num_frames": FRAMES,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": CLASSES,
}
JEPA = {
    "crop_size": SIZE,
    "patch_size": 8,
    "frames_per_clip": FRAMES,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "num_pooler_layers": 1,
    "pred_hidden_size": 12,
    "pred_num_attention_heads": 1,
    "pred_num_hidden_layers": 1,
    "num_labels": CLASSES,
}
MODELS = {
    "timesformer": ("Timesformer", SMALL),
    "timesformer-joint": ("Timesformer", SMALL | {"attention_type": "joint_space_time"}),
    "timesformer-space": ("Timesformer", SMALL | {"attention_type": "space_only"}),
    "videomae": ("VideoMAE", SMALL),
    "vivit": ("Vivit", SMALL | {"tubelet_size": [2, 8, 8]}),
    "vjepa2": ("VJEPA2", JEPA),
}
CROP = {"height": SIZE, "width": SIZE}
PROCESSORS = {
    "timesformer": ("TimesformerVideoProcessor", {"size": {"shortest_edge": SIZE}}),
    "videomae": ("VideoMAEVideoProcessor", {"size": {"shortest_edge": SIZE}}),
    "videomae-image": ("VideoMAEImageProcessor", {"size": {"shortest_edge": SIZE}}),
    "vivit": ("VivitVideoProcessor", {"size": {"shortest_edge": 18}}),
    "vjepa2": ("VJEPA2VideoProcessor", {}),
}


def make_clip_model(folder, key, processor=None, head="ForVideoClassification", **larger):
    """Return the model of `MODELS` that is saved in `folder` with its processor, weights random.

    `larger` goes over its configuration.
    """
    name, config = MODELS[key]
    model_class = getattr(transformers, name + head)
    torch.manual_seed(1)
    model = model_class(model_class.config_class(**config | larger)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    kind, said = PROCESSORS[processor or key.partition("-")[0]]
    getattr(transformers, kind)(crop_size=CROP, **said).save_pretrained(folder)
    return model
