"""From class scores to answers: the softmax and the best classes, one definition for every room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.errors import SpecError


@dataclass(frozen=True)
class Answer:
    """One class or label: index, name and probability, 0 to 1."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Score:
    """One numeric score of a regression model: index, label and value."""

    index: int
    label: str
    value: float


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax of `logits` (..., classes) over the last axis, computed in float64.

    The largest logit is subtracted first, so that no finite logits overflow.
    """
    wide = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def top_answers(
    logits: NDArray[Any], labels: Sequence[str] = (), top: int = 5
) -> tuple[Answer, ...]:
    """Return the `top` best classes of `logits` (classes,), best first, equal ones by index.

    Args:
        logits: finite scores of one image.
        labels: class names by index; where there are none, a class is called by its index.
        top: how many to return, at least 1; all of them where there are fewer classes.

    Raises:
        SpecError: `top` is below 1.
    """
    if top < 1:
        raise SpecError(f"top: got {top}, expected at least 1 answer")
    wide = np.asarray(logits, dtype=np.float64)
    scores = softmax(wide)
    return tuple(
        Answer(index, labels[index] if labels else str(index), float(scores[index]))
        for index in np.argsort(-wide, kind="stable")[:top].tolist()
    )
