"""A model of clips from its training to the verdict: which way a digit moves over a photograph."""

from pathlib import Path

from video.clips import write_clips

import edge_vit
from edge_vit.report.html import write_html

MODEL = Path(__file__).parent / "video" / "digits-in-motion"  # video/train.py made it

# Photographs and digits of the test clips are not among those of the training clips. A video has
# twice as many frames as the model reads, and is twice as large.
train = write_clips(Path("clips/train"), "train", count=72, side=64, frames=15, seed=1)
test = write_clips(Path("clips/test"), "test", count=400, side=64, frames=15, seed=2)

bundle = edge_vit.export_bundle(
    edge_vit.SourceRequest(f"hf:{MODEL}", stride=2),
    "video.edgevit",
    precision="int8",
    calibration=train,
    force=True,
)
print(f"of a video it reads {bundle.spec.preprocess.clip}")

# One video is one clip: the prediction is about all of it.
with edge_vit.Predictor.open(bundle, "int8") as predictor:
    print(predictor.predict(next(test.glob("nearer/*.mp4"))).headline)

# Truth are the class folders; the gate is the share of clips that INT8 may lose.
report = edge_vit.verify(
    bundle,
    test,
    edge_vit.Limits(max_drop=1),
    options=edge_vit.SessionOptions(1),
    iterations=500,
)
for accuracy in report.accuracy:
    right = "not known" if accuracy.top1 is None else f"{accuracy.top1:.1%}"
    print(f"{accuracy.precision}: right {right}, as fp32 {accuracy.agreement:.1%}")
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")

# The page shows the clips that differ most, four frames of each.
write_html(report, Path("video.html"), bundle.read_table())
