"""A video file as a source of images: good frames alone, spread over the clip."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.data.preprocess import UInt8Array
from edge_vit.data.source import ImageItem, ImageSource, Wanted, spread
from edge_vit.data.video_reader import (
    FrameDecoder,
    colour_of,
    explain_unreadable,
    to_rgb,
    video_stream,
)
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.optional import require
from edge_vit.printable import one_line
from edge_vit.spec import ClipSpec

_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 2.0


class VideoSource:
    """Good frames of a video file as images without labels, in the order in which they are shown.

    The frames are decoded once when the source is made, to know which are good, and once more each
    time that they are gone through. With a `limit` they are spread evenly over the clip.

    Raises:
        ImageError: the file is missing, holds no video, or no frame of it can be decoded.
        SpecError: `limit` is below 1.
        MissingDependencyError: PyAV is not installed.
    """

    labels: tuple[str, ...] = ()
    has_labels = False

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise ImageError(f"video {path} does not exist or is no file. Check the path")
        self._av = require("av", f"reading the video {path}")
        self._threads = "AUTO"
        num_good = self._count_good()
        if self.counts.left_out:
            # Threads that work on several frames at once may differ in what they give up.
            self._threads = "NONE"
            num_good = self._count_good()
        if not num_good:
            raise ImageError(f"video {path} holds no frame that can be decoded: {self.counts}")
        self._chosen = spread(num_good, limit)
        self.notes: tuple[str, ...] = ()
        if self.counts.left_out or self.counts.is_cut_off:
            self.notes = (one_line(f"video {path}: {self.counts}"),)

    def __len__(self) -> int:
        return sum(self._chosen)

    def __iter__(self) -> Iterator[ImageItem]:
        name, num_left = one_line(str(self._path)), len(self)
        for place, (is_chosen, frame) in enumerate(zip(self._chosen, self._frames(), strict=False)):
            if is_chosen:
                num_left -= 1
                yield ImageItem(f"{name}#{place}", to_rgb(frame, colour_of(frame)), None)
            if not num_left:
                return
        raise ImageError(
            f"video {self._path} has changed while it was read: {num_left} of {len(self)} frames "
            "are gone"
        )

    def read_clip(self, clip: ClipSpec) -> UInt8Array:
        """Return the frames that `clip` reads, uint8 (frames, H, W, 3) RGB."""
        indices = clip.indices(len(self._chosen))
        wanted, found = set(indices), dict[int, UInt8Array]()
        for place, frame in enumerate(self._frames()):
            if place in wanted:
                found[place] = to_rgb(frame, colour_of(frame))
                if len(found) == len(wanted):
                    break
        sizes = {frame.shape for frame in found.values()}
        if len(found) < len(wanted) or len(sizes) != 1:
            raise ImageError(
                f"video {self._path} cannot be read as a clip: its frames are of different sizes, "
                "or some are gone since they were counted"
            )
        return np.stack([found[index] for index in indices])

    def _count_good(self) -> int:
        next_log_s, count = time.monotonic() + _LOG_EVERY_S, 0
        for count, _ in enumerate(self._frames(), 1):
            if time.monotonic() > next_log_s:
                next_log_s += _LOG_EVERY_S
                _LOG.info("looking for good frames in %s: %s decoded", self._path, f"{count:,}")
        return count

    def _frames(self) -> Iterator[Any]:
        """Good frames in the order in which they are shown; at the end `counts` are known."""
        with self._open() as decoder:
            for packet in decoder.packets():
                yield from decoder.decode(packet)
            decoder.count_missing()
            self.counts = decoder.counts

    @contextlib.contextmanager
    def _open(self) -> Iterator[FrameDecoder]:
        refuse_lfs_pointer(self._path, ImageError)
        try:
            with self._av.open(str(self._path)) as container:
                stream = video_stream(container)
                if stream is None:
                    raise ImageError(f"video {self._path} holds sound alone, expected pictures")
                stream.thread_type = self._threads
                yield FrameDecoder(self._av, container, stream)
        except self._av.error.FFmpegError as error:
            why = explain_unreadable(self._path, error.strerror)
            raise ImageError(f"video {self._path} cannot be read: {why}") from None


def open_video(address: str, wanted: Wanted) -> ImageSource:
    """Return the frames of a video file; for a model of clips, the one clip in it."""
    if wanted.clip is not None:
        from edge_vit.data.images import FileSource  # which reads clips by this module

        return FileSource([address], clip=wanted.clip)
    return VideoSource(address, wanted.limit)
