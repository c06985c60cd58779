"""Attention maps of an image by precision, and how alike they are."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vit.spec import Precision
from edge_vit.tasks.prediction import ClassScore

MapRows = tuple[tuple[float, ...], ...]
"""A map over patches, (rows, columns); not negative, adding up to 1."""


@dataclass(frozen=True)
class AttentionMap:
    """The attention map of one precision in one image, and its prediction."""

    precision: Precision
    rollout: MapRows
    answers: tuple[ClassScore, ...]  # classes or labels, best first; none for other tasks


@dataclass(frozen=True)
class Explanation:
    """One image seen by the reference and by a candidate."""

    image: str
    picture_png: str  # the image as the model sees it, PNG in base64
    reading: str  # which tokens the prediction is read from: class token
    reference: AttentionMap
    candidate: AttentionMap
    # Pearson's, of the two maps; 1 where both attend to the same places in the same measure
    correlation: float
    overlap: float  # share of the brightest tenth of the patches that both have in common
