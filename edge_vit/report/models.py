"""Which models are supported, each by a measurement of its own: the table of ``edgevit models``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from edge_vit.report.grids import Grid
from edge_vit.report.wording import MISSING, number
from edge_vit.values import from_json

SEEDED = "seeded"

NOTE = (
    "dB: SQNR of the output against fp32 on photographs that were not calibrated on, in brackets "
    "that of the median image where few images are far worse. It was run on an x86 CPU alone: INT8 "
    "in ONNX Runtime and OpenVINO (OV), FP16 in ONNX Runtime, as float32 between casts. No engine "
    "was run on any GPU, and nothing on ARM: RTX built is the share of the multiply-adds in INT8 "
    "of the engine that TensorRT-RTX built. Parity: largest error of the exported graph against "
    "the library's model, over the largest output. Decoding: largest difference from the library's "
    "own preprocessing, model and post-processing. Weights are drawn from a seed where the name "
    "does not say otherwise, and most models are cut to a few blocks: operators and layers are "
    "proven, not the accuracy of trained weights."
)

_FEW_ARE_WORSE = 3.0  # decibels between all images and the median one from which both are shown


@dataclass(frozen=True)
class OutputQuality:
    """How close the outputs of a precision are to fp32's, in dB."""

    sqnr_db: float  # over all images
    worst_db: float  # of one image
    median_db: float | None = None  # of the image in the middle


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built; `refused` is why there is none."""

    megabytes: float = 0.0
    int8_share: float = 0.0  # of the multiply-adds
    refused: str = ""


@dataclass(frozen=True)
class ModelEvidence:
    """What was measured of one model, by one command."""

    name: str  # its address, or the class of transformers behind ``hf:``
    family: str
    task: str
    library: str  # with its version
    arguments: Mapping[str, object]  # for the model's constructor, where it was made smaller
    image_size: tuple[int, int]
    weights: str  # ``seeded`` or what they were trained on
    blocks: int  # that were recognised
    linear_layers: int
    quantized_layers: int
    convolutions: int
    parity_error: float
    recipe: str
    calibration_images: int
    judged_images: int
    quality: Mapping[str, OutputQuality] = field(default_factory=dict)  # by ``int8 ort``
    engines: Mapping[str, BuiltEngine] = field(default_factory=dict)  # by precision
    decoded_by: str = ""  # what the decoding was compared with
    decoding_error: float | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def read_models() -> tuple[ModelEvidence, ...]:
    """Return the evidence that ships with the package, by family and name."""
    data = json.loads(files("edge_vit.report").joinpath("models.json").read_text("utf-8"))
    return tuple(from_json(ModelEvidence, row, "models.json") for row in data)


def find_models(
    models: Iterable[ModelEvidence], words: Iterable[str], task: str
) -> list[ModelEvidence]:
    """Return those whose name or family holds each of `words`, of `task` where that is given."""
    wanted = [word.lower() for word in words]
    return [
        model
        for model in models
        if (not task or model.task == task)
        and all(word in f"{model.name} {model.family}".lower() for word in wanted)
    ]


def models_grid(models: Iterable[ModelEvidence]) -> Grid:
    """Return the support table."""
    columns = (
        *("model", "task", "pixels", "blocks", "parity", "INT8 layers", "FP16 dB", "INT8 dB"),
        *("OV dB", "RTX built", "decoding"),
    )
    return Grid("Models with evidence", columns, tuple(map(_row, models)), 2, note=NOTE)


def _row(model: ModelEvidence) -> tuple[str, ...]:
    return (
        model.name + ("" if model.weights == SEEDED else f" ({model.weights})"),
        model.task,
        "×".join(map(str, dict.fromkeys(model.image_size))) if any(model.image_size) else MISSING,
        str(model.blocks),
        f"{model.parity_error:.0e}",
        f"{model.quantized_layers}/{model.linear_layers}",
        *(_decibels(model.quality.get(key)) for key in ("fp16 ort", "int8 ort", "int8 openvino")),
        _engines(model.engines),
        MISSING if model.decoding_error is None else f"{model.decoding_error:.0e}",
    )


def _decibels(quality: OutputQuality | None) -> str:
    if quality is None:
        return MISSING
    found, median = number(quality.sqnr_db, 1), quality.median_db
    if median is None or median < quality.sqnr_db + _FEW_ARE_WORSE:
        return found
    return f"{found} ({number(median, 1)})"


def _engines(engines: Mapping[str, BuiltEngine]) -> str:
    refused = [precision for precision, engine in engines.items() if engine.refused]
    if refused or not engines:
        return f"{', '.join(refused)} refused" if refused else MISSING
    return f"{100 * engines['int8'].int8_share:.0f} %" if "int8" in engines else "FP16 alone"
