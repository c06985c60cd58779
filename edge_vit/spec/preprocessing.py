"""How an image becomes a model's input, as a frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edge_vit.errors import SpecError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
CropMode = Literal["center", "squash", "border"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the model's input; the words and their meaning are timm's.

    `edge_vit.data.preprocess` resizes and crops; `mean` and `std` are applied inside the graph.

    Attributes:
        image_size: (height, width) of the model's input, in pixels.
        interpolation: how pixels are resampled; always antialiased, as Pillow does it.
        crop_pct: share of the resized image that the crop keeps: the image is resized to
            ``image_size / crop_pct`` first.
        crop_mode: `center` resizes the shorter side and crops the centre; `squash` resizes both
            sides, whatever the aspect ratio; `border` resizes the longer side and pads with `mean`.
        mean: per channel R, G, B, of values from 0 to 1.
        std: per channel R, G, B, of values from 0 to 1.
    """

    image_size: tuple[int, int]
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise SpecError(
                f"image_size: got {self.image_size}, expected (height, width) in pixels"
            )
        if not 0 < self.crop_pct <= 1:
            raise SpecError(f"crop_pct: got {self.crop_pct}, expected more than 0 and at most 1")
        for name, known in (
            ("interpolation", get_args(Interpolation)),
            ("crop_mode", get_args(CropMode)),
        ):
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise SpecError(f"{name}: got {got!r}, expected one of {', '.join(known)}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(v) for v in values):
                raise SpecError(f"{name}: got {values}, expected three finite numbers (R, G, B)")
        if min(self.std) <= 0:
            raise SpecError(f"std: got {self.std}, expected three numbers above 0")

    @property
    def resize_size(self) -> tuple[int, int]:
        """(height, width) before the crop: ``floor(image_size / crop_pct)``, as timm rounds it.

        The tiny addend keeps a `crop_pct` that was itself computed as crop / resize exact.
        """
        height, width = (math.floor(side / self.crop_pct + 1e-6) for side in self.image_size)
        return height, width
