"""How a bundle's fp32 graph was made and proven, as a value that stays in the bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.formats.fp16 import FORMAT as FP16
from edge_vit.printable import escape_json
from edge_vit.values import from_json, parse_json, to_json

GOLDEN_IMAGES = "golden images"
SAMPLE_PHOTOGRAPHS = "sample photographs"
"""What `Parity.images` says where no images were given: they are none of the deployment's."""


@dataclass(frozen=True)
class Parity:
    """How the exported graph compares with the model that it came from.

    Attributes:
        reference: what it was compared with, such as ``torch 2.14.1``.
        images: which images were used.
        batches: the batch sizes that were run.
        cosine_min: smallest cosine of two outputs for one image.
        max_error: largest absolute difference, over the largest absolute output.
        spread: largest difference between the outputs of two images, over the same: what the error
            has to be seen against.
    """

    reference: str
    images: str
    batches: tuple[int, ...]
    cosine_min: float
    max_error: float
    spread: float


@dataclass(frozen=True)
class ExportRecord:
    """How the fp32 graph was made.

    Attributes:
        address: of the source.
        checkpoint: name of the weights' file, empty for the library's own or random ones.
        parity: the proof.
        notes: what edge-vit could not bring into its canonical form, one line each.
        remarks: what was found of the model, and done to it, a sentence each.
        weights: what was taken out of the checkpoint, in one line; empty without one.
    """

    address: str
    checkpoint: str
    parity: Parity
    notes: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    weights: str = ""

    def to_bytes(self) -> bytes:
        """Return the record as JSON."""
        text = json.dumps(to_json(self), indent=1, ensure_ascii=False)
        return (escape_json(text) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ExportRecord:
        """Return what `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no export record.
        """
        try:
            return from_json(cls, parse_json(data), "export.json")
        except (ValueError, SpecError) as error:
            raise ArtifactError(f"export.json is not an export record: {error}") from None


@dataclass(frozen=True)
class HalfProof:
    """What running the FP16 graph node by node, each output rounded to float16, has shown.

    ONNX Runtime and OpenVINO keep float32 between the nodes of such a graph on a CPU, so that their
    own runs of it say little about a GPU.

    Attributes:
        num_images: that were run; in none did a value overflow.
        cosine_min: smallest cosine of its outputs with those of fp32.
        float32_nodes: how many nodes stay in float32 for it.
    """

    num_images: int
    cosine_min: float
    float32_nodes: int

    def to_bytes(self) -> bytes:
        """Return the proof as JSON."""
        return (json.dumps(to_json(self), indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> HalfProof:
        """Return what `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no such proof.
        """
        try:
            return from_json(cls, parse_json(data), FP16.proof)
        except (ValueError, SpecError) as error:
            raise ArtifactError(f"{FP16.proof} is not a proof of {FP16.title}: {error}") from None


@dataclass(frozen=True)
class GoldenProof:
    """How far quantized graphs were off on each golden image when they were written.

    Attributes:
        deviations: of each image, `edge_vit.tasks.base.Task.deviations`; of the graphs for
            different targets the largest.
    """

    deviations: tuple[float, ...]

    def to_bytes(self) -> bytes:
        """Return the proof as JSON."""
        return (json.dumps(to_json(self), indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> GoldenProof:
        """Return what `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no such proof.
        """
        try:
            return from_json(cls, parse_json(data), where)
        except (ValueError, SpecError) as error:
            raise ArtifactError(f"{where} is not a proof on golden images: {error}") from None
