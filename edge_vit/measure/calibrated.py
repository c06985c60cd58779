"""Images that calibration saw, found again by their pixels or by what they show."""

from __future__ import annotations

from collections.abc import Iterable

from edge_vit.data.perceptual import SignatureIndex, signature_from_text
from edge_vit.errors import ArtifactError
from edge_vit.spec.table import CalibrationTable


class CalibrationImages:
    """What is kept of the images that calibration saw; empty where it saw none.

    Args:
        digests: `edge_vit.data.preprocess.digest` of each.
        signatures: `edge_vit.data.perceptual.signature` of each; none in older tables.
    """

    def __init__(self, digests: Iterable[str] = (), signatures: Iterable[bytes] = ()) -> None:
        self._digests = frozenset(digests)
        self._index = SignatureIndex(signatures)

    @classmethod
    def of(cls, table: CalibrationTable | None) -> CalibrationImages:
        """Return those of `table`."""
        if table is None:
            return cls()
        try:
            signatures = [signature_from_text(text) for text in table.image_signatures]
        except ValueError as error:
            raise ArtifactError(f"calibration table: {error}. Run: edgevit calibrate") from None
        return cls(table.image_digests, signatures)

    def include(self, digest: str, signature: bytes) -> bool:
        """Return whether calibration saw an image, also when encoded anew or resized since."""
        return digest in self._digests or self._index.find(signature) is not None
