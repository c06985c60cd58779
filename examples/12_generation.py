"""A diffusion transformer from its weights to the verdict: digits drawn by seed, fp32 and INT8."""

from pathlib import Path

import numpy as np
from generation.train import training_digits
from PIL import Image
from sklearn.svm import SVC

import edge_vit
from edge_vit.export.sources import SourceRequest
from edge_vit.report.html import write_html

WEIGHTS = Path(__file__).parent / "generation" / "dit.safetensors"  # generation/train.py made it
SEEDS = "seeds:2000-2099"  # the class that is drawn is the seed modulo 10

# Calibrated on what fp32 is fed while these seeds are sampled, step by step.
bundle = edge_vit.export_bundle(
    SourceRequest("python:generation.dit:dit_digits", model_args={"weights": str(WEIGHTS)}),
    "dit.edgevit",
    precision="int8",
    calibration="seeds:0-11",
    num_images=96,
    force=True,
)

# A judge that has nothing to do with the model: it was fitted to the digits that the model learnt.
images, digits = training_digits()
judge = SVC(gamma=0.05).fit(images.flatten(1).numpy(), digits.numpy())

samples = {}
for precision in ("fp32", "int8"):
    with edge_vit.Predictor.open(bundle, precision) as predictor:
        samples[precision] = np.stack([s.values[0] for s in predictor.predict_many(SEEDS)])
    told = judge.predict(samples[precision].reshape(-1, 64))
    right = np.mean(told == np.arange(len(told)) % 10)
    print(f"{precision}: {right:.0%} of {len(told)} samples show the digit that was asked for")

# Two rows of fp32 and INT8 below each other, a column for each digit.
rows = [samples[p][start : start + 10] for start in (0, 10, 20) for p in ("fp32", "int8")]
levels = np.clip((np.stack(rows) + 1) * 127.5, 0, 255).astype(np.uint8)
grid = Image.new("L", (10 * 52 + 4, len(rows) * 52 + 12), 255)
for row, column in np.ndindex(len(rows), 10):
    picture = Image.fromarray(levels[row, column]).resize((48, 48), Image.Resampling.BICUBIC)
    grid.paste(picture, (4 + 52 * column, 4 + 52 * row + 4 * (row // 2)))
grid.save("samples.png")

report = edge_vit.verify(
    bundle,
    "seeds:1000-1063",
    options=edge_vit.SessionOptions(1),
    iterations=500,
)
for accuracy in report.accuracy:
    found = accuracy.measures
    print(
        f"{accuracy.precision}: PSNR {found['psnr'].value:.1f} dB after the whole loop, SQNR "
        f"{found['step_sqnr'].value:.1f} dB over all steps, {found['worst_step_sqnr'].value:.1f} "
        f"dB in step {found['worst_step'].value:.0f}"
    )
print(f"exit status {report.verdict.exit_status}: {report.verdict.sentence}")

# The page shows both samples of the seeds that differ most.
write_html(report, Path("generation.html"), bundle.read_table())
