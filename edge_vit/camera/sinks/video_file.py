"""Frames with their predictions as a video file; one that is cut off still plays."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_vit.camera.sink import Sink, Summarize
from edge_vit.camera.sinks.drawing import draw_prediction
from edge_vit.camera.threads import describe
from edge_vit.camera.values import CameraPrediction
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors
from edge_vit.optional import require

SUFFIXES = (".mp4", ".mkv")
_CODECS = (
    ("libx264", {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}),
    ("mpeg4", {"qscale": "4"}),
)
_MILLISECONDS = Fraction(1, 1000)
_KEY_FRAME_EVERY = 30
_RETRY_S = 30.0  # to the next file after a failure: a full disk is not to be filled with names
_AT_ONCE = {"flush_packets": "1"}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}  # no index at the end


class VideoFileSink(Sink):
    """One .mp4 or .mkv per source, each frame at the time that it was captured.

    An existing file is never written over: the next is called ``NAME-1.mp4``, ``NAME-2.mp4`` …
    """

    queue_size = 30
    needs_pixels = True

    def __init__(self, path: Path) -> None:
        self.name = f"video:{path}"
        self._path = path
        self._videos: dict[str, _Video] = {}
        self._reason, self._next_try_s = "", float("-inf")

    def open(self, summarize: Summarize) -> None:
        """Load PyAV and make the folder."""
        self._av = require("av", "writing video")
        with refuse_os_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, prediction: CameraPrediction) -> None:
        """Add the frame of `prediction`."""
        source = prediction.frame.source
        if source not in self._videos and time.monotonic() < self._next_try_s:
            raise ArtifactError(self._reason)
        try:
            if source not in self._videos:
                self._videos[source] = _Video(self._av, claim_path(self._path), prediction)
            self._videos[source].add(prediction)
        except (OSError, ValueError) as error:  # PyAV's errors are one or the other
            video = self._videos.pop(source, None)
            if video is not None:
                video.abandon()
            self._reason = self._explain(error)
            self._next_try_s = time.monotonic() + _RETRY_S
            raise ArtifactError(self._reason) from None

    def close(self) -> None:
        """Write what the encoder still holds, and end every video."""
        failures = []
        for video in self._videos.values():
            try:
                video.close()
            except (OSError, ValueError) as error:
                video.abandon()
                failures.append(self._explain(error))
        self._videos.clear()
        if failures:
            raise ArtifactError(f"{failures[0]}, so its end is missing")

    def _explain(self, error: OSError | ValueError) -> str:
        return f"cannot write {self._path}: {getattr(error, 'strerror', None) or describe(error)}"


class _Video:
    def __init__(self, av: ModuleType, path: Path, prediction: CameraPrediction) -> None:
        height, width = prediction.frame.pixels.shape[:2]
        self._av, self._path = av, path
        self._width, self._height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        self._first_ns, self._last_pts = prediction.frame.stamps.captured_ns, -1
        options = {**_AT_ONCE, **(_FRAGMENTS if path.suffix.lower() == ".mp4" else {})}
        self._container: Any = av.open(str(path), "w", options=options)
        name, settings = next(pair for pair in _CODECS if pair[0] in av.codecs_available)
        self._stream = self._container.add_stream(name, rate=30, options=settings)
        self._stream.width, self._stream.height = self._width, self._height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _MILLISECONDS
        self._stream.codec_context.gop_size = _KEY_FRAME_EVERY

    def add(self, prediction: CameraPrediction) -> None:
        """Encode one frame; one of another size is scaled to that of the first."""
        pixels = np.asarray(draw_prediction(prediction))
        elapsed_ms = (prediction.frame.stamps.captured_ns - self._first_ns) // 10**6
        self._last_pts = max(self._last_pts + 1, int(elapsed_ms))
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(self._width, self._height, "yuv420p")
        frame.pts, frame.time_base = self._last_pts, _MILLISECONDS
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush the encoder and end the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """End the file as it is; one that holds nothing goes."""
        with contextlib.suppress(OSError, ValueError):
            self._container.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_size == 0:
                self._path.unlink()


def claim_path(path: Path) -> Path:
    """Make an empty file at `path`, or at the first of ``NAME-1`` … that is free; return which."""
    number, claimed = 0, path
    while True:
        try:
            claimed.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            claimed = path.with_name(f"{path.stem}-{number}{path.suffix}")
        else:
            return claimed
