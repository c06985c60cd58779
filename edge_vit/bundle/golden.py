"""The golden images of a bundle and their fp32 outputs."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.bundle.manifest import GOLDEN
from edge_vit.errors import ArtifactError


@dataclass(frozen=True)
class Golden:
    """A few images and what the fp32 graph says of them: the model's own self-test.

    Attributes:
        images: uint8 (count, height, width, 3) RGB, as preprocessed.
        outputs: float32 (count, classes or channels).
    """

    images: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]

    @property
    def digests(self) -> frozenset[str]:
        """Digest of each image, as a calibration table lists those that it has seen."""
        from edge_vit.data.preprocess import digest

        return frozenset(map(digest, self.images))

    def to_bytes(self) -> bytes:
        """Return both arrays as an uncompressed ``.npz``."""
        buffer = io.BytesIO()
        np.savez(buffer, images=self.images, outputs=self.outputs)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """Return what `to_bytes` wrote.

        Raises:
            ArtifactError: these are no such bytes.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["images"], arrays["outputs"])
        except Exception as error:  # a damaged archive can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"{GOLDEN} cannot be read: {reason[:200]}") from None
