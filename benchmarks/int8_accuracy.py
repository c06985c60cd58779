"""How close INT8 comes to fp32 on models trained on photographs, beside ModelOpt, ORT and NNCF.

Every way of quantizing sees the same fp32 graph and the same 256 calibration images, and is judged
on the same held-out images: the models as trained, and variants with the outliers of large
pretrained models, whose function is the same. Models, quantized graphs and their outputs are kept
under ``build/``, so that a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
from outliers import VARIANTS, variants
from peers import BUILD, EDGE_VIT, PEERS, WAYS, open_runner, quantize_by
from real_models import MODELS, RealModel, real_models
from saving import RESULTS, load_average, write_result

from edge_vit.spec.table import CalibrationTable

matplotlib.use("Agg")

CHUNK = 50
DEFAULT = "edge-vit balanced"
AS_TRAINED = "as trained"
MAX_DROP, MIN_AGREEMENT = 0.5, 99.0
MIN_MEAN_GAIN, MIN_GAIN, MAX_LOSS = 1.5, 0.5, 0.5
"""In dB: over the best peer on the models as trained, on average and anywhere; and what a rescaled
variant may be below the model as trained."""

Row = dict[str, Any]


def run(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the output of the graph in `path`, kept beside it for the next time."""
    digest = hashlib.sha256(images.tobytes()).hexdigest()[:16]
    kept = path.with_name(f"{path.stem}-{digest}.npy")
    if not kept.exists():
        runner = open_runner(path)
        chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
        np.save(kept, np.concatenate([runner(chunk) for chunk in chunks]))
    return np.load(kept)


def measure(
    model: RealModel, num_images: int, ways_on: Mapping[str, tuple[str, ...]]
) -> Iterator[Row]:
    """Yield one row per way of quantizing each variant."""
    images = model.images[:num_images]
    graph = onnx.load_from_string(model.bundle.read_graph())
    for variant, changed in variants(graph):
        if variant not in ways_on:
            continue
        fp32 = changed.SerializeToString()
        source = BUILD / "quantized" / f"fp32-{hashlib.sha256(fp32).hexdigest()[:16]}" / "fp32.onnx"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(fp32)
        exact = run(source, images)
        for way in ways_on[variant]:
            facts = {"model": model.name, "variant": variant, "way": way}
            try:
                quantized = quantize_by(way, fp32, model.bundle.spec, model.calibration)
            except RuntimeError as error:
                print(f"{model.name:14} {variant:14} {way:28} failed: {error}", flush=True)
                yield {**facts, "failed": str(error)}
                continue
            output = run(quantized.path, images)
            row: Row = {
                **facts,
                "calibration_images": len(model.calibration),
                "images": len(images),
                **compare(exact, output, model.labels),
                "seconds": quantized.seconds,
                "peak_mib": quantized.peak_mib,
                "versions": quantized.versions,
            }
            if way.startswith("edge-vit"):
                row |= _forecast(quantized.path.with_suffix(".json"))
            print(
                f"{model.name:14} {variant:14} {way:28} {row['sqnr_db']:6.1f} dB, worst "
                f"{row['worst_db']:6.1f}  same {row['agreement']:6.2f} %"
                + (f"  top-1 {row['top1']:.2f} of {row['fp32_top1']:.2f}" if "top1" in row else "")
                + (f"  forecast {row['forecast_db']}" if row.get("forecast_db") else ""),
                flush=True,
            )
            yield row


def compare(exact: np.ndarray, output: np.ndarray, labels: np.ndarray | None) -> Row:
    """Return SQNR, of all images and of the worst, and in % how many predictions stay the same.

    Args:
        exact: (N, size), of fp32.
        output: of INT8.
        labels: (N or more,); None for features, whose prediction is the nearest other image.
    """
    noise = np.square(output - exact, dtype=np.float64).sum(1)
    signal = np.square(exact, dtype=np.float64).sum(1)
    mine, wanted = (_predict(rows, labels is None) for rows in (output, exact))
    row = {
        "sqnr_db": round(float(10 * np.log10(signal.sum() / noise.sum())), 2),
        "worst_db": round(float(10 * np.log10(signal / noise).min()), 2),
        "agreement": round(100 * float((mine == wanted).mean()), 2),
    }
    if labels is not None:
        truth = labels[: len(exact)]
        row["fp32_top1"] = round(100 * float((wanted == truth).mean()), 2)
        row["top1"] = round(100 * float((mine == truth).mean()), 2)
    return row


def _predict(rows: np.ndarray, are_features: bool) -> np.ndarray:
    if not are_features:
        return rows.argmax(1)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(1)


