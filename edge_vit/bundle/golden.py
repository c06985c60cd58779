"""The golden images of a bundle and their fp32 outputs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vit.bundle.manifest import GOLDEN
from edge_vit.errors import ArtifactError
from edge_vit.spec import ModelSpec

_FURTHER = "outputs/"


@dataclass(frozen=True)
class Golden:
    """A few images and what the fp32 graph says of them: the model's own self-test.

    Attributes:
        images: uint8 (count, height, width, 3) RGB, as preprocessed.
        outputs: float32 (count, ...): the first output.
        further: the other named outputs, likewise.
    """

    images: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]
    further: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def named(self, spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output by the name that `spec` gives it."""
        return {spec.outputs[0].name: self.outputs, **self.further}

    @property
    def digests(self) -> frozenset[str]:
        """Digest of each image, as a calibration table lists those that it has seen."""
        from edge_vit.data.preprocess import digest

        return frozenset(map(digest, self.images))

    def to_bytes(self) -> bytes:
        """Return all arrays as an uncompressed ``.npz``."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"{_FURTHER}{name}": o for name, o in self.further.items()}
        np.savez(buffer, images=self.images, outputs=self.outputs, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """Return what `to_bytes` wrote.

        Raises:
            ArtifactError: these are no such bytes.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                further = {
                    name.removeprefix(_FURTHER): arrays[name]
                    for name in arrays.files
                    if name.startswith(_FURTHER)
                }
                return cls(arrays["images"], arrays["outputs"], further)
        except Exception as error:  # a damaged archive can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"{GOLDEN} cannot be read: {reason[:200]}") from None
