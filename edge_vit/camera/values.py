"""What the camera loop hands on: frames, answers, and how it stands, as frozen values.

All instants are nanoseconds of the clock that never jumps (``time.monotonic_ns``), the one that
Linux drivers stamp frames with. Wall time is for people and stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_vit.data.preprocess import UInt8Array
from edge_vit.runtime.predictor import Prediction

CaptureClock = Literal["driver", "arrival"]
"""Who said when a frame was captured: the driver that took it, or we, when it arrived."""

STAGES = ("receive", "wait", "preprocess", "queue", "infer", "finish")
"""The parts of a frame's latency, in order; they add up to it."""


@dataclass(frozen=True)
class Stamps:
    """When a frame came to each stage, in nanoseconds; 0 for a stage that it has not come to.

    Attributes:
        captured_ns: when the picture was taken, as `clock` says it.
        received_ns: when the source handed it over, decoded.
        preprocess_start_ns: when preprocessing took it out of the slot.
        preprocess_end_ns: when the model's input was ready.
        infer_start_ns: when the model began.
        infer_end_ns: when the model's output was there.
        predicted_ns: when the prediction was complete, before any sink saw it.
        captured_unix_ns: `captured_ns` as wall time, nanoseconds since 1970.
        clock: whose stamp `captured_ns` is.
    """

    captured_ns: int
    received_ns: int
    preprocess_start_ns: int = 0
    preprocess_end_ns: int = 0
    infer_start_ns: int = 0
    infer_end_ns: int = 0
    predicted_ns: int = 0
    captured_unix_ns: int = 0
    clock: CaptureClock = "arrival"

    @property
    def latency_ms(self) -> float:
        """From capture to answer, milliseconds."""
        return (self.predicted_ns - self.captured_ns) / 1e6

    @property
    def age_ms(self) -> float:
        """How old the picture was when the model began with it, milliseconds."""
        return (self.infer_start_ns - self.captured_ns) / 1e6

    def stage_ms(self) -> dict[str, float]:
        """Return how long each of `STAGES` took, milliseconds."""
        instants = (
            self.captured_ns,
            self.received_ns,
            self.preprocess_start_ns,
            self.preprocess_end_ns,
            self.infer_start_ns,
            self.infer_end_ns,
            self.predicted_ns,
        )
        return {
            stage: (instants[place + 1] - instants[place]) / 1e6
            for place, stage in enumerate(STAGES)
        }


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture that a source really gave.

    Attributes:
        number: counts the frames of its source from 0, those without a prediction included, and
            goes on after the source was opened anew.
        source: the source's name: its address without a password.
        pixels: uint8 (height, width, 3) RGB; to be copied before it is drawn on.
        stamps: when it came to each stage.
        is_live: whether the source goes on without us, so that the newest frame counts.
    """

    number: int
    source: str
    pixels: UInt8Array
    stamps: Stamps
    is_live: bool = True


@dataclass(frozen=True, eq=False)
class CameraPrediction:
    """What the model says of one frame.

    Attributes:
        frame: with all its stamps set.
        raw: what the model says, best first.
        outputs: by name, as the model gave them, one row each.
        smoothed: predictions over several frames, where a step of post-processing made them.
        is_confident: whether the prediction reaches the confidence floor; True where there is none.
        num_dropped: frames of this source that were dropped since its last prediction.
    """

    frame: Frame
    raw: Prediction
    outputs: Mapping[str, NDArray[np.float32]]
    smoothed: Prediction | None = None
    is_confident: bool = True
    num_dropped: int = 0

    @property
    def shown(self) -> Prediction:
        """The smoothed prediction where there is one, else the raw one."""
        return self.smoothed or self.raw


@dataclass(frozen=True)
class Counts:
    """What became of a source's frames: ``captured`` is the sum of the others, in-flight ones too.

    Attributes:
        captured: frames that the source gave, those that could not be decoded included.
        answered: frames with a prediction.
        dropped: frames that a newer one replaced, or that the end of the loop found waiting.
        failed: frames that could not be decoded, preprocessed or run.
        in_flight: frames on their way; 0 once the loop has ended.
    """

    captured: int = 0
    answered: int = 0
    dropped: int = 0
    failed: int = 0
    in_flight: int = 0


SourceState = Literal["opening", "running", "stale", "waiting", "ended"]
"""Of a source: being opened, giving frames, silent for too long, before its next try, at its end.
"""


@dataclass(frozen=True)
class SourceFormat:
    """What a source gives.

    Attributes:
        width: pixels.
        height: pixels.
        rate: frames a second as the source says it; 0 where it does not.
        colour: how its pixels became RGB: pixel format, matrix, range, and who said so.
        clock: whose capture stamps its frames carry.
    """

    width: int
    height: int
    rate: float
    colour: str
    clock: CaptureClock = "arrival"


@dataclass(frozen=True)
class SourceStatus:
    """How one source stands.

    Attributes:
        name: as in `Frame.source`.
        state: what it does.
        is_live: whether the newest frame wins, and others are dropped.
        format: of the last time it was open; None before the first.
        counts: of its frames.
        num_reopened: times that it was opened anew after it had been lost.
        last_error: why it was lost or could not be opened; empty where it never was.
        undecoded: how many frames could not be decoded, by reason.
    """

    name: str
    state: SourceState
    is_live: bool
    format: SourceFormat | None
    counts: Counts
    num_reopened: int = 0
    last_error: str = ""
    undecoded: Mapping[str, int] = field(default_factory=dict)

    @property
    def left_out(self) -> str:
        """The frames that could not be decoded, for people."""
        return ", ".join(
            f"{'once' if count == 1 else f'{count} times'}: {reason}"
            for reason, count in self.undecoded.items()
        )


@dataclass(frozen=True)
class SinkStatus:
    """The answers that a sink took, lost to a full queue or the end, and raised on."""

    name: str
    written: int = 0
    dropped: int = 0
    failed: int = 0
    last_error: str = ""


def describe(value: Any) -> str:
    """Return what went wrong in one line: the message of an error, or else its type."""
    return " ".join(str(value).split()) or type(value).__name__
