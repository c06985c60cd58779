"""What explaining an image yields: maps of where each precision looks, and how alike they are."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vit.spec import Precision
from edge_vit.tasks.prediction import Answer

MapRows = tuple[tuple[float, ...], ...]
"""A map over patches, (rows, columns); not negative, adding up to 1."""


@dataclass(frozen=True)
class Look:
    """Where one precision looks in one image, and what it answers.

    Attributes:
        rollout: the map.
        answers: classes or labels, best first; none for other tasks.
    """

    precision: Precision
    rollout: MapRows
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Explanation:
    """One image seen by the reference and by a candidate.

    Attributes:
        image: its name.
        picture_png: the image as the model sees it, PNG in base64.
        reading: which tokens the answer is read from: ``class token``.
        reference: the look of fp32.
        candidate: the look of the other precision.
        correlation: Pearson's, of the two maps; 1 where both look at the same places in the same
            measure.
        overlap: share of the brightest tenth of the patches that both have in common.
    """

    image: str
    picture_png: str
    reading: str
    reference: Look
    candidate: Look
    correlation: float
    overlap: float
