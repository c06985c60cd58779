"""The rows of the table of models: which models, how small they are made, what decodes them."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import edge_vit
from edge_vit.data.preprocess import preprocess
from edge_vit.export.reference import normalise
from edge_vit.export.sources import SourceRequest, TorchSource, open_source
from edge_vit.runtime.session import SessionOptions, open_session
from edge_vit.tasks import task_of
from edge_vit.tasks.detection.decoding import find_boxes
from edge_vit.tasks.segmentation.decoding import semantic_map

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from reseed import reseed

Photo = npt.NDArray[np.uint8]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Made:
    """A model with its weights, as the library has it and as edge-vit is asked for it."""

    request: SourceRequest
    source: TorchSource
    # Photographs to what the model takes, as the library does it
    pixels: Callable[[Photo], Any]
    processor: Any = None  # of transformers


Decode = Callable[[Made, edge_vit.Bundle, Sequence[Photo]], tuple[str, float]]
"""Returns what the decoding was compared with, and the largest difference."""


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


def compare_outputs(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare the outputs for photographs as they are, preprocessing included."""
    import torch

    spec, differences = bundle.spec, []
    with open_session(bundle, "fp32", "ort", SessionOptions(1)) as session:
        for photo in photos:
            with torch.no_grad():
                wanted = np.asarray(made.source.module(made.pixels(photo)))
            feeds = {spec.inputs[0].name: preprocess(photo, spec.preprocess)[None]}
            got = session.run(feeds)[spec.outputs[0].name]
            differences.append(np.abs(got - wanted).max() / np.abs(wanted).max())
    return "preprocessing and outputs of the library", float(max(differences))


def compare_boxes(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare the boxes with those of transformers' own post-processing, in shares of the side."""
    import torch
    from transformers.modeling_outputs import ModelOutput

    largest, side = 0.0, 64
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, side, side), "f4"))
    with torch.no_grad():
        logits, boxes = made.source.module(images)
    post_process = made.processor.post_process_object_detection
    more = {}
    if "top_k" in inspect.signature(post_process).parameters:
        more["top_k"] = logits.shape[1]
    for size in ((480, 640), (333, 200)):
        found = ModelOutput(logits=logits, pred_boxes=boxes)
        (wanted,) = post_process(found, threshold=0.001, target_sizes=[size], **more)
        outputs = {"logits": logits[0].numpy(), "boxes": boxes[0].numpy()}
        ours = find_boxes(bundle.spec, outputs, size, min_score=0.001, clip=False)
        order = np.lexsort((wanted["boxes"][:, 0].numpy(), wanted["labels"].numpy()))
        again = np.lexsort((ours.boxes[:, 0], ours.classes))
        difference = np.abs(ours.boxes[again] - wanted["boxes"].numpy()[order]).max()
        largest = max(largest, float(difference) / max(size))
    return "post_process_object_detection of transformers", largest


