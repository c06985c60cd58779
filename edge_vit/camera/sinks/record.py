"""An answer as one JSON object: what every sink that writes text says."""

from __future__ import annotations

import datetime
import json
from typing import Any

from edge_vit.camera.values import CameraPrediction
from edge_vit.printable import escape_json

_MS_DIGITS = 3


def prediction_record(prediction: CameraPrediction) -> dict[str, Any]:
    """Return `answer` as what JSON takes: raw scores always, smoothed ones where there are any."""
    frame, stamps = prediction.frame, prediction.frame.stamps
    height, width = frame.pixels.shape[:2]
    record: dict[str, Any] = {
        "source": frame.source,
        "number": frame.number,
        "captured": iso_time(stamps.captured_unix_ns),
        "clock": stamps.clock,
        "width": width,
        "height": height,
        "latency_ms": _ms(stamps.latency_ms),
        "age_ms": _ms(stamps.age_ms),
        "stage_ms": {stage: _ms(value) for stage, value in stamps.stage_ms().items()},
        "dropped": prediction.num_dropped,
        "is_confident": prediction.is_confident,
        **prediction.raw.record(),
    }
    if prediction.smoothed is not None:
        smoothed = prediction.smoothed.record()
        record["smoothed"] = smoothed.pop("answers")
        record |= {f"smoothed_{key}": value for key, value in smoothed.items()}
    return record


def to_line(record: dict[str, Any]) -> bytes:
    """Return `record` as one line of JSON, its newline included."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return escape_json(text).encode() + b"\n"


def iso_time(unix_ns: int) -> str:
    """Return wall time as ISO 8601 in UTC, with milliseconds."""
    moment = datetime.datetime.fromtimestamp(unix_ns / 1e9, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(value: float) -> float:
    return round(value, _MS_DIGITS)
