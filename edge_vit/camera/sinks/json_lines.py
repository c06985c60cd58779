"""One line of JSON per prediction: on stdout, or in a file that is rotated as it grows."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from edge_vit.camera.sink import Sink, Summarize
from edge_vit.camera.values import CameraPrediction
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors
from edge_vit.printable import escape_json

MAX_BYTES = 64 << 20
NUM_KEPT = 5
_MS_DIGITS = 3


def prediction_record(prediction: CameraPrediction) -> dict[str, Any]:
    """Return all but the pixels for JSON: raw scores always, smoothed ones where there are any."""
    frame, stamps = prediction.frame, prediction.frame.stamps
    height, width = frame.pixels.shape[:2]
    record: dict[str, Any] = {
        "source": frame.source,
        "number": frame.number,
        "captured": iso_time(stamps.captured_unix_ns),
        "clock": stamps.clock,
        "width": width,
        "height": height,
        "latency_ms": round(stamps.latency_ms, _MS_DIGITS),
        "age_ms": round(stamps.age_ms, _MS_DIGITS),
        "stage_ms": {stage: round(ms, _MS_DIGITS) for stage, ms in stamps.stage_ms().items()},
        "dropped": prediction.num_dropped,
        "is_confident": prediction.is_confident,
        **prediction.raw.record(),
    }
    if prediction.smoothed is not None:
        smoothed = prediction.smoothed.record()
        record["smoothed"] = smoothed.pop("answers")
        record |= {f"smoothed_{key}": value for key, value in smoothed.items()}
    return record


def json_line(prediction: CameraPrediction) -> bytes:
    """Return `prediction_record` as one line of JSON, its newline included."""
    record = prediction_record(prediction)
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return escape_json(text).encode() + b"\n"


def iso_time(unix_ns: int) -> str:
    """Return wall time as ISO 8601 in UTC, with milliseconds."""
    moment = datetime.datetime.fromtimestamp(unix_ns / 1e9, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StdoutSink(Sink):
    """Lines on stdout, each whole and flushed.

    `to_line` gives None where there is nothing to print; `reader_left` is called once stdout has no
    reader any more, as after ``| head``; `stream` is another than the stdout of the process.
    """

    name = "stdout"
    queue_size = 1000

    def __init__(
        self,
        to_line: Callable[[CameraPrediction], bytes | None] = json_line,
        reader_left: Callable[[], None] = lambda: None,
        stream: BinaryIO | None = None,
    ) -> None:
        self._to_line, self._reader_left, self._stream = to_line, reader_left, stream
        self._is_left = False

    def open(self, summarize: Summarize) -> None:
        """Take stdout as it is now."""
        self._stream = self._stream or sys.stdout.buffer

    def write(self, prediction: CameraPrediction) -> None:
        """Print the line of `prediction`."""
        line = None if self._is_left else self._to_line(prediction)
        if line is None:
            return
        assert self._stream is not None
        try:
            self._stream.write(line)
            self._stream.flush()
        except BrokenPipeError:
            self._is_left = True
            with contextlib.suppress(OSError):  # what is buffered would fail again at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._reader_left()
            raise


class JsonLinesSink(Sink):
    """Lines in a file that becomes ``NAME.1`` before it grows too large, and that ``NAME.2``.

    Every line is written by one call, so a process that is killed leaves whole lines; should the
    power fail in the middle of one, the next run begins on a line of its own.
    """

    queue_size = 1000

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, num_kept: int = NUM_KEPT) -> None:
        self.name = f"jsonl:{path}"
        self._path, self._max_bytes, self._num_kept = path, max_bytes, num_kept
        self._file: int | None = None
        self._size = 0

    def open(self, summarize: Summarize) -> None:
        """Open the file, folders made as needed."""
        if self._path.is_dir():
            raise ArtifactError(f"{self._path} is a folder, expected a file to write lines to")
        with refuse_os_errors(self._path):
            self._open()

    def write(self, prediction: CameraPrediction) -> None:
        """Append `prediction`."""
        line = json_line(prediction)
        with refuse_os_errors(self._path):
            if self._file is None or os.fstat(self._file).st_nlink == 0:
                self.close()  # it was removed
                self._open()
            if self._size and self._size + len(line) > self._max_bytes:
                self._rotate()
            self._append(line)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._append(b"\n")

    def _append(self, line: bytes) -> None:
        """Write `line` whole; what of it was written before the disk was full is taken back."""
        assert self._file is not None
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        self.close()
        names = [self._path] + [
            self._path.with_name(f"{self._path.name}.{number + 1}")
            for number in range(self._num_kept)
        ]
        if self._num_kept == 0:
            self._path.unlink()
        for newer, older in reversed(list(itertools.pairwise(names))):
            if newer.exists():
                newer.replace(older)
        self._open()
