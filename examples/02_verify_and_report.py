"""The verdict: may INT8 ship? Accuracy and latency of every precision, measured in one run."""

from pathlib import Path

import edge_vit
from edge_vit.data.images import ArraySource
from edge_vit.report.html import write_html
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
bundle = edge_vit.export_bundle(
    f"edgevit:{WEIGHTS}",
    "digits.edgevit",
    precision="int8",
    calibration=ArraySource(digits.train_images[::9]),
    force=True,
)

# Held-out images with their labels; a folder with one folder per class does the same.
held_out = ArraySource(digits.test_images, digits.test_labels, digits.labels)
report = edge_vit.verify(
    bundle,
    held_out,
    edge_vit.Limits(max_drop=0.5, min_speedup=1.05),
    options=edge_vit.SessionOptions(1),
)

for accuracy, latency in zip(report.accuracy, report.latency, strict=True):
    print(
        f"{accuracy.precision}: top-1 {accuracy.top1:.2%}, agrees with fp32 on "
        f"{accuracy.agreement:.2%}, median {latency.latency_ms.p50:.3f} ms"
    )

# Each gate holds one limit against the measurement and its bounds, not against the bare number.
for gate in report.verdict.gates:
    print(f"{gate.precision} {gate.name}: {gate.outcome}. {gate.sentence}")

# 0: ship it. 3: a gate failed. 5: too few images to tell, and how many would.
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")

write_html(report, Path("verify.html"), bundle.read_table())
print(f"verify.html: {Path('verify.html').stat().st_size:,} bytes, nothing to download")
