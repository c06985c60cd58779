"""What is the same in every task with one map as its output."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs, Size, Task
from edge_vit.tasks.maps.numerics import as_channels, correlation
from edge_vit.tasks.maps.pictures import beside, blend
from edge_vit.tasks.maps.placement import Kernel
from edge_vit.tasks.maps.prediction import MapPrediction, Shading
from edge_vit.tasks.numerics import Float64Array, FloatArray, relative_rms
from edge_vit.tasks.prediction import Prediction

MIN_CORRELATION = 0.99  # least correlation of two maps that count as the same prediction
MIN_ROUGH_CORRELATION = 0.95  # the same where a precision is compared in the field


class MapTask(Task):
    """One output, (batch, height, width) or (batch, channels, height, width)."""

    gives = "map"
    gives_map = True
    is_drawn = True
    has_labels = False
    disagreement_is_loss = True
    has_direction = False  # a map's level alone makes every cosine large
    columns = ("map", "grid", "least", "largest", "mean")
    num_word_columns = 3
    most_apart, most_roughly_apart = 1 - MIN_CORRELATION, 1 - MIN_ROUGH_CORRELATION
    kernel: Kernel = "bilinear"  # between the cells of the map, in an image's pixels

    def width_of(self, shape: tuple[int | str, ...]) -> int | str:
        """Return the number of channels."""
        return shape[1] if len(shape) == 4 else 1

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model whose output is no map."""
        shape = spec.outputs[0].shape
        if len(shape) not in (3, 4) or not all(isinstance(side, int) for side in shape[1:]):
            raise SpecError(
                f"output of {spec.name}: got {spec.outputs[0]}, expected a map (batch, height, "
                "width) or (batch, channels, height, width)"
            )
        super().check(spec)

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the map, whatever `top` is."""
        output = spec.outputs[0].name
        (values,) = as_channels(np.asarray(outputs[output], np.float32)[None])
        return MapPrediction(image, output, values, size, spec.preprocess, self.kernel)

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return 1 - correlation."""
        return 1 - self.correlation(spec, reference, candidate)

    def correlation(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return the correlation of the maps of each row, (rows,)."""
        return correlation(self.values(spec, reference), self.values(spec, candidate))

    def deviation(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> float:
        """Return the error of all rows over the spread of each map of `reference`."""
        ours, theirs = (_flat(self.values(spec, each)) for each in (reference, candidate))
        return relative_rms(ours, theirs, over_images=False)

    def overlay(self, spec: ModelSpec, picture: Any, reference: Outputs, candidate: Outputs) -> Any:
        """Return `picture`, then with the map of the reference and with that of the candidate."""
        size = (picture.height, picture.width)
        ours, theirs = (
            MapPrediction("", "", as_channels(self.values(spec, each))[0], size, None, self.kernel)
            for each in (reference, candidate)
        )
        basis = Shading.of(ours)
        maps = [blend(picture, *each.shades(basis=basis)) for each in (ours, theirs)]
        return beside([picture.convert("RGB"), *maps])


def _flat(values: FloatArray) -> FloatArray:
    return np.asarray(values).reshape(len(values), -1)
