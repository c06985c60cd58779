"""Calibration images from a live source: spread over time, near-duplicates left out."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_vit.camera.capture import RetryPolicy, SourceCapture
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.threads import SYSTEM_CLOCK, Clock
from edge_vit.camera.values import Counts, Frame
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import SourceError, SpecError
from edge_vit.files import write_atomically
from edge_vit.progress import SILENT, Progress
from edge_vit.tasks.maps.pictures import to_png

_THUMBNAIL = (16, 16)
_MIN_DIFF = 3.0  # two frames whose thumbnails differ by less, in mean levels, are near-duplicates
_WAIT_FACTOR = 4  # times the time that the frames would take if none were alike,
_LEAST_WAIT_S = 60  # and this at least


def collect_frames(
    maker: SourceMaker,
    folder: Path,
    num_images: int,
    *,
    interval_s: float = 1.0,
    clock: Clock = SYSTEM_CLOCK,
    retry: RetryPolicy | None = None,
    progress: Progress = SILENT,
) -> list[Path]:
    """Write `num_images` frames of a live source to `folder` as PNG, and return their paths.

    Frames are at least `interval_s` apart. Ends early when the scene gives no new frame for long.
    """
    if not maker.is_live:
        raise SpecError(f"{maker.name} is no camera: its frames are taken with --calib instead")
    if num_images < 1 or not interval_s > 0:
        raise SpecError(f"got {num_images} images every {interval_s} s, expected both above 0")
    newest = _Newest(clock)
    capture = SourceCapture(maker, newest.put, newest.end, clock=clock, retry=retry)
    paths: list[Path] = []
    seen: list[NDArray[np.float32]] = []
    start_ns = due_ns = clock.now_ns()
    interval_ns = round(interval_s * 1e9)
    end_ns = start_ns + max(_WAIT_FACTOR * num_images * interval_ns, _LEAST_WAIT_S * 10**9)
    capture.start()
    try:
        with progress.step(f"taking frames of {maker.name}", num_images) as advance:
            while len(paths) < num_images:
                frame = newest.take(due_ns, capture, end_ns)
                if frame is None:
                    break
                thumbnail = _thumbnail(frame.pixels)
                if any(np.abs(thumbnail - other).mean() < _MIN_DIFF for other in seen):
                    continue
                seen.append(thumbnail)
                due_ns = frame.stamps.received_ns + interval_ns
                paths.append(folder / f"{frame.number:08d}.png")
                picture = Image.fromarray(frame.pixels)
                write_atomically(paths[-1], to_png(picture, compress_level=1))
                advance(1)
    finally:
        capture.stop()
    if capture.error is not None:
        raise capture.error
    if not paths:
        why = capture.status(Counts()).last_error or "it is silent"
        raise SourceError(f"source {maker.name} gave no frame: {why}")
    if len(paths) < num_images:
        progress.note(
            f"{len(paths)} of {num_images} frames: the scene showed nothing else for long. "
            "Move the camera, or take frames by day and by night"
        )
    return paths


class _Newest:
    """The newest frame, or a wait for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._is_ended = False

    def put(self, frame: Frame) -> None:
        """Replace the frame before."""
        with self._changed:
            self._frame = frame
            self._changed.notify_all()

    def end(self) -> None:
        """End the wait for frames."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def take(self, due_ns: int, capture: SourceCapture, end_ns: int) -> Frame | None:
        """Return the first frame from `due_ns` on; None after `end_ns`, or when none will come."""
        while True:
            soon_ns = capture.check()
            with self._changed:
                frame, self._frame = self._frame, None
                if frame is not None and frame.stamps.received_ns >= due_ns:
                    return frame
                if self._is_ended or self._clock.now_ns() >= end_ns:
                    return None
                self._clock.wait(self._changed, min(end_ns, soon_ns or end_ns))


def _thumbnail(pixels: UInt8Array) -> NDArray[np.float32]:
    small = Image.fromarray(pixels).resize(_THUMBNAIL, Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)
