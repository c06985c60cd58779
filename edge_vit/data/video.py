"""A video file as a source of images: good frames alone, spread over the clip."""

from __future__ import annotations

import bisect
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_vit.data.source import ImageItem, Wanted, spread
from edge_vit.data.video_reader import (
    FrameCounts,
    FrameDecoder,
    colour_of,
    explain_unreadable,
    is_end,
    to_rgb,
    video_stream,
)
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.optional import require
from edge_vit.printable import one_line

_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 2.0


@dataclass(frozen=True)
class _Index:
    """What the packets of a file say without being decoded.

    `groups` holds the presentation times of each key frame and of the frames to show that follow
    it. Frames of raw streams and of some AVI files have none (`is_timed`); they are known by their
    order alone.
    """

    groups: list[list[int]]
    is_timed: bool


class VideoSource:
    """Frames of a video file as images without labels, in the order in which they are shown.

    The frames are decoded once when the source is made, to know which are good, and once more each
    time that they are gone through. Of files with presentation times only the stretches between key
    frames that hold a wanted frame are decoded. With a `limit`, for a frame that is bad the nearest
    good one that was decoded with it is taken. `counts` are of the frames that were decoded, and of
    those that the file lacks.

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
        self._index = self._read_index()
        self._wanted, self.counts = self._choose(limit)
        if self.counts.left_out:
            # Threads that work on several frames at once may differ in what they give up.
            self._threads = "NONE"
            self._wanted, self.counts = self._choose(limit)
        if not self._wanted:
            raise ImageError(f"video {path} holds no frame that can be decoded: {self.counts}")
        self.notes: tuple[str, ...] = ()
        if self.counts.left_out or self.counts.is_cut_off:
            self.notes = (one_line(f"video {path}: {self.counts}"),)

    def __len__(self) -> int:
        return len(self._wanted)

    def __iter__(self) -> Iterator[ImageItem]:
        name = one_line(str(self._path))
        missing = dict(self._wanted)
        for key, frame in self._frames(self._wanted):
            place = missing.pop(key, None)
            if place is not None:
                pixels = to_rgb(frame, colour_of(frame))
                yield ImageItem(f"{name}#{place}", pixels, None)
        if missing:
            raise ImageError(
                f"video {self._path} has changed while it was read: {len(missing)} of "
                f"{len(self._wanted)} frames are gone, the first is frame {min(missing.values())}"
            )

    def _choose(self, limit: int | None) -> tuple[dict[int, int], FrameCounts]:
        """The frames to give, key -> place among all that are shown, and what was found."""
        if not self._index.is_timed:
            good = [key for key, _ in self._logged(self._frames(()))]
            chosen = spread(len(good), limit)
            return {key: key for key in good if chosen[key]}, self._decoder.counts
        shown = sorted(pts for group in self._index.groups for pts in group)
        place_of = {pts: place for place, pts in enumerate(shown)}
        chosen = spread(len(shown), limit)
        wanted = [pts for place, pts in enumerate(shown) if chosen[place]]
        good_pts = {key for key, _ in self._logged(self._frames(wanted))} & place_of.keys()
        taken = {place_of[pts] for pts in good_pts.intersection(wanted)}
        spare = sorted({place_of[pts] for pts in good_pts} - taken)
        for here in (place_of[pts] for pts in wanted if pts not in good_pts):
            if spare:
                taken.add(_take_nearest(spare, here))
        return {shown[place]: place for place in sorted(taken)}, self._count(wanted, good_pts)

    def _count(self, wanted: Iterable[int], good: set[int]) -> FrameCounts:
        """Counts of the groups that hold `wanted` frames: these were decoded from their start."""
        wanted = set(wanted)
        looked_at = [pts for group in self._index.groups if wanted & set(group) for pts in group]
        bad = [pts for pts in looked_at if pts not in good]
        corrupt = len(self._corrupt.intersection(bad))
        found = self._decoder.counts
        return replace(
            found,
            good=len(looked_at) - len(bad),
            corrupt=corrupt,
            undecodable=len(bad) - corrupt,
            traced=found.traced if bad else 0,
        )

    def _read_index(self) -> _Index:
        groups: list[list[int]] = []
        has_times, num_packets = True, 0
        with self._open() as decoder:
            for packet in decoder.packets():
                if packet is None or is_end(packet):
                    continue
                num_packets += 1
                if packet.is_keyframe or not groups:
                    groups.append([])
                if packet.pts is None:
                    has_times = False
                elif packet.size and not packet.is_discard:
                    groups[-1].append(packet.pts)
            # AVI counts packets; of frames that are shown in another order it knows nothing.
            is_ordered = "avi" not in decoder.format_names or len(groups) == num_packets
        times = [pts for group in groups for pts in group]
        return _Index(groups, has_times and is_ordered and len(set(times)) == len(times) > 0)

    def _frames(self, wanted: Iterable[int]) -> Iterator[tuple[int, Any]]:
        """Yield good frames by their keys, those around `wanted` ones alone where times are known.

        The key is the presentation time, or else the place among the good frames.
        """
        with self._open() as self._decoder:
            decode = self._decode_around(set(wanted)) if self._index.is_timed else self._decode()
            for place, frame in enumerate(decode):
                yield (frame.pts if self._index.is_timed else place), frame
            self._decoder.count_missing()

    def _logged(self, frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """`frames`, with a line of progress every few seconds."""
        next_log_s = time.monotonic() + _LOG_EVERY_S
        for count, frame in enumerate(frames, 1):
            yield frame
            if time.monotonic() > next_log_s:
                next_log_s += _LOG_EVERY_S
                _LOG.info("looking for good frames in %s: %s decoded", self._path, f"{count:,}")

    def _decode(self) -> Iterator[Any]:
        for packet in self._decoder.packets():
            yield from self._decoder.decode(packet)

    def _decode_around(self, wanted: set[int]) -> Iterator[Any]:
        """Frames of the groups that hold wanted ones, and of some others."""
        is_needed = [not wanted.isdisjoint(group) for group in self._index.groups]
        place, is_decoding = -1, False
        for packet in self._decoder.packets():
            if packet is None or is_end(packet):
                if is_decoding:
                    yield from self._decoder.decode(packet)
                continue
            if packet.is_keyframe or place < 0:
                place += 1
            # The first frames of a group may build on the group before.
            is_due = any(is_needed[max(0, place) : place + 2])
            if is_decoding and not is_due:
                yield from self._decoder.flush()
            is_decoding = is_due
            if is_due:
                yield from self._decoder.decode(packet)
            else:
                self._decoder.num_packets += 1

    @contextlib.contextmanager
    def _open(self) -> Iterator[FrameDecoder]:
        refuse_lfs_pointer(self._path, ImageError)
        try:
            with self._av.open(str(self._path)) as container:
                stream = video_stream(container)
                if stream is None:
                    raise ImageError(f"video {self._path} holds sound alone, expected pictures")
                stream.thread_type = self._threads
                self._corrupt: set[int] = set()
                yield FrameDecoder(self._av, container, stream, self._corrupt.add)
        except self._av.error.FFmpegError as error:
            why = explain_unreadable(self._path, error.strerror)
            raise ImageError(f"video {self._path} cannot be read: {why}") from None


def open_video(address: str, wanted: Wanted) -> VideoSource:
    """Return the frames of a video file."""
    return VideoSource(address, wanted.limit)


def _take_nearest(places: list[int], place: int) -> int:
    """Take from `places`, in order and not empty, that which is nearest to `place`."""
    after = bisect.bisect(places, place)
    is_later = after == 0 or (
        after < len(places) and places[after] - place < place - places[after - 1]
    )
    return places.pop(after if is_later else after - 1)
