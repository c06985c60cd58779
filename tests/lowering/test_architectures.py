"""INT8 of ViTs written in other ways, and with the activations of large pretrained models."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import small_vits
import torch
from seeded import ALL_INT8, Remembered, Seeded, make_seeded, random_images, run_onnx, seeded_small
from torch import nn
from traced import trace_small

from edge_vit.calibration import judge
from edge_vit.export.canonical import make_canonical
from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.expose import expose
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import HalfEmulator, choose_split_nodes
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import RECIPES

pytestmark = pytest.mark.uncounted

SEEN = random_images(16, size=small_vits.SIZE)
IMAGES = random_images(24, seed=4, size=small_vits.SIZE)
SOUND = 22.0
"""In dB: these models are narrow, their weights random; trained ones are above 35."""


class NoBiasViT(small_vits.SmallViT):
    """No linear layer of a block has a bias, and no norm has."""

    def __init__(self):
        super().__init__()
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.bias = None


class ClassBlock(small_vits.Block):
    """The class token alone asks, and alone goes on (CaiT): its queries are rows, not tokens."""

    def __init__(self):
        super().__init__(nn.Identity, small_vits.Mlp, nn.Identity)
        width = small_vits.WIDTH
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, token: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        x = self.norm1(torch.cat([token, patches], 1))
        query, key, value = (
            y.unflatten(-1, (small_vits.HEADS, -1)).transpose(1, 2)
            for y in (self.query(x[:, 0]).unsqueeze(1), self.key(x), self.value(x))
        )
        answer = nn.functional.scaled_dot_product_attention(query, key, value)
        token = token + self.proj(answer.transpose(1, 2).flatten(2))
        return token + self.mlp(self.norm2(token))


class ClassAttentionViT(small_vits.SmallViT):
    def __init__(self):
        super().__init__()
        self.last = nn.ModuleList(ClassBlock() for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.blocks(self.embed(images).flatten(2).transpose(1, 2))
        token = self.class_token.expand(images.shape[0], -1, -1)
        for block in self.last:
            token = block(token, patches)
        return self.head(self.norm(token)[:, 0])


class TwoScaleViT(small_vits.SmallViT):
    """A second branch looks at the image at another size (CrossViT): no block is below all."""

    def __init__(self):
        super().__init__()
        self.other = small_vits.SmallViT()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        resized = nn.functional.interpolate(images, size=(20, 20), mode="bicubic")
        patches = self.other.embed(resized).flatten(2).transpose(1, 2)
        other = self.other.head(self.other.norm(self.other.blocks(patches)).mean(1))
        return super().forward(images) + other


class WindowAttention(nn.Module):
    """Over four tokens in a row at a time; nothing but shapes tells it from one over all."""

    def __init__(self):
        super().__init__()
        width = small_vits.WIDTH
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).reshape(-1, 4, small_vits.HEADS, small_vits.HEAD_SIZE).permute(order)
            for layer, order in (
                (self.query, (0, 2, 1, 3)),
                (self.key, (0, 2, 3, 1)),
                (self.value, (0, 2, 1, 3)),
            )
        )
        answer = (query @ key).softmax(-1) @ value
        return self.proj(answer.permute(0, 2, 1, 3).reshape(x.shape))


class WindowViT(small_vits.SmallViT):
    def __init__(self):
        super().__init__(WindowAttention)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(patches)).mean(1))


MODELS = {
    "no bias": NoBiasViT,
    "class attention": ClassAttentionViT,
    "two scales": TwoScaleViT,
    "windows": WindowViT,
}


@functools.cache
def seeded(name: str) -> Seeded:
    if name not in MODELS:
        return seeded_small(name)
    return make_seeded(MODELS[name](), small_vits.SIZE, small_vits.CLASSES)


def sqnr(exact: np.ndarray, output: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(output - exact).sum()))


@pytest.mark.parametrize("name", [*small_vits.ARCHITECTURES, *MODELS])
def test_every_form_of_int8_is_sound_on(name):
    vit = seeded(name)
    table = vit.calibrate(SEEN, RECIPES["balanced"])
    exact, portable = run_onnx(vit.model, IMAGES), write_qdq(vit.model, table)
    output = run_onnx(portable, IMAGES)
    assert sqnr(exact, output) > SOUND
    assert sqnr(exact, run_onnx(write_ort_x64(portable), IMAGES)) > SOUND
    half = write_half(write_qdq(vit.model, table, is_symmetric=True), table.int8_fp32_nodes)
    outputs, overflowed = HalfEmulator(half).run({"images": IMAGES})
    emulated = next(iter(outputs.values()))
    assert not overflowed
    assert sqnr(exact, emulated) > SOUND


def test_multiply_adds_count_the_tokens_that_a_layer_takes():
    """The last blocks of this model compute for one token, those before for all."""
    vit = seeded("class attention")
    table, inputs = vit.calibrate(SEEN, ALL_INT8["balanced"]), measure_inputs(vit)
    work = {
        name: tokens * width * len(table.sites[name].weight_scales)
        for name, (tokens, width) in inputs.items()
    }
    assert len({tokens for tokens, _ in inputs.values()}) > 1
    before = 0.0
    for point in table.fallback:
        assert point.share - before == pytest.approx(work[point.site] / sum(work.values()))
        before = point.share


def measure_inputs(vit: Seeded) -> dict[str, tuple[int, int]]:
    """Return by site how many tokens of how many channels go into it for an image."""
    names = vit.site_inputs
    session = open_exact_session(expose(vit.model, list(dict.fromkeys(names.values()))), 2)
    feeds = feed_image(vit.spec, SEEN[0])
    shapes = {name: session.run([value], feeds)[0].shape for name, value in names.items()}
    return {name: (int(np.prod(shape[:-1])), shape[-1]) for name, shape in shapes.items()}


def with_massive_tokens(size: float) -> Seeded:
    """Let one hidden unit of each MLP reach `size` on some tokens and write it to one channel."""
    module = small_vits.SmallViT()
    vit = make_seeded(module, small_vits.SIZE, small_vits.CLASSES)
    with torch.no_grad():
        for block in module.blocks:
            block.mlp.fc1.weight[0] *= size / 3
            block.mlp.fc2.weight[:, 0] = 0
            block.mlp.fc2.weight[5, 0] = 0.05
    proto = trace_small(module.eval(), (small_vits.SIZE, small_vits.SIZE))
    graph = make_canonical(proto, vit.spec.preprocess, "classification")
    return Seeded(graph.model, vit.spec)


def test_massive_activations_that_leave_too_little_are_reported():
    """A unit that reaches thousands takes all of the range of fc2."""
    vit, said = with_massive_tokens(3000.0), Remembered()
    table = vit.calibrate(SEEN, replace(RECIPES["balanced"], kept_channels=0), said)
    assert max(site.activation_amax for site in table.sites.values()) > 1000
    exact = run_onnx(vit.model, IMAGES)
    output = run_onnx(write_qdq(vit.model, table), IMAGES)
    assert np.isfinite(output).all()
    real = sqnr(exact, output)
    assert real < SOUND
    assert any("precision for this model" in note for note in said.notes)
    # The forecast; as large as this, errors add up less simply than small ones.
    assert table.sqnr == pytest.approx(real, abs=8)


def test_massive_activations_stay_in_floating_point_channel_by_channel(monkeypatch):
    bound = functools.partial(choose_split_nodes, limit=0.0)
    monkeypatch.setattr(judge, "choose_split_nodes", bound)
    vit, said = with_massive_tokens(3000.0), Remembered()
    table = vit.calibrate(SEEN, RECIPES["balanced"], said)
    kept = {name: site.kept_channels for name, site in table.sites.items() if site.kept_channels}
    assert kept and all(name.endswith("fc2") and 0 in channels for name, channels in kept.items())
    assert {f"{name}/kept_product" for name in kept} < table.int8_fp32_nodes.keys()
    assert any("% of the layers' multiply-adds beside those of INT8" in note for note in said.notes)
    exact = run_onnx(vit.model, IMAGES)
    assert sqnr(exact, run_onnx(write_qdq(vit.model, table), IMAGES)) > SOUND + 5
