"""Steps after the model: answers smoothed over frames, and a floor of confidence.

Both leave the model's own answers as they are: `CameraAnswer.prediction` and `.output` stay raw.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_vit.answers import Answer, softmax
from edge_vit.camera.values import CameraAnswer
from edge_vit.errors import SpecError
from edge_vit.runtime.predictor import Prediction

SmoothingKind = Literal["ema", "majority"]

LONGEST_GAP_S = 2.0
"""After so long without an answer of a source, smoothing begins anew: the scene is another one."""


@dataclass
class _History:
    """What smoothing remembers of one source."""

    last_ns: int
    mean: NDArray[np.float64] | None = None
    first: deque[int] = field(default_factory=deque)


class Smoothing:
    """Answers over the last frames of the same source.

    ``ema`` is the exponential moving average of the softmax scores p, ``s += 2 / (k + 1) (p - s)``:
    as heavy as a plain mean of k frames. ``majority`` counts the first answers of the last k
    frames; a score is the share of the frames, of equal ones the newest comes first.

    Args:
        kind: how.
        num_frames: k, at least 1.
        labels: class names by index; where there are none, a class is called by its index.
        top: answers to give.
    """

    def __init__(
        self, kind: SmoothingKind, num_frames: int, labels: Sequence[str] = (), top: int = 5
    ) -> None:
        if num_frames < 1 or top < 1:
            raise SpecError(f"smoothing: got {num_frames} frames and {top} answers, expected 1 up")
        self._kind, self._num_frames = kind, num_frames
        self._labels, self._top = tuple(labels), top
        self._histories: dict[str, _History] = {}

    def __call__(self, answer: CameraAnswer) -> CameraAnswer:
        """Return `answer` with its `smoothed` set; features are left as they are."""
        if not answer.prediction.answers:
            return answer
        history = self._history(answer)
        scores = softmax(answer.output)
        if self._kind == "ema":
            weight = 2 / (self._num_frames + 1)
            before = scores if history.mean is None else history.mean
            history.mean = before + weight * (scores - before)
            best = np.argsort(-history.mean, kind="stable")[: self._top].tolist()
            shares = {index: float(history.mean[index]) for index in best}
        else:
            history.first.append(int(np.argmax(answer.output)))
            shares = self._shares(history.first)
        answers = tuple(Answer(i, self._label(i), score) for i, score in shares.items())
        image = answer.prediction.image
        return dataclasses.replace(answer, smoothed=Prediction(image, answers[: self._top]))

    def _history(self, answer: CameraAnswer) -> _History:
        """What is remembered of the source, or a new page after a gap."""
        source, now_ns = answer.frame.source, answer.frame.stamps.captured_ns
        history = self._histories.get(source)
        if history is None or not 0 <= now_ns - history.last_ns <= LONGEST_GAP_S * 1e9:
            history = _History(now_ns, first=deque(maxlen=self._num_frames))
            self._histories[source] = history
        history.last_ns = now_ns
        return history

    def _shares(self, first: deque[int]) -> dict[int, float]:
        newest = {index: place for place, index in enumerate(first)}
        counts = sorted(Counter(first).items(), key=lambda item: (-item[1], -newest[item[0]]))
        return {index: count / len(first) for index, count in counts}

    def _label(self, index: int) -> str:
        return self._labels[index] if self._labels else str(index)


class ConfidenceFloor:
    """Marks answers whose best score is below a floor as not confident; nothing is left out.

    Args:
        floor: 0 to 1; held against the smoothed score where there is one.
    """

    def __init__(self, floor: float) -> None:
        if not 0 <= floor <= 1:
            raise SpecError(f"confidence floor: got {floor:g}, expected 0 to 1")
        self._floor = floor

    def __call__(self, answer: CameraAnswer) -> CameraAnswer:
        """Return `answer` with its `is_confident` set; features are always confident."""
        answers = (answer.smoothed or answer.prediction).answers
        is_confident = not answers or answers[0].score >= self._floor
        return dataclasses.replace(answer, is_confident=is_confident)
