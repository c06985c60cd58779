"""How close INT8 comes to fp32 on models trained on photographs, by recipe and beside ONNX Runtime.

Every way of quantizing sees the same fp32 graph and the same 256 calibration images, and is judged
on the same held-out images: the models as trained, and variants with the outliers of large
pretrained models, whose function is the same. Models are trained once and kept (``--models``).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime import quantization
from outliers import variants
from real_models import RealModel, real_models
from saving import RESULTS, load_average, write_result

from edge_vit.bundle import FP32
from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.calibration.qdq import write_qdq
from edge_vit.images import ArraySource
from edge_vit.table import RECIPES

matplotlib.use("Agg")

CHUNK = 50
Quantizer = Callable[[onnx.ModelProto, RealModel], onnx.ModelProto]


class CalibrationImages(quantization.CalibrationDataReader):
    """The calibration images as ONNX Runtime's quantizer wants them, one at a time."""

    def __init__(self, model: RealModel) -> None:
        self._images = iter(model.calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, or None behind the last."""
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def by_recipe(name: str) -> Quantizer:
    def quantize(graph: onnx.ModelProto, model: RealModel) -> onnx.ModelProto:
        source = ArraySource(list(model.calibration))
        table = calibrate_model(
            graph.SerializeToString(), model.bundle.spec, source, RECIPES[name], threads=2
        )
        return write_qdq(graph, table)

    return quantize


def by_onnx_runtime(kind: str) -> Quantizer:
    def quantize(graph: onnx.ModelProto, model: RealModel) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            source, target = f"{folder}/fp32.onnx", f"{folder}/int8.onnx"
            onnx.save(graph, source)
            if kind == "dynamic":
                quantization.quantize_dynamic(source, target)
            else:
                linear = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
                quantization.quantize_static(
                    source,
                    target,
                    CalibrationImages(model),
                    activation_type=quantization.QuantType.QInt8,
                    extra_options={"ActivationSymmetric": True},
                    **(linear if kind == "static, linear only" else {}),
                )
            return onnx.load(target)

    return quantize


WAYS: dict[str, Quantizer] = {
    **{f"edge-vit {name}": by_recipe(name) for name in ("minmax", "fast", "balanced")},
    **{
        f"ONNX Runtime {kind}": by_onnx_runtime(kind)
        for kind in ("static", "static, linear only", "dynamic")
    },
}


def run(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return np.concatenate([session.run(None, {"images": chunk})[0] for chunk in chunks])


def measure(model: RealModel, num_images: int) -> Iterator[dict[str, object]]:
    """Yield one row per variant and way."""
    images, labels = model.images[:num_images], model.labels[:num_images]
    for variant, graph in variants(onnx.load_from_string(model.bundle.read(FP32))):
        exact = run(graph, images)
        for way, quantize in WAYS.items():
            start = time.perf_counter()
            quantized = quantize(graph, model)
            seconds = time.perf_counter() - start
            output = run(quantized, images)
            noise = np.square(output - exact, dtype=np.float64).sum()
            row = {
                "model": model.name,
                "variant": variant,
                "way": way,
                "images": len(images),
                "fp32_top1": round(100 * float((exact.argmax(1) == labels).mean()), 2),
                "top1": round(100 * float((output.argmax(1) == labels).mean()), 2),
                "agreement": round(100 * float((output.argmax(1) == exact.argmax(1)).mean()), 2),
                "sqnr_db": round(10 * float(np.log10(np.square(exact).sum() / noise)), 2),
                "seconds": round(seconds, 1),
            }
            print(
                f"{model.name:12} {variant:14} {way:34} {row['sqnr_db']:6.1f} dB  same answer "
                f"{row['agreement']:6.2f} %  top-1 {row['top1']:6.2f} of {row['fp32_top1']:.2f}",
                flush=True,
            )
            yield row


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Draw SQNR by variant, one panel per model."""
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = pyplot.subplots(1, len(models), figsize=(4.2 * len(models), 3.6), sharey=True)
    for panel, model in zip(panels, models, strict=True):
        for way in WAYS:
            mine = [row for row in rows if (row["model"], row["way"]) == (model, way)]
            style = "o-" if way.startswith("edge-vit") else "s--"
            names = [str(row["variant"]) for row in mine]
            panel.plot(names, [row["sqnr_db"] for row in mine], style, label=way, markersize=4)
        panel.set_title(model)
        panel.tick_params(axis="x", rotation=35)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("SQNR of the logits (dB)")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("build/models"))
    parser.add_argument("--images", type=int, default=2500, help="held-out images per model")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    load = load_average()
    models = real_models(arguments.models)
    rows = [row for model in models for row in measure(model, arguments.images)]
    path = write_result(
        arguments.results,
        "int8_accuracy",
        threads=2,
        load=load,
        conditions={
            "models": "benchmarks/real_models.py, 256 calibration images",
            "variants": "benchmarks/outliers.py, the same function",
            "sqnr": "10 log10(sum fp32**2 / sum (int8 - fp32)**2) of the logits",
            "run": "ONNX Runtime on the CPU, the portable graph",
        },
        results=rows,
    )
    draw(rows, path.with_suffix(".svg"))
    print(path)


if __name__ == "__main__":
    main()
