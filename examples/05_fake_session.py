"""Test an application without a model: the fake session is as slow and as wrong as asked.

It has the tensors of a real model, refuses what a real session refuses, and gives the same image
the same answer every time. Neither torch nor onnxruntime is needed.
"""

import numpy as np

import edge_vit
from edge_vit.measure.latency import measure_interleaved
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import image_input, task_output

SPEC = edge_vit.ModelSpec(
    name="sorter",
    source="made up",
    task="classification",
    labels=("apple", "pear", "plum"),
    inputs=(image_input((32, 32)),),
    outputs=(task_output("classification", 3),),
    preprocess=edge_vit.PreprocessSpec((32, 32)),
)


def sort_fruit(predictor, frames, threshold=0.5):
    """Return the application under test: what falls into which box."""
    boxes = dict.fromkeys((*predictor.spec.labels, "unsure"), 0)
    for frame in frames:
        (best,) = predictor.predict(frame, top=1).classes
        boxes[best.label if best.score >= threshold else "unsure"] += 1
    return boxes


frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)

with edge_vit.Predictor(FakeSession(SPEC), SPEC) as predictor:
    boxes = sort_fruit(predictor, frames)
    assert boxes == sort_fruit(predictor, frames), "the same frames, the same boxes"
    assert sum(boxes.values()) == len(frames), "nothing falls beside"
print(boxes)

# What if INT8 answered a little differently, or the device were slow?
reference, noisy = FakeSession(SPEC), FakeSession(SPEC, "int8", noise=0.1, delay_ms=3)
pixels = frames[:4, :32, :32].copy()
error = reference.run({"images": pixels})["logits"] - noisy.run({"images": pixels})["logits"]
print(f"typical error {np.abs(error).mean():.3f}")
for report in measure_interleaved([reference, noisy], iterations=20):
    print(f"{report.precision}: median {report.latency_ms.p50:.2f} ms")

# The checks are those of every backend, and so are the messages.
try:
    reference.run({"images": frames})
except edge_vit.EdgeVitError as error:
    print(f"refused: {error}")
