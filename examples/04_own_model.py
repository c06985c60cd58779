"""Your own network: any torch module whose blocks are Vision Transformer blocks.

edge-vit finds attention and linear layers by the structure of the graph, so names do not matter.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import nn

import edge_vit
from edge_vit.data.images import ArraySource


class Layer(nn.Module):
    """One block: attention, then an MLP, each beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out, self.up = nn.Linear(width, width), nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, tokens):
        """Return (batch, tokens, width) from the same."""
        normed = self.before_attention(tokens)
        parts = self.query(normed), *self.key_value(normed).chunk(2, dim=-1)
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(attended)
        return tokens + self.down(F.gelu(self.up(self.before_mlp(tokens))))


class MyTransformer(nn.Module):
    """A small Vision Transformer that averages its patches instead of having a class token."""

    # How an image becomes the input: said once, here, and carried by the bundle.
    preprocess = edge_vit.PreprocessSpec((64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(self, width: int = 48, depth: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.places = nn.Parameter(torch.randn(1, 16, width))
        self.layers = nn.Sequential(*(Layer(width, heads=3) for _ in range(depth)))
        self.scores = nn.Linear(width, classes)

    def forward(self, images):
        """Return scores (batch, classes) of normalised images (batch, 3, 64, 64)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.scores(self.layers(tokens).mean(dim=1))


if __name__ == "__main__":
    # python:MODULE:FACTORY calls the factory of an importable module; --model-arg feeds it:
    #   edgevit export python:my_module:MyTransformer --model-arg depth=3 -o mine.edgevit
    flower, china = load_sample_images().images  # two real photographs, cut into 22 square images
    photos = [photo[:200, x : x + 200] for photo in (flower, china) for x in range(0, 440, 40)]
    bundle = edge_vit.export_bundle(
        "python:__main__:MyTransformer",
        "mine.edgevit",
        precision="int8",
        calibration=ArraySource(photos),
        force=True,
    )
    print(f"{bundle.spec.name}: {bundle.spec.depth} blocks of {bundle.spec.embed_dim} channels")
    for name, site in bundle.read_table().sites.items():
        print(f"  {name:12} {site.precision}: {site.reason}")
    with edge_vit.Predictor.open(bundle, "int8") as predictor:
        print(f"untrained, so of no consequence: {predictor.predict(photos[0], top=1).classes}")
