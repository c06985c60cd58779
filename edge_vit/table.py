"""The calibration table and the recipe it was made by: values that every room can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.values import from_json, to_json

TABLE_FORMAT = 1

RangeMethod = Literal["minmax", "percentile"]
SitePrecision = Literal["int8", "fp16"]

MIN_SCALE = 2.0**-14
"""Smallest scale: the smallest normal float16; TensorRT may take anything below it for zero."""


@dataclass(frozen=True)
class Recipe:
    """Every choice of a quantization.

    Attributes:
        name: how the user asks for it.
        range_method: how an activation's range follows from its statistics.
        percentile: of |x|, where `range_method` is ``percentile``.
        fold_strength: how much of a channel's range moves from the activation into the weight
            before ranges are taken, 0 for nothing to 1 for all (`edge_vit.calibration.fold`).
    """

    name: str = "minmax"
    range_method: RangeMethod = "minmax"
    percentile: float = 99.99
    fold_strength: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fold_strength <= 1:
            raise SpecError(f"fold_strength: got {self.fold_strength}, expected 0 to 1")
        if self.fold_strength and self.range_method != "minmax":
            raise SpecError(
                f"recipe {self.name}: one pass tells the minmax of folded channels, not their "
                f"{self.range_method}. Set fold_strength to 0 or range_method to minmax"
            )
        if not 50 < self.percentile <= 100:
            raise SpecError(f"percentile: got {self.percentile}, expected above 50 and at most 100")


RECIPES: Mapping[str, Recipe] = {
    "fast": Recipe("fast", fold_strength=0.5),
    "minmax": Recipe("minmax"),
    "percentile": Recipe("percentile", range_method="percentile"),
}
DEFAULT_RECIPE = RECIPES["fast"]


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        SpecError: there is none; the message lists those there are.
    """
    if name not in RECIPES:
        raise SpecError(f"recipe {name!r} is unknown, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


@dataclass(frozen=True)
class SiteScales:
    """How one linear layer is quantized: ``x_int8 = round(x / scale)``, symmetric, -127 to 127.

    Attributes:
        precision: `int8`, or `fp16` where the layer stays in floating point.
        reason: why, in words for the report.
        activation_scale: per tensor, of the layer's input. Rounded to float16.
        weight_scales: per output channel, (N,). Rounded to float16.
        activation_amax: largest |x| that calibration saw at the layer's input.
        activation_crest: amax / rms of the layer's input; above 50, INT8 levels are mostly spent
            on outliers.
        divisors: (K,), by which the input's channels are divided and the weight's rows multiplied,
            folded into what is in front of the layer; empty where nothing is folded.
    """

    precision: SitePrecision
    reason: str
    activation_scale: float
    weight_scales: tuple[float, ...]
    activation_amax: float
    activation_crest: float
    divisors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for divisor in self.divisors:
            if not (math.isfinite(divisor) and divisor > 0):
                raise SpecError(f"divisor: got {divisor}, expected a finite number above 0")
        for scale in (self.activation_scale, *self.weight_scales):
            if not (math.isfinite(scale) and scale >= MIN_SCALE):
                raise SpecError(
                    f"scale: got {scale}, expected a finite number of at least {MIN_SCALE}"
                )


@dataclass(frozen=True)
class CalibrationTable:
    """All that `quantize` needs: one table yields every INT8 artifact, without images.

    Attributes:
        recipe: by which it was made.
        model_digest: SHA-256 of the fp32 graph that it belongs to.
        sites: by name, such as ``block0/qkv``.
        image_digests: SHA-256 of each image as the model saw it, uint8 (height, width, 3), sorted.
    """

    recipe: Recipe
    model_digest: str
    sites: Mapping[str, SiteScales]
    image_digests: tuple[str, ...]
    format: int = TABLE_FORMAT

    @property
    def num_images(self) -> int:
        """How many images were calibrated on."""
        return len(self.image_digests)

    def to_bytes(self) -> bytes:
        """Return the table as the JSON file in the bundle."""
        return (json.dumps(to_json(self), indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "calibration.json") -> CalibrationTable:
        """Return the table that `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no table, or of a format that this version does not know.
        """
        try:
            parsed = json.loads(data)
            if parsed.get("format") != TABLE_FORMAT:
                raise ArtifactError(
                    f"{where}: format {parsed.get('format')}, this edge-vit reads {TABLE_FORMAT}. "
                    "Run: edgevit calibrate"
                )
            return from_json(cls, parsed, where)
        except (ValueError, AttributeError, RecursionError, SpecError) as error:
            raise ArtifactError(f"{where} is not a calibration table: {error}") from None
