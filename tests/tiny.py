"""A small ViT that was really trained on real digits, and the images that go with it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from graph_files import FP32

from edge_vit.bundle import RECORD, Bundle
from edge_vit.bundle.record import ExportRecord
from edge_vit.data.images import ArraySource
from edge_vit.export.export import Exported
from edge_vit.training.datasets import Dataset, load_digits, write_class_folders
from edge_vit.training.finetune import finetune
from edge_vit.training.options import FinetuneOptions
from edge_vit.training.vit import VisionTransformerConfig

torch.set_num_threads(1)  # of a model this small: more only wait for each other

CONFIG = VisionTransformerConfig(
    image_size=32, patch_size=8, num_classes=10, embed_dim=32, depth=2, num_heads=2
)
NUM_HELD_OUT, NUM_CALIBRATION = 40, 24
OPTIONS = FinetuneOptions(epochs=8, learning_rate=5e-3, augment=False, threads=1)


@functools.cache
def tiny_digits() -> Dataset:
    """Return 1,197 digits to train on and 40 held out, of every class alike."""
    digits = load_digits(CONFIG.image_size)
    few = np.linspace(0, len(digits.test_labels) - 1, NUM_HELD_OUT).round().astype(int)
    return dataclasses.replace(
        digits, test_images=digits.test_images[few], test_labels=digits.test_labels[few]
    )


def tiny_calibration(seed: int = 0) -> ArraySource:
    """Return 24 of the training images; another seed takes others."""
    digits = tiny_digits()
    chosen = np.random.default_rng(seed).permutation(len(digits.train_labels))[:NUM_CALIBRATION]
    return ArraySource(digits.train_images[chosen], digits.train_labels[chosen], digits.labels)


def train_tiny(path: Path) -> Path:
    """Train the model for some seconds, and return `path`, where its checkpoint then lies."""
    return finetune(CONFIG, tiny_digits(), OPTIONS, path).checkpoint_path


def exported_as(bundle: Bundle) -> Exported:
    """Return what an export of the model in `bundle` yields, without the work."""
    golden = bundle.read_golden()
    return Exported(
        fp32=bundle.read(FP32),
        spec=bundle.spec,
        record=ExportRecord.from_bytes(bundle.read(RECORD)),
        images=golden.images,
        outputs=golden.outputs,
        decoded=(),
    )


def write_held_out(folder: Path) -> Path:
    """Write the held-out digits in class folders, and return `folder`."""
    digits = tiny_digits()
    write_class_folders(digits.test_images, digits.test_labels, digits.labels, folder)
    return folder
