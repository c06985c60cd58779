"""Frames, predictions and statuses that the camera loop hands on, as frozen values.

Instants are nanoseconds of `time.monotonic_ns`, by which Linux drivers stamp frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_vit.data.preprocess import UInt8Array
from edge_vit.runtime.predictor import Prediction

CaptureClock = Literal["driver", "arrival"]
"""What stamped a frame's capture: the driver that took it, or its arrival here."""

STAGES = ("receive", "wait", "preprocess", "queue", "infer", "finish")
"""The parts of a frame's latency, in order; they add up to it."""


@dataclass(frozen=True)
class Stamps:
    """When a frame reached each stage, nanoseconds; 0 for a stage that it has not reached.

    The first seven are the ends of `STAGES` in order, up to the prediction, before any sink.
    """

    captured_ns: int  # by `clock`
    received_ns: int
    preprocess_start_ns: int = 0
    preprocess_end_ns: int = 0
    infer_start_ns: int = 0
    infer_end_ns: int = 0
    predicted_ns: int = 0
    captured_unix_ns: int = 0  # in wall time, since 1970
    clock: CaptureClock = "arrival"

    @property
    def latency_ms(self) -> float:
        """From capture to prediction, milliseconds."""
        return (self.predicted_ns - self.captured_ns) / 1e6

    @property
    def age_ms(self) -> float:
        """How old the picture was when the model began with it, milliseconds."""
        return (self.infer_start_ns - self.captured_ns) / 1e6

    def stage_ms(self) -> dict[str, float]:
        """Return how long each of `STAGES` took, milliseconds."""
        instants = astuple(self)[: len(STAGES) + 1]
        durations = [(end - start) / 1e6 for start, end in pairwise(instants)]
        return dict(zip(STAGES, durations, strict=True))


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    `number` counts the frames of its source from 0, those without a prediction included, and goes
    on after the source was opened anew.
    """

    number: int
    source: str  # its address without a password
    pixels: UInt8Array  # uint8 (height, width, 3) RGB; to be copied before it is drawn on
    stamps: Stamps
    is_live: bool = True  # whether the source goes on by itself, so that the newest frame counts


@dataclass(frozen=True, eq=False)
class CameraPrediction:
    """What the model predicts for one frame."""

    frame: Frame
    raw: Prediction  # of this frame alone, best first
    outputs: Mapping[str, NDArray[np.float32]]  # of the model by name, one row each
    smoothed: Prediction | None = None  # over several frames, where a step made it
    is_confident: bool = True  # whether it reaches the confidence floor; True without one
    num_dropped: int = 0  # frames of this source since its last prediction

    @property
    def shown(self) -> Prediction:
        """The smoothed prediction where there is one, else the raw one."""
        return self.smoothed or self.raw


@dataclass(frozen=True)
class Counts:
    """What became of a source's frames."""

    captured: int = 0  # the sum of the others
    answered: int = 0
    dropped: int = 0  # replaced by a newer frame, or still waiting when the loop ended
    failed: int = 0  # could not be decoded, preprocessed or run
    in_flight: int = 0
    gathered: int = 0  # part of clips that end with other frames, or between the frames of clips


SourceState = Literal["opening", "running", "stale", "waiting", "ended"]
"""Of a source: being opened, giving frames, silent for too long, before its next try, at its end.
"""


@dataclass(frozen=True)
class SourceFormat:
    """What a source gives: pixels, frames a second (0: unknown), and how they became RGB."""

    width: int
    height: int
    rate: float
    colour: str
    clock: CaptureClock = "arrival"


@dataclass(frozen=True)
class SourceStatus:
    """The state of one source."""

    name: str
    state: SourceState
    is_live: bool
    format: SourceFormat | None  # of the last time it was open; None before the first
    counts: Counts
    num_reopened: int = 0  # after it had been lost
    last_error: str = ""  # why it was lost or could not be opened
    undecoded: Mapping[str, int] = field(default_factory=dict)  # frames by reason

    @property
    def left_out(self) -> str:
        """The frames that could not be decoded, for people."""
        return ", ".join(
            f"{'once' if count == 1 else f'{count} times'}: {reason}"
            for reason, count in self.undecoded.items()
        )


@dataclass(frozen=True)
class SinkStatus:
    """The predictions that a sink took, lost to a full queue or the end, and raised on."""

    name: str
    written: int = 0
    dropped: int = 0
    failed: int = 0
    last_error: str = ""
