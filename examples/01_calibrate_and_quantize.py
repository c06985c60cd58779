"""Images become ranges, ranges become INT8 graphs: the two halves of a quantization.

`edge_vit.export_bundle(..., precision="int8", calibration=...)` does all of this in one call.
"""

from pathlib import Path

import edge_vit
from edge_vit.data.images import ArraySource
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
bundle = edge_vit.export_bundle(f"edgevit:{WEIGHTS}", "digits.edgevit", force=True)

# 1. Calibrate: every image goes through the fp32 graph once; what each linear layer gets to see
#    becomes a table of scales. Images of the deployment, not those that the verdict is to use.
images = ArraySource(digits.train_images[::9])  # or the path of a folder
bundle = edge_vit.calibrate(bundle, images, threads=1)
table = bundle.read_table()
print(f"calibrated on {table.num_images} images, recipe {table.recipe.name}")
for name, site in table.sites.items():
    # The crest is the largest value over the typical one: far above 50, outliers eat the range.
    print(f"  {name:12} scale {site.activation_scale:.5f}  crest {site.activation_crest:5.1f}")

# 2. Quantize: graphs are written from the table, without images.
bundle = edge_vit.quantize(bundle)
for name, artifact in bundle.manifest.artifacts.items():
    print(f"  {name:20} {artifact.num_bytes:8,} bytes  sha256 {artifact.sha256[:12]}")

# The same image, three graphs.
for precision in bundle.precisions:
    with edge_vit.Predictor.open(bundle, precision) as predictor:
        (answer,) = predictor.predict(digits.test_images[0], top=1).classes
    print(f"{precision}: {answer.label} with {answer.score:.4f}")
