"""A seeded ViT of two blocks whose answers depend on the image, as a canonical graph."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import small_vits
import torch
from reseed import reseed
from traced import Tracer, trace_small

from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.data.images import ArraySource
from edge_vit.export.canonical import make_canonical
from edge_vit.graph.sites import find_sites
from edge_vit.progress import SILENT, Progress, Silent
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.spec.table import RECIPES, CalibrationTable, Recipe
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig

ALL_INT8 = {
    name: replace(recipe, keeps_single_tokens=False, min_worth=0.0, kept_channels=0)
    for name, recipe in RECIPES.items()
}
"""The recipes, with no layer and no channel kept in floating point."""

CONFIG = VisionTransformerConfig(
    image_size=32, patch_size=8, num_classes=10, embed_dim=32, depth=2, num_heads=2
)
SITES = tuple(f"block{i}/{role}" for i in range(2) for role in ("qkv", "proj", "fc1", "fc2"))


@dataclass(frozen=True)
class Seeded:
    """A canonical graph and its facts."""

    model: onnx.ModelProto
    spec: ModelSpec

    @property
    def site_inputs(self) -> dict[str, str]:
        """Name of the value that goes into each site."""
        sites = find_sites(ir.from_proto(self.model).graph)
        return {site.name: site.linear.input.name or "" for site in sites}

    def calibrate(
        self,
        images: np.ndarray,
        recipe: Recipe = RECIPES["minmax"],
        progress: Progress = SILENT,
    ) -> CalibrationTable:
        fp32, source = self.model.SerializeToString(), ArraySource(images)
        return calibrate_model(fp32, self.spec, source, recipe, threads=1, progress=progress)


def make_seeded(
    module: torch.nn.Module,
    size: int,
    classes: int,
    batch: int | None = None,
    trace: Tracer = trace_small,
) -> Seeded:
    """Return `module`, which takes square images of `size`, with weights drawn anew."""
    reseed(module)
    preprocess = PreprocessSpec((size, size), crop_pct=1.0)
    proto = trace(module.eval(), (size, size), batch)
    graph = make_canonical(proto, preprocess, "classification")
    spec = ModelSpec(
        name="seeded",
        source="test:seeded",
        task="classification",
        labels=(),
        inputs=(image_input((size, size), batch),),
        outputs=(task_output("classification", classes, batch),),
        preprocess=preprocess,
        depth=graph.depth,
    )
    return Seeded(graph.model, spec)


@functools.cache
def seeded_vit(batch: int | None = None) -> Seeded:
    """Return the model of the session, to read only."""
    return make_seeded(VisionTransformer(CONFIG), CONFIG.image_size, CONFIG.num_classes, batch)


@functools.cache
def seeded_small(architecture: str) -> Seeded:
    """Return a small ViT of another architecture, to read only."""
    make = small_vits.ARCHITECTURES[architecture]
    return make_seeded(make(), small_vits.SIZE, small_vits.CLASSES)


def random_images(count: int, seed: int = 0, size: int = 32) -> np.ndarray:
    """Return uint8 (count, size, size, 3): coloured squares with noise, each image distinct."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    return (cells + rng.normal(0, 20, cells.shape)).clip(0, 255).astype(np.uint8)


def run_onnx(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Return what the embedded CPU backend says of `images`."""
    with OrtSession(model.SerializeToString(), "fp32", SessionOptions(threads=1)) as session:
        (output,) = session.run({"images": images}).values()
    return output


def sqnr_db(reference: np.ndarray, output: np.ndarray) -> float:
    """Signal to noise, where only what differs from image to image counts as signal."""
    signal = reference - reference.mean(axis=0)
    return float(10 * np.log10((signal**2).sum() / ((reference - output) ** 2).sum()))


class Remembered(Silent):
    """Progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
