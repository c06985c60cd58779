"""The ring of frames that a model of clips reads: the newest ones of one source, bounded."""

from __future__ import annotations

from collections import deque

import numpy as np

from edge_vit.camera.values import Frame
from edge_vit.data.preprocess import UInt8Array
from edge_vit.spec import ClipSpec

_LEAST_GAP_NS = 2 * 10**9
_LONG_GAP = 10  # times the time between two frames; a source that was lost begins a new clip


class ClipRing:
    """The frames of one source that the next clip is made of, as the model's input.

    Each `clip.stride`-th frame of the source is kept, `clip.frames` at most. A prediction is due
    with the first whole clip, then `every` frames later, or with the next frame that is kept.
    """

    def __init__(self, clip: ClipSpec, every: int | None = None) -> None:
        self._clip, self._every = clip, every or clip.stride
        self._inputs: deque[UInt8Array] = deque(maxlen=clip.frames)
        self._last: Frame | None = None
        self._predicted: int | None = None  # number of the frame of the last clip
        self._apart_ns = 0  # between the last two frames that were kept

    def takes(self, number: int) -> bool:
        """Return whether frame `number` of the source goes into clips."""
        return number % self._clip.stride == 0

    def add(self, frame: Frame, model_input: UInt8Array) -> UInt8Array | None:
        """Return the clip that ends with `frame`, uint8 (frames, H, W, 3), if one is due.

        Where frames between were dropped, the one before them stands for them, so that the
        distances in time stay. After a long silence of a live source a new clip begins.
        """
        missing = self._note(frame)
        if self._inputs:
            self._inputs.extend([self._inputs[-1]] * min(missing, self._clip.frames))
        self._inputs.append(model_input)
        is_due = self._predicted is None or frame.number - self._predicted >= self._every
        if len(self._inputs) < self._clip.frames or not is_due:
            return None
        self._predicted = frame.number
        return np.stack(self._inputs)

    def _note(self, frame: Frame) -> int:
        """Note that `frame` came; return how many before it are missing."""
        last, self._last = self._last, frame
        if last is None:
            return 0
        apart_ns = frame.stamps.captured_ns - last.stamps.captured_ns
        steps = max(1, (frame.number - last.number) // self._clip.stride)
        is_lost = self._apart_ns and apart_ns > steps * _LONG_GAP * self._apart_ns
        self._apart_ns = apart_ns // steps
        if frame.is_live and is_lost and apart_ns > _LEAST_GAP_NS:
            self._inputs.clear()
            self._predicted, self._apart_ns = None, 0
            return 0
        return steps - 1
