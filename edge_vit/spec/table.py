"""The calibration table and the recipe it was made by: values that every package can read."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.formats import Precision, find_format
from edge_vit.values import from_json, parse_json, settle, to_json

TABLE_FORMAT = 8
"""What this version writes; it reads all before: format 1 had no steps, 2 no zero points, 3 no
signatures of images, 4 neither rounded weights nor a measured forecast, 5 no
`min_worth` and no `measured`, 6 no `kept_channels`, 7 no interval of the forecast and
no `split_fp32_nodes`."""

KEPT_NODES = ("take_kept", "kept_product", "add_kept")
"""Of a layer, behind its name in the INT8 graph: what its kept channels go through."""

UNDO_CENTRE = "undo_centre"
"""Likewise, what adds a bias to a layer without one where TensorRT's centre needs it."""

RangeMethod = Literal["minmax", "percentile"]
StepName = Literal["shift", "range", "bias"]
STEP_NAMES: tuple[StepName, ...] = get_args(StepName)

FEWEST_FOR_FORECAST = 8
"""Calibration images below which it is undecided what INT8 comes to on others: one is held out."""

MIN_SCALE = 2.0**-14
"""Smallest scale: the smallest normal float16; TensorRT may take anything below it for zero."""


@dataclass(frozen=True)
class Recipe:
    """Every choice of a quantization."""

    name: str = "minmax"
    range_method: RangeMethod = "minmax"
    percentile: float = 99.99  # of |x|, where that is the range method
    # How much of a channel's range moves from the activation into the weight before ranges are
    # taken, 0 for nothing to 1 for all (edge_vit.lowering.smoothing); and what else is tried.
    fold_strength: float = 0.0
    # An activation on one side of zero, such as GELU's, gets a range of its own shape. In the graph
    # for TensorRT that is one subtraction per block.
    has_zero_points: bool = False
    steps: tuple[StepName, ...] = ()  # tried for each layer, in order (edge_vit.calibration.steps)
    # Of calibration images, that the steps and their judgement see. So many whole images are held
    # out from the ranges, four at least, a quarter of all at most.
    search_tokens: int = 0
    strengths: tuple[float, ...] = ()
    # Weights are rounded so that their errors make up for each other, where the images say enough
    # of how channels vary (edge_vit.calibration.rounding).
    is_compensated: bool = False
    tries_rotation: bool = False  # of the residual stream, where that is better on images held out
    # So many channels of an input that cannot be smoothed, those that reach farthest, may stay
    # in floating point, where the output gains much by it.
    kept_channels: int = 0
    # One multiplication per channel between an MLP's activation function and its second layer, so
    # that smoothing has where to put its factors there.
    scales_hidden: bool = False
    # Layers behind the last attention of a model that reads one token are kept in FP16: there INT8
    # saves nothing, and its errors reach the output as they are.
    keeps_single_tokens: bool = False
    is_judged: bool = True  # False in some tables of format 4 and before
    # In dB, of the model's output. Where less is forecast, the layers that cost most stay in FP16.
    min_sqnr: float = 0.0
    # In dB per 1 % of the layers' multiply-adds, what FP16 has to gain for a layer to be kept in it
    # though enough is left of the output; 0 for none. Were all alike, 1 % would gain 0.04 dB.
    min_worth: float = 0.0
    max_fallback: float = 0.1  # share of the layers' multiply-adds, for either

    def __post_init__(self) -> None:
        settle(self)
        measures = (self.steps, self.min_sqnr, self.strengths, self.is_compensated, self.min_worth)
        needs_tokens = any(measures) or self.tries_rotation or self.kept_channels > 0
        is_smoothed = self.fold_strength > 0
        wanted = {
            "fold_strength": (0 <= self.fold_strength <= 1, "0 to 1"),
            "range_method": (
                not is_smoothed or self.range_method == "minmax",
                "minmax where fold_strength is above 0: one pass tells no other range then",
            ),
            "percentile": (50 < self.percentile <= 100, "above 50 and at most 100"),
            "search_tokens": (
                not needs_tokens or self.search_tokens >= 1,
                "at least 1 where something is measured, such as 2048",
            ),
            "max_fallback": (0 <= self.max_fallback <= 1, "0 to 1"),
        }
        for name, (holds, what) in wanted.items():
            if not holds:
                raise SpecError(
                    f"recipe {self.name}: {name} is {getattr(self, name)}, expected {what}"
                )


_BALANCED = Recipe(
    "balanced",
    fold_strength=0.5,
    has_zero_points=True,
    steps=STEP_NAMES,
    strengths=(0.0, 0.3, 0.7),
    is_compensated=True,
    tries_rotation=True,
    kept_channels=64,
    keeps_single_tokens=True,
    search_tokens=768,
    min_sqnr=25.0,
    min_worth=0.15,
)

