"""One short record per evaluated image: copies are found wherever each image was evaluated."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.data.perceptual import SIGNATURE_BYTES, SignatureIndex
from edge_vit.errors import SpecError
from edge_vit.measure.metrics import BoolArray, FloatArray, IntArray

CONFLICTING = -2
"""The label of a picture that comes with several labels; -1 is that of one without any."""

_DIGEST_BYTES = 16
_RECORD = np.dtype(
    [
        ("digest", "u1", _DIGEST_BYTES),
        ("label", "<i4"),
        ("answer", "<i4"),
        ("projection", "<f4"),
        ("norm", "<f4"),
        ("margin", "<f4"),
        ("is_calibrated_on", "u1"),
        ("scores", "u1"),
        ("signature", "u1", SIGNATURE_BYTES),
    ]
)
AGREES, REFERENCE_RIGHT, CANDIDATE_RIGHT = 1, 2, 4
"""Bits of an image's outcome, one byte per image and candidate."""

PROBABILITIES, LOG_PROBABILITIES = 1, 2
"""Bits of `scores`: what a row of the reference's raw outputs looks like."""

_SUM_TOLERANCE = 1e-3

Records = NDArray[np.void]
Outcomes = NDArray[np.uint8]


@dataclass(frozen=True)
class Clusters:
    """Images that show one picture, and the one of each that counts.

    Attributes:
        leaders: row of the image that stands for each picture, (pictures,).
        cluster_of: picture of each image, (images,).
        labels: of each picture, (pictures,): -1 where none is known, `CONFLICTING` where several.
        is_calibrated_on: whether calibration saw the picture, (pictures,).
        num_exact_copies: images with the pixels of another one.
    """

    leaders: IntArray
    cluster_of: IntArray
    labels: IntArray
    is_calibrated_on: BoolArray
    num_exact_copies: int


class RecordKeeper:
    """Collects the record of each image while images stream by.

    Args:
        packed: records of images that were evaluated before, as `packed` gave them.
    """

    def __init__(self, packed: str = "") -> None:
        self._bytes = bytearray(base64.b64decode(packed))

    def add(
        self,
        digests: Sequence[str],
        signatures: Sequence[bytes],
        labels: Sequence[int],
        outputs: FloatArray,
        is_calibrated_on: Sequence[bool],
    ) -> None:
        """Take in the images of one batch.

        Args:
            digests: SHA-256 of each image, as hex digits.
            signatures: `edge_vit.data.perceptual.signature` of each.
            labels: of each, -1 where it is not known.
            outputs: the reference's raw outputs, (images, values).
            is_calibrated_on: whether calibration saw it.
        """
        rows = np.zeros(len(digests), _RECORD)
        wide = outputs.astype(np.float64)
        direction = _direction(wide.shape[1])
        for row, digest in enumerate(digests):
            rows["digest"][row] = np.frombuffer(bytes.fromhex(digest), np.uint8)[:_DIGEST_BYTES]
            rows["signature"][row] = np.frombuffer(signatures[row], np.uint8)
        rows["label"] = labels
        rows["answer"] = wide.argmax(axis=1)
        rows["projection"] = wide @ direction
        rows["margin"] = _margin(wide)
        rows["norm"] = np.linalg.norm(wide, axis=1) * np.linalg.norm(direction)
        rows["is_calibrated_on"] = is_calibrated_on
        rows["scores"] = _looks_like(wide)
        self._bytes += rows.tobytes()

    @property
    def packed(self) -> str:
        """All records as base64, in the order of the images."""
        return base64.b64encode(self._bytes).decode("ascii")


def unpack_records(packed: str) -> Records:
    """Return the records that `RecordKeeper.packed` gave, (images,)."""
    raw = _decoded(packed)
    if len(raw) % _RECORD.itemsize:
        raise SpecError(f"records of images: got {len(raw)} bytes, which end within a record")
    return np.frombuffer(raw, _RECORD)


