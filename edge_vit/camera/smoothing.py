"""Post-processing: predictions smoothed over frames, and a floor of confidence.

`CameraPrediction.raw` and `.outputs` stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_vit.camera.values import CameraPrediction
from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of

SmoothingKind = Literal["ema", "majority"]

LONGEST_GAP_S = 2.0
"""After so long without a prediction of a source smoothing begins anew: the scene is another."""


@dataclass
class _History:
    """The past of one source: a mean, or the newest predictions."""

    last_ns: int
    mean: NDArray[np.float64] | None = None
    newest: deque[NDArray[np.float64]] = field(default_factory=deque)


class Smoothing:
    """Predictions over the last frames of the same source.

    ``ema`` is the exponential moving average of the probabilities or scores p,
    ``s += 2 / (k + 1) (p - s)``: as heavy as a plain mean of k frames. ``majority`` counts in how
    many of the last k frames a class came first, or a label was on; a probability is then that
    share, of equal ones the newest comes first, and a label is on in more than half of them.
    """

    def __init__(self, kind: SmoothingKind, num_frames: int, spec: ModelSpec, top: int = 5) -> None:
        if num_frames < 1 or top < 1:
            raise SpecError(f"smoothing: got {num_frames} frames and top {top}, expected 1 up")
        self._task = task_of(spec)
        if not self._task.smoothing:
            raise SpecError(
                f"--smooth {kind}:{num_frames}: {spec.name} gives {self._task.name}, which cannot "
                "be averaged over frames. Leave --smooth out"
            )
        if kind not in self._task.smoothing:
            raise SpecError(
                f"--smooth {kind} counts classes, and {spec.name} gives {spec.outputs[0].name}. "
                f"Take --smooth {self._task.smoothing[0]}:{num_frames}"
            )
        self._kind, self._num_frames = kind, num_frames
        self._spec, self._top = spec, top
        self._histories: dict[str, _History] = {}

    def __call__(self, prediction: CameraPrediction) -> CameraPrediction:
        """Return `prediction` with `smoothed` set."""
        history, image = self._history(prediction), prediction.raw.image
        order = None
        if self._kind == "ema":
            values = self._task.averageable(self._spec, prediction.outputs)[0]
            before = values if history.mean is None else history.mean
            shares = history.mean = before + 2 / (self._num_frames + 1) * (values - before)
        else:
            history.newest.append(self._task.votes(self._spec, prediction.outputs)[0])
            shares = np.mean(history.newest, axis=0)
            last = {
                int(index): number
                for number, votes in enumerate(history.newest)
                for index in np.flatnonzero(votes)
            }
            order = sorted(last, key=lambda index: (-shares[index], -last[index], index))
        smoothed = self._task.from_shares(self._spec, shares, order, image, self._top)
        return dataclasses.replace(prediction, smoothed=smoothed)

    def _history(self, prediction: CameraPrediction) -> _History:
        """Return the past of the source; empty after a gap."""
        source, now_ns = prediction.frame.source, prediction.frame.stamps.captured_ns
        history = self._histories.get(source)
        if history is None or not 0 <= now_ns - history.last_ns <= LONGEST_GAP_S * 1e9:
            history = _History(now_ns, newest=deque(maxlen=self._num_frames))
            self._histories[source] = history
        history.last_ns = now_ns
        return history


class ConfidenceFloor:
    """Marks predictions whose best probability is below a floor as not confident."""

    def __init__(self, floor: float, spec: ModelSpec) -> None:
        if not 0 <= floor <= 1:
            raise SpecError(f"confidence floor: got {floor:g}, expected 0 to 1")
        if not spec.gives_probabilities:
            raise SpecError(
                f"--min-confidence: {spec.name} gives {spec.outputs[0].name}, which have no "
                "probability. Leave --min-confidence out"
            )
        self._floor = floor

    def __call__(self, prediction: CameraPrediction) -> CameraPrediction:
        """Return `prediction` with `is_confident` set."""
        best = prediction.shown.confidence
        is_confident = best is None or best >= self._floor
        return dataclasses.replace(prediction, is_confident=is_confident)
