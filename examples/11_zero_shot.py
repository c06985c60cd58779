"""Zero-shot: a small CLIP classifies by labels chosen at export, half of them new to it."""

from pathlib import Path

from zero_shot.scenes import HELD_OUT, PAIRS, label_of, write_folders

import edge_vit
from edge_vit.export.sources import SourceRequest
from edge_vit.report.html import write_html

MODEL = Path(__file__).parent / "zero_shot" / "clip-digits"  # zero_shot/train.py made it
SIDE = 24

# Labels are a matter of the device. Of five of these, such as "red zero", training has seen neither
# an image nor a sentence: it knows the colour and the digit from other pairs.
chosen = [*HELD_OUT[:10:2], *[pair for pair in PAIRS if pair not in HELD_OUT][3:60:12]]
labels = tuple(label_of(*pair) for pair in chosen)

# Photographs and digits of the test images are not among those of the training images.
write_folders(Path("pairs/train"), "train", chosen, count=64, side=SIDE, seed=1)
truth = write_folders(Path("pairs/test"), "test", chosen, count=400, side=SIDE, seed=2)

# The text tower reads the labels here, once; neither it nor the tokenizer is in the bundle. On the
# command line: edgevit export hf:FOLDER --labels FILE --prompt "a photo of a {}" -o pairs.edgevit
bundle = edge_vit.export_bundle(
    SourceRequest(f"hf:{MODEL}", labels=labels, prompts=("a photo of a {}", "a handwritten {}")),
    "pairs.edgevit",
    precision="int8",
    calibration=Path("pairs/train"),
    force=True,
)
print(f"{len(labels)} labels: {', '.join(labels)}")

with edge_vit.Predictor.open(bundle, "int8") as predictor:
    image = sorted(truth.glob(f"{labels[0]}/*.png"))[0]
    for answer in predictor.predict(image).names[:3]:
        print(f"{image.parent.name}? {answer.label} {answer.score:.0%}")

report = edge_vit.verify(
    bundle, truth, edge_vit.Limits(max_drop=1), options=edge_vit.SessionOptions(1), iterations=500
)
for accuracy in report.accuracy:
    new = [each.top1 for each in accuracy.per_class if each.index < 5]
    print(
        f"{accuracy.precision}: top-1 {accuracy.top1:.1%}, "
        f"of labels that training has not seen {sum(new) / len(new):.1%}"
    )
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")
write_html(report, Path("pairs.html"), bundle.read_table())
