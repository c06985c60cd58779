"""One record per evaluated image, from which everything is counted: parts need only be joined."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.data.perceptual import SIGNATURE_BYTES, SignatureIndex, signature_from_text
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.measure.results import Evidence
from edge_vit.spec.table import CalibrationTable
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray, IntArray

CONFLICTING = -2
"""The label of a picture that comes with several labels; -1 is that of one without any."""

LOOKS = {1: "probabilities", 2: "log-probabilities", 3: "probabilities"}
"""By the bits of `looks`: what a row of the reference's raw outputs looks like, where not 0."""

RECORD = np.dtype(
    [
        ("digest", "u1", 32),
        ("label", "<i4"),
        ("answer", "<i4"),
        ("is_in_top", "u1"),
        ("score", "<f8"),
        ("projection", "<f4"),
        ("norm", "<f4"),
        ("is_calibrated_on", "u1"),
        ("looks", "u1"),
        ("signature", "u1", SIGNATURE_BYTES),
    ]
)
"""An image and what the reference made of it: its class, whether the label is among its first five,
and the probability of its class."""

OUTCOME = np.dtype(
    [
        ("agrees", "u1"),
        ("answer", "<i4"),
        ("is_in_top", "u1"),
        ("score", "<f8"),
        ("cosine", "<f8"),
        ("signal", "<f8"),
        ("noise", "<f8"),
        ("divergence", "<f8"),
    ]
)
"""What a candidate made of the same image, and how far that is from the reference."""

_SUM_TOLERANCE = 1e-3
_DIGEST_BYTES = 256

Rows = NDArray[np.void]


def pack(rows: bytes | bytearray) -> str:
    """Return records or outcomes as base64."""
    return base64.b64encode(rows).decode("ascii")


def join_packed(first: str, second: str) -> str:
    """Return the records, or the outcomes, of the images of both, in that order."""
    return pack(_decoded(first) + _decoded(second))


def unpack(packed: str, kind: np.dtype[np.void]) -> Rows:
    """Return the records or outcomes that `pack` gave, (images,)."""
    raw = _decoded(packed)
    if len(raw) % kind.itemsize:
        raise SpecError(f"records of images: got {len(raw)} bytes, which end within a record")
    return np.frombuffer(raw, kind)


def _decoded(packed: str) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except ValueError as error:
        raise SpecError(f"records of images: {error}") from None


def make_records(
    digests: Sequence[str],
    signatures: Sequence[bytes],
    labels: Sequence[int],
    outputs: FloatArray,
    is_calibrated_on: Sequence[bool],
) -> Rows:
    """Return the records of some images, (images,), without `is_in_top` and `score`.

    `digests` are SHA-256 as hex digits, unknown `labels` are -1, `outputs` the reference's raw
    ones, (images, values).
    """
    rows = np.zeros(len(digests), RECORD)
    wide = outputs.astype(np.float64)
    direction = _direction(wide.shape[1])
    for row, digest in enumerate(digests):
        rows["digest"][row] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        rows["signature"][row] = np.frombuffer(signatures[row], np.uint8)
    rows["label"] = labels
    rows["answer"] = wide.argmax(axis=1)
    rows["projection"] = wide @ direction
    rows["norm"] = np.linalg.norm(wide, axis=1) * np.linalg.norm(direction)
    if wide.shape[1] > 1:
        rows["looks"] = _looks_like(wide)
    rows["is_calibrated_on"] = is_calibrated_on
    return rows


def digest_of_images(records: Rows) -> str:
    """Return the SHA-256 that names all images, whatever their order.

    Each digest is spread over 2048 bits and added modulo 2^2048 (Bellare and Micciancio 1997, A new
    paradigm for collision-free hashing): the order does not matter, the number of copies does.
    """
    spread = (hashlib.shake_256(row.tobytes().hex().encode()) for row in records["digest"])
    total = sum(int.from_bytes(each.digest(_DIGEST_BYTES), "big") for each in spread)
    total %= 1 << 8 * _DIGEST_BYTES
    return hashlib.sha256(total.to_bytes(_DIGEST_BYTES, "big") + b"%d" % len(records)).hexdigest()