def compare_masks(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare the classes of pixels with those of transformers' own post-processing: a share."""
    import torch
    from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

    spec, source, size = bundle.spec, made.source, (100, 150)
    height, width = spec.preprocess.image_size
    noise = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        outputs = source.module(torch.from_numpy(noise))
    if len(outputs) == 1:
        processor, given = SegformerImageProcessor(), SimpleNamespace(logits=outputs[0])
    else:
        processor = Mask2FormerImageProcessor()
        given = SimpleNamespace(class_queries_logits=outputs[0], masks_queries_logits=outputs[1])
    (wanted,) = processor.post_process_semantic_segmentation(given, target_sizes=[size])
    rows = {name: part[0].numpy() for name, part in zip(source.outputs, outputs, strict=True)}
    found = semantic_map(spec, rows, size, spec.preprocess)
    differing = float(np.mean(found != wanted.numpy()))
    return (
        "post_process_semantic_segmentation of transformers, on noise: share of pixels",
        differing,
    )


def compare_depths(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare depths in the photograph's pixels with transformers' own, over the largest."""
    import torch
    from transformers import DPTImageProcessor

    spec, photo = bundle.spec, photos[0]
    size = (photo.shape[0] // 4, photo.shape[1] // 4)
    pixels = preprocess(photo, spec.preprocess)
    with torch.no_grad():
        outputs = made.source.module(torch.from_numpy(normalise(pixels[None], spec.preprocess)))
    depth = outputs[0] if isinstance(outputs, tuple) else outputs
    given = SimpleNamespace(predicted_depth=depth)
    (theirs,) = DPTImageProcessor().post_process_depth_estimation(given, target_sizes=[size])
    wanted = theirs["predicted_depth"].numpy()
    (ours,) = task_of(spec).decode(spec, {"depth": depth.numpy()}, sizes=[size])
    difference = float(np.abs(ours.whole() - wanted).max() / wanted.max())
    return "post_process_depth_estimation of transformers", difference


def timm_row(name: str, family: str, size: int | None = None, **arguments: object) -> ModelRow:
    """Return the row of a model of timm, at `size` pixels."""

    def make(folder: Path) -> Made:
        import timm
        from safetensors.torch import save_file

        image_size = (size, size) if size else None
        stated = {"model_args": arguments, "image_size": image_size}
        source = open_source(SourceRequest(f"timm:{name}", random_weights=True, **stated))
        reseed(source.module)
        path = folder / "model.safetensors"
        save_file(source.module.state_dict(), path)
        facts = timm.data.resolve_model_data_config(source.module)
        facts["input_size"] = (3, *source.preprocess.image_size)
        transform = timm.data.create_transform(**facts, is_training=False)
        request = SourceRequest(f"timm:{name}", checkpoint=path, **stated)
        return Made(request, source, lambda photo: transform(Image.fromarray(photo))[None])

    return ModelRow(f"timm:{name}", family, "timm", make, compare_outputs, arguments)


def torchvision_row(name: str, family: str) -> ModelRow:
    """Return the row of a whole model of torchvision."""

    def make(folder: Path) -> Made:
        import torch
        from torchvision.models import get_model_weights

        source = open_source(SourceRequest(f"torchvision:{name}", random_weights=True))
        reseed(source.module)
        path = folder / "model.pth"
        torch.save(source.module.state_dict(), path)
        transform = get_model_weights(name).DEFAULT.transforms()
        request = SourceRequest(f"torchvision:{name}", checkpoint=path)
        return Made(request, source, lambda photo: transform(Image.fromarray(photo))[None])

    return ModelRow(f"torchvision:{name}", family, "torchvision", make, compare_outputs)


def edgevit_row(name: str) -> ModelRow:
    """Return the row of a model of our own."""

    def make(folder: Path) -> Made:
        request = SourceRequest(f"edgevit:{name}", random_weights=True)
        return Made(request, open_source(request), lambda photo: None)

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

        return from_folder(make_detector(model_type), folder, processor, 64)

    return ModelRow(f"hf:{name}", family, "transformers", make, compare_boxes)


def segmenter_row(model_type: str, name: str, family: str) -> ModelRow:
    """Return the row of a small segmentation model: see tests/small_segmenters.py."""

    def make(folder: Path) -> Made:
        from small_segmenters import make_segmenter

        return from_folder(make_segmenter(model_type), folder, "SegformerImageProcessor", 64)

    return ModelRow(f"hf:{name}", family, "transformers", make, compare_masks)


def depth_row(kind: str, name: str, family: str) -> ModelRow:
    """Return the row of a small depth model: see tests/small_depths.py."""

    def make(folder: Path) -> Made:
        from small_depths import save_depth_model

        path = folder / "model"
        path.mkdir()
        request = SourceRequest(f"hf:{save_depth_model(kind, path)}")
        return Made(request, open_source(request), lambda photo: None)

    return ModelRow(f"hf:{name}", family, "transformers", make, compare_depths)


def from_folder(model: Any, folder: Path, processor: str, size: int) -> Made:
    """Return `model` of transformers, saved to a folder as the hub would give it."""
    import transformers

    path = folder / "model"
    model.save_pretrained(path)
    facts = {"image_processor_type": processor, "size": {"height": size, "width": size}}
    facts |= {"do_resize": True, "do_center_crop": False, **IMAGENET}
    (path / "preprocessor_config.json").write_text(json.dumps(facts))
    own = getattr(transformers, processor).from_pretrained(path)
    request = SourceRequest(f"hf:{path}")

    def pixels(photo: Photo) -> Any:
        return own(Image.fromarray(photo), return_tensors="pt")["pixel_values"]

    return Made(request, open_source(request), pixels, own)


_TWO = {"depth": 2}
_ONES = (1, 1, 1, 1)
_HF = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_HF |= {"intermediate_size": 128, "image_size": 64, "patch_size": 16}

ROWS: tuple[ModelRow, ...] = (
    edgevit_row("vit_digits"),
    torchvision_row("vit_b_32", "ViT"),
    torchvision_row("swin_t", "Swin"),
    torchvision_row("swin_v2_t", "Swin v2"),
    torchvision_row("maxvit_t", "MaxViT"),
    timm_row("vit_tiny_patch16_224", "ViT", 64, **_TWO),
    timm_row("vit_small_patch16_224", "ViT", 64, **_TWO),
    timm_row("vit_base_patch16_224", "ViT", 64, **_TWO),
    timm_row("vit_base_patch16_rpn_224", "ViT", 64, **_TWO),
    timm_row("vit_base_patch16_clip_quickgelu_224", "CLIP", 64, **_TWO),
    timm_row("vit_base_patch16_siglip_224", "SigLIP", 64, **_TWO),
    timm_row("vit_little_patch16_reg4_gap_256", "ViT with registers", 64, **_TWO),
    timm_row("vit_so150m2_patch16_reg1_gap_256", "ViT with registers", 64, **_TWO),
    timm_row("vit_medium_patch16_gap_256", "ViT", 64, **_TWO),
    timm_row("vit_relpos_small_patch16_224", "ViT, relative positions", 64, **_TWO),
    timm_row("vit_betwixt_patch16_rope_reg4_gap_256", "ViT, rotary", 64, **_TWO),
    timm_row("vit_small_patch16_rope_224", "ViT, rotary", 64, **_TWO),
    timm_row("flexivit_small", "FlexiViT", 60, **_TWO),
    timm_row("deit_tiny_distilled_patch16_224", "DeiT", 64, **_TWO),
    timm_row("deit3_small_patch16_224", "DeiT-3", 64, **_TWO),
    timm_row("beit_base_patch16_224", "BEiT", 64, **_TWO),
    timm_row("beitv2_base_patch16_224", "BEiT v2", 64, **_TWO),
    timm_row("beit3_base_patch16_224", "BEiT-3", 64, **_TWO),
    timm_row("vit_small_patch14_dinov2", "DINOv2", 56, **_TWO),
    timm_row("vit_small_patch14_reg4_dinov2", "DINOv2", 56, **_TWO),
    timm_row("vit_giant_patch14_dinov2", "DINOv2", 56, **_TWO, embed_dim=96, num_heads=4),
    timm_row("vit_small_patch16_dinov3", "DINOv3", 64, **_TWO),
    timm_row("vit_small_plus_patch16_dinov3", "DINOv3", 64, **_TWO),
    timm_row("eva02_tiny_patch14_224", "EVA-02", 56, **_TWO),
    timm_row("eva_giant_patch14_224", "EVA", 56, **_TWO, embed_dim=96, num_heads=4),
    timm_row("aimv2_large_patch14_224", "AIMv2", 56, **_TWO, embed_dim=96, num_heads=4),
    timm_row("vit_pe_core_tiny_patch16_384", "Perception Encoder", 64, **_TWO),
    timm_row("samvit_base_patch16", "SAM encoder", 64, **_TWO, global_attn_indexes=(1,)),
    timm_row("vit_small_patch16_18x2_224", "ViT, parallel", 64, **_TWO),
    timm_row("vit_large_patch14_xp_224", "ViT, parallel", 56, **_TWO, embed_dim=96, num_heads=4),
    timm_row("vit_pwee_patch16_reg1_gap_256", "ViT, parallel", 64, **_TWO),
    timm_row("vit_dwee_patch16_reg1_gap_256", "ViT, differential attention", 64, **_TWO),
    timm_row("vit_dpwee_patch16_reg1_gap_256", "ViT, differential attention", 64, **_TWO),
    timm_row("naflexvit_base_patch16_gap", "NaFlexViT", None, **_TWO),
    timm_row("swin_tiny_patch4_window7_224", "Swin", 112, depths=_ONES),
    timm_row("swinv2_tiny_window8_256", "Swin v2", 128, depths=_ONES),
    timm_row("swinv2_cr_tiny_224", "Swin v2", 112, depths=_ONES),
    timm_row("hiera_tiny_224", "Hiera", 224, stages=_ONES),
    timm_row("hieradet_small", "Hiera", 64, stages=_ONES, global_att_blocks=(2,)),
    timm_row("mvitv2_tiny", "MViT v2", 64, depths=_ONES),
    timm_row("pvt_v2_b0", "PVT v2", 64, depths=_ONES),
    timm_row("twins_pcpvt_small", "Twins", 112, depths=_ONES),
    timm_row("twins_svt_small", "Twins", 112, depths=_ONES),
    timm_row("xcit_nano_12_p16_224", "XCiT", 64, depth=2, cls_attn_layers=1),
    timm_row("davit_tiny", "DaViT", 64, depths=_ONES),
    timm_row("cait_xxs24_224", "CaiT", 64, **_TWO),
    timm_row("crossvit_tiny_240", "CrossViT", 240),
    timm_row("tnt_s_patch16_224", "TNT", 64, **_TWO),
    timm_row("volo_d1_224", "VOLO", 64, layers=_ONES),
    timm_row("convit_tiny", "ConViT", 64, depth=2),
    timm_row("nest_tiny", "NesT", 112, depths=(1, 1, 1)),
    timm_row("pit_ti_224", "PiT", 64, depths=(1, 1, 1)),
    timm_row("coat_tiny", "CoaT", 64, serial_depths=_ONES, parallel_depth=1),
    timm_row("gcvit_xxtiny", "GCViT", 224, depths=_ONES),
    timm_row("levit_128s", "LeViT", 224),
    timm_row("mobilevit_xxs", "MobileViT", 64),
    timm_row("mobilevitv2_050", "MobileViT v2", 64),
    timm_row("edgenext_xx_small", "EdgeNeXt", 64),
    timm_row("fastvit_t8", "FastViT", 64, layers=_ONES),
    timm_row("fastvit_sa12", "FastViT", 64, layers=_ONES),
    timm_row("efficientvit_b0", "EfficientViT (MIT)", 64),
    timm_row("efficientvit_m0", "EfficientViT (MSRA)", 224),
    timm_row("efficientformer_l1", "EfficientFormer", 224),
    timm_row("efficientformerv2_s0", "EfficientFormer v2", 224),
    timm_row("nextvit_small", "NextViT", 64),
    timm_row("coatnet_pico_rw_224", "CoAtNet", 64),
    timm_row("maxvit_pico_rw_256", "MaxViT", 64),
    timm_row("visformer_tiny", "Visformer", 64),
    timm_row("tiny_vit_5m_224", "TinyViT", 224),
    timm_row("vitamin_small_224", "ViTamin", 224),
    timm_row("vit_small_r26_s32_224", "ViT behind ResNet", 64, **_TWO),
    timm_row("botnet26t_256", "BoTNet", 64),
    timm_row("sequencer2d_s", "Sequencer", 64, layers=_ONES),
    timm_row("mixer_s32_224", "MLP-Mixer", 64, num_blocks=2),
    timm_row("gmlp_ti16_224", "gMLP", 64, num_blocks=2),
    timm_row("poolformer_s12", "MetaFormer", 64, depths=_ONES),
    timm_row("caformer_s18", "MetaFormer", 64, depths=_ONES),
    timm_row("focalnet_tiny_srf", "FocalNet", 64, depths=_ONES),
    timm_row("swiftformer_xs", "SwiftFormer", 64),
    timm_row("convnext_atto", "ConvNeXt", 64, depths=_ONES),
    hf_row("ViTForImageClassification", "ViT", **_HF),
    hf_row("DeiTForImageClassification", "DeiT", "DeiTImageProcessor", **_HF),
    hf_row("BeitForImageClassification", "BEiT", "BeitImageProcessor", **_HF),
    hf_row("ViTMSNForImageClassification", "MSN", **_HF),
    hf_row("Dinov2Model", "DINOv2", "BitImageProcessor", **_HF),
    hf_row("Dinov2WithRegistersModel", "DINOv2", "BitImageProcessor", **_HF),
    hf_row("Dinov2ForImageClassification", "DINOv2", "BitImageProcessor", **_HF),
    hf_row("DINOv3ViTModel", "DINOv3", "DINOv3ViTImageProcessor", **_HF),
    hf_row("IJepaModel", "I-JEPA", **_HF),
    hf_row("SiglipVisionModel", "SigLIP", "SiglipImageProcessor", **_HF),
    hf_row("CLIPVisionModelWithProjection", "CLIP", "CLIPImageProcessor", **_HF),
    hf_row(
        "SwinForImageClassification",
        "Swin",
        image_size=64,
        embed_dim=24,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    detector_row("yolos", "YolosForObjectDetection", "YOLOS", "YolosImageProcessor"),
    detector_row("detr", "DetrForObjectDetection", "DETR", "DetrImageProcessor"),
    detector_row("rt_detr_v2", "RTDetrV2ForObjectDetection", "RT-DETR", "RTDetrImageProcessor"),
    detector_row("d_fine", "DFineForObjectDetection", "D-FINE", "RTDetrImageProcessor"),
    detector_row("rf_detr", "RfDetrForObjectDetection", "RF-DETR", "RfDetrImageProcessor"),
    detector_row("lw_detr", "LwDetrForObjectDetection", "LW-DETR", "DeformableDetrImageProcessor"),
    segmenter_row("segformer", "SegformerForSemanticSegmentation", "SegFormer"),
    segmenter_row("dpt", "DPTForSemanticSegmentation", "DPT"),
    segmenter_row("beit", "BeitForSemanticSegmentation", "BEiT"),
    segmenter_row("data2vec-vision", "Data2VecVisionForSemanticSegmentation", "Data2Vec"),
    segmenter_row("eomt", "EomtForUniversalSegmentation", "EoMT"),
    segmenter_row("mask2former", "Mask2FormerForUniversalSegmentation", "Mask2Former"),
    segmenter_row("maskformer", "MaskFormerForInstanceSegmentation", "MaskFormer"),
    depth_row("depth_anything", "DepthAnythingForDepthEstimation", "Depth Anything"),
    depth_row("dpt", "DPTForDepthEstimation", "DPT"),
    depth_row("dpt of DINOv2", "DPTForDepthEstimation of DINOv2", "DPT"),
)
