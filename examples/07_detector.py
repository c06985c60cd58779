"""A detector from its training to the verdict: digits in photographs, found by a small DETR."""

from pathlib import Path

from detector.scenes import write_coco

import edge_vit
from edge_vit.report.html import write_html

MODEL = Path(__file__).parent / "detector" / "detr-digits"  # detector/train.py made it

# Photographs and digits of the test images are not among those of the training images.
write_coco(Path("scenes/train"), "train", count=24, side=192, seed=1)
truth = write_coco(Path("scenes/test"), "test", count=60, side=192, seed=2)

bundle = edge_vit.export_bundle(
    f"hf:{MODEL}",
    "detector.edgevit",
    precision="int8",
    calibration=Path("scenes/train"),
    force=True,
)

# Boxes are in the pixels of the image that was given, best first.
with edge_vit.Predictor.open(bundle, "int8") as predictor:
    prediction = predictor.predict("scenes/test/0001.png")
for box in prediction.boxes:
    print(f"{box.label} {box.score:.0%} at {', '.join(f'{value:.0f}' for value in box.box)}")

# Truth is a COCO annotation file; the gate is the average precision that INT8 may lose.
report = edge_vit.verify(
    bundle,
    truth,
    edge_vit.Limits(max_drop=1),
    options=edge_vit.SessionOptions(1),
    iterations=50,
)
for accuracy in report.accuracy:
    found = accuracy.measures
    print(
        f"{accuracy.precision}: AP {found['AP'].value:.3f}, AP50 {found['AP50'].value:.3f}, "
        f"boxes of fp32 matched {found['matched_boxes'].value:.1%}"
    )
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")

# The page shows the images that differ most, with both sets of boxes.
write_html(report, Path("detector.html"), bundle.read_table())