RECIPES: Mapping[str, Recipe] = {
    "fast": Recipe("fast", fold_strength=0.7, has_zero_points=True),
    "balanced": _BALANCED,
    "best": replace(_BALANCED, name="best", search_tokens=8192),
    "scaled": replace(_BALANCED, name="scaled", scales_hidden=True),
    "symmetric": replace(_BALANCED, name="symmetric", has_zero_points=False),
    "minmax": Recipe("minmax"),
    "percentile": Recipe("percentile", range_method="percentile"),
}
DEFAULT_RECIPE = RECIPES["balanced"]


def find_recipe(name: str | Recipe) -> Recipe:
    """Return the recipe called `name`, or what is one already."""
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise SpecError(f"recipe {name!r} is unknown, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def sqnr_of(error: float) -> float:
    """Return the SQNR in dB of a relative error energy; 200 at most, which JSON can hold."""
    return min(200.0, -10 * math.log10(error)) if error > 0 else 200.0


@dataclass(frozen=True)
class SiteScales:
    """The quantization of one linear layer: ``x_int8 = round(x / scale) + zero``, -128 to 127."""

    precision: Precision  # of a quantized format, or fp16 where the layer stays in floating point
    reason: str
    activation_scale: float  # per tensor, of the layer's input. Rounded to float16, as are weights'
    weight_scales: tuple[float, ...]  # per output channel, (N,)
    activation_amax: float
    # The amax / rms of the layer's input; above 50, INT8 levels are mostly spent on outliers
    activation_crest: float
    # (K,), by which the input's channels are divided and the weight's rows multiplied, folded into
    # what is in front of the layer; like the next two empty for none
    divisors: tuple[float, ...] = ()
    # (K,), that are subtracted from the input's channels before that, and undone in the layer's
    # bias
    offsets: tuple[float, ...] = ()
    correction: tuple[float, ...] = ()  # (N,), that is added to the layer's bias
    # The level that stands for 0: 0 where the range is symmetric. The graph for TensorRT, which
    # knows no zero points, subtracts a constant instead
    activation_zero: int = 0
    # Of the input, that stay in floating point: a small product beside the quantized one takes
    # them, whose weight is zero in these rows
    kept_channels: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    # Energy of the model's output error over energy of its output, with this layer alone quantized;
    # 0 where it was not measured
    output_error: float = 0.0

    @property
    def is_quantized(self) -> bool:
        """Whether the layer is quantized, and not kept in floating point."""
        return find_format(self.precision).is_quantized

    def __post_init__(self) -> None:
        find_format(self.precision)
        for divisor in self.divisors:
            if not (math.isfinite(divisor) and divisor > 0):
                raise SpecError(f"divisor: got {divisor}, expected a finite number above 0")
        if not all(map(math.isfinite, (*self.offsets, *self.correction))):
            raise SpecError("offsets and correction: got NaN or infinity, expected finite numbers")
        if min(self.kept_channels, default=0) < 0:
            raise SpecError(f"kept channels: got {min(self.kept_channels)}, expected 0 or more")
        if not -127 <= self.activation_zero <= 127:
            raise SpecError(f"zero point: got {self.activation_zero}, expected -127 to 127")
        for scale in (self.activation_scale, *self.weight_scales):
            if not (math.isfinite(scale) and scale >= MIN_SCALE):
                raise SpecError(
                    f"scale: got {scale}, expected a finite number of at least {MIN_SCALE}"
                )


@dataclass(frozen=True)
class FallbackPoint:
    """A point of the curve of accuracy over work: one more layer in FP16."""

    site: str  # that stays in FP16 here, and at every later point
    share: float  # of the layers' multiply-adds in FP16, 0 to 1
    sqnr: float  # forecast for the model's output, in dB


@dataclass(frozen=True)
class Forecast:
    """Accuracy of INT8 by the table, end to end."""

    num_images: int  # that were held out
    # Of the model's output in dB, as other images may show it: what was measured on these and as
    # many that had a part in the plan, less what these flatter it by.
    sqnr: float
    worst: float  # of the image that is off most, in dB
    plan: str  # which of the plans that were compared this is
    # SQNR of the other plans, in dB, every layer in INT8; of some of the images, where a plan could
    # not win any more.
    others: Mapping[str, float] = field(default_factory=dict)
    # Over those held out, in dB; None in tables of earlier versions.
    measured: float | None = None
    # The interval that `sqnr` may lie in, in dB; None in tables of earlier versions.
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return the forecast and its interval."""
        interval = "" if self.low is None else f" ({self.low:.1f} to {self.high:.1f})"
        return f"{self.sqnr:.1f} dB{interval}"


@dataclass(frozen=True)
class CalibrationTable:
    """All that `quantize` needs: one table yields every INT8 artifact, without images."""

    recipe: Recipe
    model_digest: str  # SHA-256 of the fp32 graph that it belongs to
    sites: Mapping[str, SiteScales]  # by name, such as block0/qkv
    # SHA-256 of each image as the model saw it, uint8 (height, width, 3), sorted
    image_digests: tuple[str, ...]
    # The layers in the order in which they would go to FP16, costliest first; empty where the
    # recipe measures no layer
    fallback: tuple[FallbackPoint, ...] = ()
    # Nodes that FP16 would overflow, with the reason (edge_vit.lowering.fp16)
    fp32_nodes: Mapping[str, str] = field(default_factory=dict)
    # The signature (edge_vit.data.perceptual) of each image as base64, sorted: it finds the image
    # again when it was encoded anew. Empty in tables of format 3 and before
    image_signatures: tuple[str, ...] = ()
    # None where the recipe measures nothing, or on too few images to decide anything
    forecast: Forecast | None = None
    # Layers whose weights are rounded to nearest although the recipe would have errors make up for
    # each other: the images say too little of how their channels vary
    nearest: tuple[str, ...] = ()
    weights_digest: str = ""  # SHA-256 of the file that holds levels; empty where there are none
    # Seed of the rotation of the residual stream that the sites were calibrated in
    rotation: int | None = None
    # As fp32_nodes, in the rotated graph
    rotated_fp32_nodes: Mapping[str, str] = field(default_factory=dict)
    # Nodes of the INT8 graph alone that FP16 may overflow: parts of a sum that is within its range
    split_fp32_nodes: Mapping[str, str] = field(default_factory=dict)
    # By layer, its weight as rounded, int8 (K, N), kept in a file of their own; layers that are
    # missing are rounded to nearest
    levels: Mapping[str, npt.NDArray[np.int8]] = field(default_factory=dict, compare=False)
    format: int = TABLE_FORMAT

    @property
    def num_images(self) -> int:
        """Number of images that were calibrated on."""
        return len(self.image_digests)

    @property
    def int8_fp32_nodes(self) -> Mapping[str, str]:
        """Nodes that FP16 would overflow in the INT8 graph, those that it alone has among them."""
        nodes = self.fp32_nodes if self.rotation is None else self.rotated_fp32_nodes
        beside = {
            f"{name}/{part}": nodes[name]
            for name, site in self.sites.items()
            if (site.kept_channels or site.activation_zero) and name in nodes
            for part in (*KEPT_NODES, UNDO_CENTRE)
        }
        return {**nodes, **beside, **self.split_fp32_nodes}

    @property
    def is_decided(self) -> bool:
        """Whether there were images enough to forecast what INT8 comes to on others."""
        return len(set(self.image_digests)) >= FEWEST_FOR_FORECAST

    @property
    def forecast_text(self) -> str:
        """The forecast in words; empty where nothing was measured."""
        if self.recipe.search_tokens and not self.is_decided:
            num_images = len(set(self.image_digests))
            few = f"with {num_images} different calibration image{'s' * (num_images != 1)}"
            return f"undecided {few}, {FEWEST_FOR_FORECAST} or more are wanted"
        if self.forecast is not None:
            return f"{self.forecast}; worst image {self.forecast.worst:.1f} dB"
        return f"{self.sqnr:.1f} dB" if self.sqnr is not None else ""

    @property
    def sqnr(self) -> float | None:
        """Forecast for the model's output, in dB; None where nothing decides.

        Tables of earlier versions measured single layers alone and summed them up.
        """
        if not self.is_decided:
            return None
        if self.forecast is not None:
            return self.forecast.sqnr
        total = sum(s.output_error for s in self.sites.values() if s.is_quantized)
        return sqnr_of(total) if total > 0 else None

    def to_bytes(self) -> bytes:
        """Return the table as the JSON file in the bundle, without `levels`."""
        fields = to_json(replace(self, levels={}))
        del fields["levels"]
        return (json.dumps(fields, indent=1) + "\n").encode()

    def weights_to_bytes(self) -> bytes:
        """Return `levels` as an uncompressed ``.npz``; its digest is `weights_digest`."""
        return _levels_to_bytes(self.levels)

    def with_levels(self, levels: Mapping[str, npt.NDArray[np.int8]]) -> CalibrationTable:
        """Return the table with `levels` in it, and their digest."""
        digest = hashlib.sha256(_levels_to_bytes(levels)).hexdigest() if levels else ""
        return replace(self, levels=levels, weights_digest=digest)

    def with_weights(self, data: bytes, where: str) -> CalibrationTable:
        """Return the table with what `weights_to_bytes` wrote."""
        if hashlib.sha256(data).hexdigest() != self.weights_digest:
            raise ArtifactError(
                f"{where} belongs to another calibration table. Run: edgevit calibrate"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return replace(self, levels=dict(arrays))

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "calibration.json") -> CalibrationTable:
        """Return the table that `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no table, or of a format that this version does not know.
        """
        try:
            parsed = parse_json(data)
            found = parsed.get("format")
            if found not in range(1, TABLE_FORMAT + 1):
                raise ArtifactError(
                    f"{where}: format {found}, this edge-vit reads 1 to {TABLE_FORMAT}. "
                    "Run: edgevit calibrate"
                )
            if "levels" in parsed:  # they are in a file of their own
                raise SpecError("unknown field 'levels'")
            return from_json(cls, parsed | {"format": TABLE_FORMAT}, where)
        except (ValueError, AttributeError, SpecError) as error:
            raise ArtifactError(f"{where} is not a calibration table: {error}") from None


def _levels_to_bytes(levels: Mapping[str, npt.NDArray[np.int8]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # without the time, so that the digest is of them
        for name, array in levels.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
