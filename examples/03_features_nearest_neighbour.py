"""A model without a head: which image is most like this one?

Its task is `features`: the output is a vector, and quantization is judged by whether the nearest
neighbour is still the same one.
"""

from pathlib import Path

import numpy as np

import edge_vit
from edge_vit.data.images import ArraySource
from edge_vit.runtime import run_batch
from edge_vit.training.datasets import load_digits
from edge_vit.training.finetune import FinetuneOptions, finetune
from edge_vit.training.vit import VisionTransformerConfig

WEIGHTS = Path("digits.safetensors")

digits = load_digits(32)
if not WEIGHTS.exists():  # example 00 left it
    finetune(
        VisionTransformerConfig(
            image_size=32, patch_size=8, num_classes=10, embed_dim=32, depth=2, num_heads=2
        ),
        digits,
        FinetuneOptions(epochs=8, learning_rate=5e-3, augment=False, threads=1),
        WEIGHTS,
    )

# A request says more than an address: 0 classes takes the head off.
bundle = edge_vit.export_bundle(
    edge_vit.SourceRequest(f"edgevit:{WEIGHTS}", num_classes=0),
    "features.edgevit",
    precision="int8",
    calibration=ArraySource(digits.train_images[::9]),
    force=True,
)
print(f"task {bundle.spec.task}, output {bundle.spec.outputs[0]}")

gallery, queries = digits.train_images, digits.test_images[::20]
with edge_vit.open_session(bundle, "int8") as session:
    vectors = run_batch(session, gallery)  # any number of images, float32 (images, channels)
    wanted = run_batch(session, queries)
similarity = wanted @ vectors.T
similarity /= np.linalg.norm(wanted, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
nearest = similarity.argmax(axis=1)

truth = digits.test_labels[::20]
right = digits.train_labels[nearest] == truth
print(f"the nearest of {len(gallery):,} images is of the same class for {right.mean():.0%}")

report = edge_vit.verify(bundle, ArraySource(digits.test_images[:200]))
print(report.verdict.sentence)
