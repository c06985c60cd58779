"""A trained Vision Transformer becomes a bundle, and the bundle answers.

The model is a tiny one, trained here for some seconds on handwritten digits that scikit-learn
ships. What it leaves, digits.safetensors and digits.edgevit, the next examples use.
"""

from pathlib import Path

from PIL import Image

import edge_vit
from edge_vit.training.datasets import load_digits
from edge_vit.training.finetune import FinetuneOptions, finetune
from edge_vit.training.vit import VisionTransformerConfig

WEIGHTS = Path("digits.safetensors")

digits = load_digits(32)  # 1,197 images to train on, 600 held out
if not WEIGHTS.exists():
    finetune(
        VisionTransformerConfig(
            image_size=32, patch_size=8, num_classes=10, embed_dim=32, depth=2, num_heads=2
        ),
        digits,
        FinetuneOptions(epochs=8, learning_rate=5e-3, augment=False, threads=1),
        WEIGHTS,
    )

# An address says where a model comes from: here a file, else "timm:vit_small_patch16_224",
# "hf:my-folder", "onnx:model.onnx" ... The graph is compared with the model before it is written.
bundle = edge_vit.export_bundle(f"edgevit:{WEIGHTS}", "digits.edgevit", force=True)

spec = bundle.spec
print(f"{spec.name}: {spec.depth} blocks, {spec.num_tokens} tokens of {spec.embed_dim}")
print(f"input {spec.inputs[0]}, output {spec.outputs[0]}, labels {' '.join(spec.labels)}")

# A predictor resizes, crops, runs and names the classes as the bundle says: nothing is typed twice.
Image.fromarray(digits.test_images[0]).save("digit.png")
with edge_vit.Predictor.open(bundle) as predictor:
    prediction = predictor.predict("digit.png", top=3)  # pixels (H, W, 3) would do as well
print(f"{prediction.image} shows a {digits.labels[digits.test_labels[0]]}; the model says:")
for answer in prediction.classes:
    print(f"  {answer.label}  {answer.score:.1%}")

# A session is one floor below: arrays in, arrays out.
with edge_vit.open_session(bundle) as session:
    logits = session.run({"images": digits.test_images[:4]})["logits"]
    print(f"logits {logits.dtype} {logits.shape} in {session.last_latency_ms:.2f} ms")
