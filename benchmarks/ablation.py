"""What each step of the default recipe earns: left out alone, on every model and outlier variant.

A step that earns nothing anywhere has no place in the recipe. Rows are kept under
``build/ablation/`` while graph, images, recipe and code are the same, so that a run that was cut
off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from outliers import variants
from peers import BUILD, ROOT
from real_models import MODELS, RealModel, real_models
from saving import RESULTS, load_average, write_result

from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.data.images import ArraySource
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec.table import DEFAULT_RECIPE, STEP_NAMES, Recipe
from edge_vit.values import to_json

VARIANTS = ("as trained", "channels x100", "huge MLP pair")
CHUNK = 50
WHOLE = "balanced"


def without(step: str) -> Recipe:
    return replace(DEFAULT_RECIPE, steps=tuple(s for s in STEP_NAMES if s != step))


RECIPES: dict[str, Recipe] = {
    WHOLE: DEFAULT_RECIPE,
    "without folds": replace(DEFAULT_RECIPE, fold_strength=0.0),
    "without a search of smoothing": replace(DEFAULT_RECIPE, strengths=()),
    "without compensation": replace(DEFAULT_RECIPE, is_compensated=False),
    "without zero points": replace(DEFAULT_RECIPE, has_zero_points=False),
    **{f"without {step}": without(step) for step in STEP_NAMES},
    "without any step": replace(DEFAULT_RECIPE, steps=(), strengths=(), is_compensated=False),
}


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    with OrtSession(model.SerializeToString(), "fp32", SessionOptions(threads=2)) as session:
        chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
        return np.concatenate([*(session.run({"images": c})["logits"] for c in chunks)])


def code_digest() -> str:
    files = [*sorted((ROOT / "edge_vit" / "calibration").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def measure(model: RealModel, images: np.ndarray, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per variant and recipe."""
    graph = onnx.load_from_string(model.bundle.read_graph())
    for variant, changed in variants(graph):
        if variant not in VARIANTS:
            continue
        fp32, exact = changed.SerializeToString(), None
        for name, recipe in RECIPES.items():
            facts = json.dumps(to_json(recipe)).encode() + images.tobytes() + fp32
            key = hashlib.sha256(code_digest().encode() + facts).hexdigest()[:16]
            kept = folder / f"{key}.json"
            if not kept.exists():
                exact = run(changed, images) if exact is None else exact
                source = ArraySource(model.calibration)
                table = calibrate_model(fp32, model.bundle.spec, source, recipe, threads=2)
                output = run(write_qdq(changed, table), images)
                noise = np.square(output - exact, dtype=np.float64).sum()
                same = output.argmax(1) == exact.argmax(1)
                row = {
                    "model": model.name,
                    "variant": variant,
                    "recipe": name,
                    "sqnr_db": round(10 * float(np.log10(np.square(exact).sum() / noise)), 2),
                    "agreement": round(100 * float(same.mean()), 2),
                }
                kept.write_text(json.dumps(row))
            row = json.loads(kept.read_text())
            print(
                f"{model.name:12} {variant:14} {name:20} {row['sqnr_db']:6.2f} dB  "
                f"{row['agreement']:6.2f} %",
                flush=True,
            )
            yield row


def earnings(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what each step brings, in dB by model and variant: with it less without it."""
    sqnr = {(row["model"], row["variant"], row["recipe"]): row["sqnr_db"] for row in rows}
    places = list(dict.fromkeys((row["model"], row["variant"]) for row in rows))
    return {
        name: {
            ", ".join(place): round(sqnr[(*place, WHOLE)] - sqnr[(*place, name)], 2)
            for place in places
        }
        for name in RECIPES
        if name != WHOLE
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=BUILD / "models")
    parser.add_argument("--only", action="append", choices=MODELS, help="this model; repeatable")
    parser.add_argument("--images", type=int, default=500, help="held-out images per model")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    load, folder = load_average(), BUILD / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    models = real_models(arguments.models, arguments.only or tuple(MODELS))
    rows = [row for m in models for row in measure(m, m.images[: arguments.images], folder)]
    earned = earnings(rows)
    for name, gains in earned.items():
        print(f"{name:20} costs", ", ".join(f"{place}: {gain}" for place, gain in gains.items()))
    path = write_result(
        arguments.results,
        "ablation",
        threads=2,
        load=load,
        conditions={
            "models": "benchmarks/real_models.py, 256 calibration images",
            "images": f"the first {arguments.images} held out of each model, or all",
            "earned_db": "SQNR of the default recipe less that of the recipe so named",
            "run": "ONNX Runtime, the portable graph",
        },
        results={"earned_db": earned, "rows": rows},
    )
    print(path)


if __name__ == "__main__":
    main()