class CalibrationImages:
    """What is kept of the images that calibration saw: their digests, and signatures."""

    def __init__(self, digests: Iterable[str] = (), signatures: Iterable[bytes] = ()) -> None:
        self._digests = frozenset(digests)
        self._index = SignatureIndex(signatures)

    @classmethod
    def of(cls, table: CalibrationTable | None) -> CalibrationImages:
        """Return those of `table`; older tables hold no signatures."""
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


@dataclass(frozen=True)
class Clusters:
    """Images that show one picture, and the one of each that counts."""

    leaders: IntArray  # (pictures,): the row of the image that stands for each
    cluster_of: IntArray  # (images,): the picture of each
    labels: IntArray  # (pictures,): -1 where none is known, `CONFLICTING` where several are
    is_calibrated_on: BoolArray  # (pictures,): whether calibration saw it
    num_exact_copies: int


@functools.lru_cache(maxsize=1)
def find_clusters(packed: str) -> Clusters:
    """Return which images show one picture; the order of the images does not matter.

    Images of equal pixels are one picture. Images of unlike pixels are one where their signatures
    say so and they have the same label: pictures in a series that differ by a detail have different
    labels for it. The image of the smallest digest stands for a picture, so no outcome does.
    """
    records = unpack(packed, RECORD)
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


def weigh(records: str, outcomes: str, *, has_classes: bool = True) -> Evidence:
    """Return the counts over the images that decide, from packed records and outcomes.

    Where the task has no classes (`has_classes`), no prediction is right or wrong by its label.
    """
    clusters, rows = find_clusters(records), unpack(records, RECORD)
    counts = ~clusters.is_calibrated_on
    leaders = clusters.leaders[counts]
    reference, candidate = rows[leaders], unpack(outcomes, OUTCOME)[leaders]
    known = clusters.labels[counts] >= 0
    right, candidate_right = (
        (known & has_classes) & (each["answer"] == reference["label"])
        for each in (reference, candidate)
    )
    num_images, num_distinct = len(clusters.cluster_of), len(clusters.leaders)
    return Evidence(
        num_distinct=num_distinct,
        num_exact_copies=clusters.num_exact_copies,
        num_near_copies=num_images - num_distinct - clusters.num_exact_copies,
        num_conflicting=count_true(clusters.labels == CONFLICTING),
        num_calibrated_on=count_true(clusters.is_calibrated_on),
        num_images=count_true(counts),
        num_labelled=count_true(known),
        num_agreeing=count_true(candidate["agrees"]),
        num_reference_right=count_true(right),
        num_lost=count_true(right & ~candidate_right),
        num_gained=count_true(candidate_right & ~right),
    )


def count_true(flags: NDArray[Any]) -> int:
    """Return how many of `flags` are set."""
    return int(np.count_nonzero(flags))


@functools.lru_cache(maxsize=4)
def _direction(size: int) -> Float64Array:
    """A fixed direction in the space of outputs: what is constant along it is constant."""
    return np.random.default_rng(0).standard_normal(size)


def _common_label(labels: NDArray[Any]) -> int:
    """The label that all images of the same pixels have, where they have one."""
    known = set(labels[labels >= 0].tolist())
    return CONFLICTING if len(known) > 1 else known.pop() if known else -1


def _looks_like(outputs: Float64Array) -> NDArray[np.uint8]:
    """Whether each row, (rows,), is a distribution over classes, or the logarithm of one."""
    is_share = (outputs >= 0).all(axis=1) & (outputs <= 1 + _SUM_TOLERANCE).all(axis=1)
    sums = np.where(is_share, outputs.sum(axis=1), 0)
    is_log = (outputs <= _SUM_TOLERANCE).all(axis=1)
    log_sums = np.where(is_log, np.exp(np.minimum(outputs, 0)).sum(axis=1), 0)
    flags: NDArray[np.uint8] = (
        1 * (np.abs(sums - 1) <= _SUM_TOLERANCE) + 2 * (np.abs(log_sums - 1) <= _SUM_TOLERANCE)
    ).astype(np.uint8)
    return flags
