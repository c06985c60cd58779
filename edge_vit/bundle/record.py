"""Values that stay in a bundle: the export record, proofs of its graphs, and golden images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from edge_vit.bundle.manifest import GOLDEN, RECORD
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.formats.fp16 import FORMAT as FP16
from edge_vit.spec import ModelSpec
from edge_vit.values import WRITTEN_IF_SET, from_json, json_file, parse_json

GOLDEN_IMAGES = "golden images"
SAMPLE_PHOTOGRAPHS = "sample photographs"
"""What `Parity.images` holds where no images were given: they are none of the deployment's."""

_FURTHER = "outputs/"
_R = TypeVar("_R", bound="_Record")


class _Record:
    """A frozen dataclass that is one JSON file of a bundle."""

    _file: ClassVar[str] = ""
    _title: ClassVar[str]

    def to_bytes(self) -> bytes:
        """Return the value as JSON."""
        return json_file(self)

    @classmethod
    def from_bytes(cls: type[_R], data: bytes, where: str = "") -> _R:
        """Return what `to_bytes` wrote; `where` names the file in the error, an ArtifactError."""
        where = where or cls._file
        try:
            return from_json(cls, parse_json(data), where)
        except (ValueError, SpecError) as error:
            raise ArtifactError(f"{where} is not {cls._title}: {error}") from None


@dataclass(frozen=True)
class Parity:
    """How the exported graph compares with its reference."""

    reference: str  # such as ``torch 2.14.1``
    images: str
    batches: tuple[int, ...]
    cosine_min: float  # smallest cosine of two outputs for one image
    max_error: float  # largest absolute difference, over the largest absolute output
    spread: float  # largest difference between the outputs of two images, over the same


@dataclass(frozen=True)
class ExportRecord(_Record):
    """How the fp32 graph was made."""

    _file, _title = RECORD, "an export record"

    address: str  # of the source
    checkpoint: str  # name of the weights' file; empty for the library's own or random ones
    parity: Parity
    notes: tuple[str, ...]  # what could not be brought into canonical form, one line each
    remarks: tuple[str, ...] = ()  # what was found of the model, and done to it, a sentence each
    weights: str = ""  # what was taken out of the checkpoint, in one line
    # Whether INT8 has linear layers to quantize
    is_quantizable: bool = field(default=True, metadata=WRITTEN_IF_SET)


@dataclass(frozen=True)
class HalfProof(_Record):
    """Result of running the FP16 graph node by node, each output rounded to float16.

    ONNX Runtime and OpenVINO keep float32 between the nodes of such a graph on a CPU, so that their
    own runs of it say little about a GPU. No value overflowed in any of `num_images`; `cosine_min`
    is the smallest cosine with the outputs of fp32.
    """

    _file, _title = FP16.proof, f"a proof of {FP16.title}"

    num_images: int
    cosine_min: float
    float32_nodes: int


@dataclass(frozen=True)
class GoldenProof(_Record):
    """Deviation of the quantized graphs on each golden image, when they were written.

    See `edge_vit.tasks.base.Task.deviations`; of the graphs for several targets the largest.
    """

    _title = "a proof on golden images"

    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """A few images and their fp32 outputs: the model's own self-test."""

    images: npt.NDArray[np.uint8]  # (count, height, width, 3) RGB, as preprocessed
    outputs: npt.NDArray[np.float32]  # (count, ...): the first output
    further: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # the others

    def named(self, spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output by the name that `spec` gives it."""
        return {spec.outputs[0].name: self.outputs, **self.further}

    @property
    def digests(self) -> frozenset[str]:
        """Digest of each image, as in the calibration table."""
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
        """Return what `to_bytes` wrote, or raise an ArtifactError."""
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
