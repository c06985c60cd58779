"""The prediction of a task that makes images: an array, and the picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_vit.spec.samples import as_picture
from edge_vit.tasks.numerics import FloatArray
from edge_vit.tasks.prediction import Prediction


@dataclass(frozen=True, eq=False)
class SamplePrediction(Prediction):
    """What was generated: float32 (channels, height, width), of images from -1 to 1."""

    values: FloatArray

    @property
    def headline(self) -> str:
        """Shape and range."""
        shape = " × ".join(map(str, self.values.shape))
        return f"{shape}, {self.values.min():.3g} to {self.values.max():.3g}"

    def extras(self) -> dict[str, Any]:
        """Return shape and range."""
        return {
            "shape": list(self.values.shape),
            "min": float(self.values.min()),
            "max": float(self.values.max()),
        }

    def draw(self, picture: Any) -> Any:
        """Return the sample as a Pillow image, in its own pixels; `picture` does not matter."""
        from PIL import Image

        return Image.fromarray(as_picture(self.values))

    def cells(self) -> list[tuple[str, ...]]:
        """Return shape and range."""
        shape = " × ".join(map(str, self.values.shape))
        return [(shape, f"{self.values.min():.4g}", f"{self.values.max():.4g}")]
