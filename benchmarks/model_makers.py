"""What makes the models of the table: each library's, small and seeded, and what decodes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_decoding import (
    Decode,
    Made,
    Photo,
    compare_boxes,
    compare_depths,
    compare_masks,
    compare_outputs,
)
from PIL import Image

from edge_vit.export.sources import SourceRequest, open_source

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from reseed import reseed, reseed_layers, settle_norms

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


_CLASSES = {"timesformer": "Timesformer", "videomae": "VideoMAE", "vivit": "Vivit"}
_CLASSES |= {"vjepa2": "VJEPA2"}
HF_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
HF_SMALL |= {"intermediate_size": 128, "image_size": 64, "patch_size": 16}


@dataclass(frozen=True)
class ModelRow:
    """A row of the table. `arguments` make the model smaller; `make` takes an empty folder."""

    name: str
    family: str
    library: str
    make: Callable[[Path], Made]
    decode: Decode | None
    arguments: Mapping[str, object] = field(default_factory=dict)
    weights: str = "seeded"


def timm_row(
    name: str, family: str, size: int | tuple[int, int] | None = None, **arguments: object
) -> ModelRow:
    """Return the row of a model of timm, at `size` pixels: the side, or height and width."""

    def make(folder: Path) -> Made:
        import timm
        import torch

        image_size = (size, size) if isinstance(size, int) else size
        stated = {"model_args": arguments, "image_size": image_size}
        source = open_source(SourceRequest(f"timm:{name}", random_weights=True, **stated))
        reseed(source.module)
        settle_norms(source.module, source.preprocess.image_size)
        path = folder / "model.pth"  # CoaT's layers share weights, which safetensors refuses
        torch.save(source.module.state_dict(), path)
        facts = timm.data.resolve_model_data_config(source.module)
        facts["input_size"] = (3, *source.preprocess.image_size)
        transform = timm.data.create_transform(**facts, is_training=False)
        more = {} if isinstance(size, int) else {"checkpoint_size": size}
        request = SourceRequest(f"timm:{name}", checkpoint=path, **stated, **more)
        return Made(request, source, lambda x: source.module(transform(Image.fromarray(x))[None]))

    return ModelRow(f"timm:{name}", family, "timm", make, compare_outputs, arguments)


def torchvision_row(name: str, family: str) -> ModelRow:
    """Return the row of a whole model of torchvision."""

    def make(folder: Path) -> Made:
        import torch
        from torchvision.models import get_model_weights

        source = open_source(SourceRequest(f"torchvision:{name}", random_weights=True))
        reseed(source.module)
        settle_norms(source.module, source.preprocess.image_size)
        path = folder / "model.pth"
        torch.save(source.module.state_dict(), path)
        transform = get_model_weights(name).DEFAULT.transforms()
        request = SourceRequest(f"torchvision:{name}", checkpoint=path)
        return Made(request, source, lambda x: source.module(transform(Image.fromarray(x))[None]))

    return ModelRow(f"torchvision:{name}", family, "torchvision", make, compare_outputs)


def edgevit_row(name: str) -> ModelRow:
    """Return the row of a model of our own."""

    def make(folder: Path) -> Made:
        request = SourceRequest(f"edgevit:{name}", random_weights=True)
        return Made(request, open_source(request))

    return ModelRow(f"edgevit:{name}", "ViT", "torch", make, None)


def hf_row(
    name: str,
    family: str,
    processor: str = "ViTImageProcessor",
    size: int = 64,
    decode: Decode | None = compare_outputs,
    **config: Any,
) -> ModelRow:
    """Return the row of a class of transformers, made small by `config`."""

    def make(folder: Path) -> Made:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        model_class = getattr(transformers, name)
        model = model_class(model_class.config_class(**config)).eval()
        reseed(model)
        return from_folder(model, folder, processor, size)

    return ModelRow(f"hf:{name}", family, "transformers", make, decode, config)


def detector_row(model_type: str, name: str, family: str, processor: str) -> ModelRow:
    """Return the row of a small detector of transformers: see tests/small_detectors.py."""

    def make(folder: Path) -> Made:
        from small_detectors import make_detector

        model = make_detector(model_type)
        reseed_layers(model)
        return from_folder(model, folder, f"{processor}ImageProcessor", 64)

    return ModelRow(f"hf:{name}", family, "transformers", make, compare_boxes)


def segmenter_row(
    model_type: str, name: str, family: str, decode: Decode = compare_masks
) -> ModelRow:
    """Return the row of a small segmentation model: see tests/small_segmenters.py."""

    def make(folder: Path) -> Made:
        from small_segmenters import make_segmenter

        model = make_segmenter(model_type)
        reseed_layers(model)
        settle_norms(model, (64, 64))
        return from_folder(model, folder, "SegformerImageProcessor", 64)

    return ModelRow(f"hf:{name}", family, "transformers", make, decode)


def depth_row(kind: str, name: str, family: str) -> ModelRow:
    """Return the row of a small depth model: see tests/small_depths.py."""

    def make(folder: Path) -> Made:
        from small_depths import make_depth_model, save_depth_model

        path = folder / "model"
        path.mkdir()
        save_depth_model(kind, path)
        model = make_depth_model(kind)
        reseed_layers(model)
        model.save_pretrained(path)
        request = SourceRequest(f"hf:{path}")
        return Made(request, open_source(request))

    return ModelRow(f"hf:{name}", family, "transformers", make, compare_depths)


def from_folder(model: Any, folder: Path, processor: str, size: int, task: Any = None) -> Made:
    """Return `model` of transformers, saved to a folder as the hub would give it.

    With the task ``dense`` it gives the map that transformers' own backbone of its kind gives.
    """
    import transformers

    path = folder / "model"
    model.save_pretrained(path)
    facts = {"image_processor_type": processor, "size": {"height": size, "width": size}}
    facts |= {"do_resize": True, "do_center_crop": False, **IMAGENET}
    (path / "preprocessor_config.json").write_text(json.dumps(facts))
    own = getattr(transformers, processor).from_pretrained(path)
    request = SourceRequest(f"hf:{path}", task=task)
    source = open_source(request)
    whole = source.module
    if task is not None:
        kind = getattr(transformers, type(model).__name__.removesuffix("Model") + "Backbone")
        backbone = kind.from_pretrained(path, out_features=model.config.stage_names[-1:]).eval()

        def whole(pixels: Any) -> Any:
            return backbone(pixels).feature_maps[0]

    def reference(photo: Photo) -> Any:
        return whole(own(Image.fromarray(photo), return_tensors="pt")["pixel_values"])

    return Made(request, source, reference, own)


def dense_row(name: str, family: str, processor: str = "BitImageProcessor") -> ModelRow:
    """Return the row of the features on a grid of a class of transformers without a head."""

    def make(folder: Path) -> Made:
        import transformers

        model_class = getattr(transformers, name)
        model = model_class(model_class.config_class(**HF_SMALL)).eval()
        reseed(model)
        return from_folder(model, folder, processor, 64, task="dense")

    return ModelRow(f"hf:{name} as a map", family, "transformers", make, compare_outputs, HF_SMALL)


def clip_row(key: str, name: str, family: str, **config: Any) -> ModelRow:
    """Return the row of a small model of clips: see tests/small_clips.py."""
    head = name.removeprefix(_CLASSES[key])

    def make(folder: Path) -> Made:
        import transformers
        from small_clips import CROP, PROCESSORS, make_clip_model

        path = folder / "model"
        model = make_clip_model(path, key, head=head, **config)
        reseed(model)
        model.save_pretrained(path)
        request = SourceRequest(f"hf:{path}")
        source = open_source(request)
        kind, said = PROCESSORS[key.partition("-")[0]]
        own = getattr(transformers, kind)(crop_size=CROP, **said)

        def reference(clip: Photo) -> Any:
            return source.module(own(clip, return_tensors="pt")[model.main_input_name])

        return Made(request, source, reference)

    return ModelRow(f"hf:{name}", family, "transformers", make, compare_outputs, config)


def pair_row(name: str, family: str, decode: Decode = compare_outputs, **config: Any) -> ModelRow:
    """Return the row of a small model with labels as texts: see tests/small_pairs.py."""

    def make(folder: Path) -> Made:
        import transformers
        from small_pairs import IMAGES, LABELS, ask, logits_of, make_pair

        images = dict(IMAGES)
        if name == "Siglip2":
            images["image_processor_type"] = "Siglip2ImageProcessor"
            images |= {"patch_size": 8, "max_num_patches": 16}
        path = folder / "model"
        path.mkdir()
        model, tokenizer = make_pair(path, name, images=images, **config)
        reseed(model)
        model.logit_scale.data.fill_(2.0)
        model.save_pretrained(path)
        own = transformers.AutoImageProcessor.from_pretrained(path)
        texts = [f"a photo of a {label}" for label in LABELS]

        def reference(photo: Photo) -> Any:
            pixels = own(Image.fromarray(photo), return_tensors="pt")
            return logits_of(model, tokenizer, texts, **pixels)

        request = ask(path)
        return Made(request, open_source(request), reference)

    return ModelRow(f"hf:{name}Model with labels", family, "transformers", make, decode, config)


def python_row(target: str, family: str, decode: Decode | None) -> ModelRow:
    """Return the row of a module of tests/small_dit.py."""

    def make(folder: Path) -> Made:
        request = SourceRequest(f"python:{target}", random_weights=True)
        return Made(request, open_source(request))

    return ModelRow(f"python:{target}", family, "torch", make, decode)