def unpack_outcomes(packed: str) -> Outcomes:
    """Return the outcome of each image, (images,): bits of `AGREES` and so on."""
    return np.frombuffer(_decoded(packed), np.uint8)


def pack_outcomes(outcomes: bytes | bytearray) -> str:
    """Return outcomes as base64."""
    return base64.b64encode(outcomes).decode("ascii")


def join_packed(first: str, second: str) -> str:
    """Return the records, or the outcomes, of the images of both, in that order."""
    return base64.b64encode(_decoded(first) + _decoded(second)).decode("ascii")


@functools.lru_cache(maxsize=1)
def find_clusters(packed: str) -> Clusters:
    """Return which images show one picture; the order of the images does not matter.

    Images of equal pixels are one picture. Images of unlike pixels are one where their signatures
    say so and they have the same label: pictures in a series that differ by a detail have different
    labels for it. The image of the smallest digest stands for a picture, so no outcome does.
    """
    records = unpack_records(packed)
    digests = [row.tobytes() for row in records["digest"]]
    groups: dict[bytes, list[int]] = {}
    for row in sorted(range(len(records)), key=digests.__getitem__):
        groups.setdefault(digests[row], []).append(row)
    indices: dict[int, SignatureIndex] = {}
    numbers: dict[tuple[int, int], int] = {}  # label and number in its index -> picture
    leaders: list[int] = []
    labels: list[int] = []
    seen: list[bool] = []
    cluster_of = np.zeros(len(records), np.int64)
    for rows in groups.values():
        label = _common_label(records["label"][rows])
        value = records["signature"][rows[0]].tobytes()
        index = indices.setdefault(label, SignatureIndex())
        found = index.find(value)
        if found is None:
            numbers[label, index.add(value)] = cluster = len(leaders)
            leaders.append(next((r for r in rows if records["label"][r] == label), rows[0]))
            labels.append(label)
            seen.append(False)
        else:
            cluster = numbers[label, found]
        cluster_of[rows] = cluster
        seen[cluster] |= bool(records["is_calibrated_on"][rows].any())
    return Clusters(
        np.array(leaders, np.int64),
        cluster_of,
        np.array(labels, np.int64),
        np.array(seen, bool),
        len(records) - len(groups),
    )


@functools.lru_cache(maxsize=4)
def _direction(size: int) -> NDArray[np.float64]:
    """A fixed direction in the space of outputs: what is constant along it is constant."""
    return np.random.default_rng(0).standard_normal(size)


def _common_label(labels: NDArray[Any]) -> int:
    """The label that all images of the same pixels have, where they have one."""
    known = set(labels[labels >= 0].tolist())
    return CONFLICTING if len(known) > 1 else known.pop() if known else -1


def _margin(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the largest output of each row is above the next one, (rows,): how sure it is."""
    if outputs.shape[1] < 2:
        return np.zeros(len(outputs))
    best = np.partition(outputs, -2, axis=1)
    margin: NDArray[np.float64] = best[:, -1] - best[:, -2]
    return margin


def _looks_like(outputs: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Whether each row, (rows,), is a distribution over classes, or the logarithm of one."""
    if outputs.shape[1] < 2:
        return np.zeros(len(outputs), np.uint8)
    is_share = (outputs >= 0).all(axis=1) & (outputs <= 1 + _SUM_TOLERANCE).all(axis=1)
    sums = np.where(is_share, outputs.sum(axis=1), 0)
    is_log = (outputs <= _SUM_TOLERANCE).all(axis=1)
    log_sums = np.where(is_log, np.exp(np.minimum(outputs, 0)).sum(axis=1), 0)
    flags: NDArray[np.uint8] = (
        PROBABILITIES * (np.abs(sums - 1) <= _SUM_TOLERANCE)
        + LOG_PROBABILITIES * (np.abs(log_sums - 1) <= _SUM_TOLERANCE)
    ).astype(np.uint8)
    return flags


def _decoded(packed: str) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except ValueError as error:
        raise SpecError(f"records of images: {error}") from None