def _forecast(path: Path) -> Row:
    """Return what the calibration table itself says: dB forecast, layers in FP16."""
    table = CalibrationTable.from_bytes(path.read_bytes())
    kept = sorted(name for name, site in table.sites.items() if site.precision == "fp16")
    row: Row = {"forecast_db": round(table.sqnr, 2) if table.sqnr else None, "in_fp16": kept}
    if table.forecast is not None:
        row |= {"forecast_worst_db": round(table.forecast.worst, 2), "plan": table.forecast.plan}
    return row


def judge(rows: list[Row]) -> Row:
    """Return what the default recipe reaches and what it misses."""
    found = {(row["model"], row["variant"], row["way"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    peers = [way for way in PEERS if any(row["way"] == way for row in rows)]
    sqnr = {key: row["sqnr_db"] for key, row in found.items()}
    gains = {
        model: round(
            sqnr[model, AS_TRAINED, DEFAULT] - max(sqnr[model, AS_TRAINED, way] for way in peers), 2
        )
        for model in models
        if peers
    }
    losses = {
        f"{model}, {variant}": round(sqnr[model, AS_TRAINED, DEFAULT] - sqnr[key], 2)
        for key in found
        for model, variant, way in [key]
        if way == DEFAULT and variant.startswith("channels")
    }
    mine = [row for row in rows if row["way"] == DEFAULT]
    drops = {f"{r['model']}, {r['variant']}": round(r["fp32_top1"] - r["top1"], 2) for r in mine}
    agreements = {f"{row['model']}, {row['variant']}": row["agreement"] for row in mine}
    holds = {
        f"drop of top-1 at most {MAX_DROP} points": max(drops.values()) <= MAX_DROP,
        f"agreement at least {MIN_AGREEMENT} %": min(agreements.values()) >= MIN_AGREEMENT,
        f"rescaled at most {MAX_LOSS} dB below as trained": max(losses.values(), default=0)
        <= MAX_LOSS,
    }
    if gains:
        mean = sum(gains.values()) / len(gains)
        holds[f"mean gain over the best peer at least {MIN_MEAN_GAIN} dB"] = mean >= MIN_MEAN_GAIN
        holds[f"gain at least {MIN_GAIN} dB everywhere"] = min(gains.values()) >= MIN_GAIN
    return {"holds": holds, "gain_db": gains, "loss_db": losses, "drop": drops}


def draw(rows: list[Row], path: Path) -> None:
    """Draw SQNR by variant, one panel per model."""
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = pyplot.subplots(1, len(models), figsize=(4.2 * len(models), 3.8), sharey=True)
    for panel, model in zip(np.atleast_1d(panels), models, strict=True):
        for way in WAYS:
            mine = [row for row in rows if (row["model"], row["way"]) == (model, way)]
            style = "o-" if way in EDGE_VIT else "s--"
            names = [row["variant"] for row in mine]
            panel.plot(names, [row["sqnr_db"] for row in mine], style, label=way, markersize=4)
        panel.set_title(model)
        panel.tick_params(axis="x", rotation=35)
        panel.grid(alpha=0.3)
    np.atleast_1d(panels)[0].set_ylabel("SQNR of the output (dB)")
    figure.legend(*np.atleast_1d(panels)[0].get_legend_handles_labels(), fontsize=7, ncols=4)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=BUILD / "models")
    parser.add_argument("--only", action="append", choices=MODELS, help="this model; repeatable")
    parser.add_argument("--images", type=int, default=2000, help="held-out images per model")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="this; repeatable")
    parser.add_argument(
        "--peers-on", action="append", choices=(*VARIANTS, "none"), help="not on all; repeatable"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    load = load_average()
    peers_on = arguments.peers_on or VARIANTS
    ways_on = {
        variant: WAYS if variant in peers_on else EDGE_VIT
        for variant in arguments.variant or VARIANTS
    }
    models = real_models(arguments.models, arguments.only or tuple(MODELS))
    rows = [row for model in models for row in measure(model, arguments.images, ways_on)]
    rows = [row for row in rows if "failed" not in row]
    verdict = judge(rows)
    for claim, is_so in verdict["holds"].items():
        print(f"{claim}: {'kept' if is_so else 'NOT kept'}")
    print({name: verdict[name] for name in ("gain_db", "loss_db")})
    if arguments.only or arguments.variant:
        print("a part of the whole: nothing written")
        return
    path = write_result(
        arguments.results,
        "int8_accuracy",
        threads=2,
        load=load,
        conditions={
            "models": "benchmarks/real_models.py, 256 calibration images",
            "variants": "benchmarks/outliers.py, the same function",
            "sqnr": "10 log10(sum fp32**2 / sum (int8 - fp32)**2) of the logits",
            "run": "ONNX Runtime, the portable graph; NNCF's in OpenVINO, float32 around it",
        },
        results={**verdict, "rows": rows},
    )
    draw(rows, path.with_suffix(".svg"))
    print(path)


if __name__ == "__main__":
    main()
