"""An answer as one JSON object: what every sink that writes text says."""

from __future__ import annotations

import datetime
import json
from typing import Any

from edge_vit.answers import Answer, Score
from edge_vit.camera.values import CameraAnswer
from edge_vit.outputs import Prediction
from edge_vit.printable import escape_json
from edge_vit.values import to_json

_SCORE_DIGITS, _MS_DIGITS = 6, 3
_SHOWN = 3  # labels or scores in a headline


def answer_record(answer: CameraAnswer) -> dict[str, Any]:
    """Return `answer` as what JSON takes: raw scores always, smoothed ones where there are any."""
    frame, stamps = answer.frame, answer.frame.stamps
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
        "dropped": answer.num_dropped,
        "is_confident": answer.is_confident,
        "answers": _answers(answer.prediction.answers),
        **_of_task(answer.prediction),
    }
    if answer.smoothed is not None:
        record["smoothed"] = _answers(answer.smoothed.answers)
        record |= {f"smoothed_{key}": value for key, value in _of_task(answer.smoothed).items()}
    if answer.prediction.features is not None:
        record["features"] = list(answer.prediction.features)
    return record


def to_line(record: dict[str, Any]) -> bytes:
    """Return `record` as one line of JSON, its newline included."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return escape_json(text).encode() + b"\n"


def headline(answer: CameraAnswer) -> str | None:
    """Return what was seen in a few words, smoothed where it is; None for features."""
    prediction = answer.smoothed or answer.prediction
    if prediction.scores is not None:
        return ", ".join(f"{_name(each)} {each.value:.4g}" for each in prediction.scores[:_SHOWN])
    if prediction.labels_on is None:
        shown = prediction.answers[:1]
    elif not prediction.labels_on:
        return "no label"
    else:
        shown = prediction.labels_on[:_SHOWN]
    return ", ".join(f"{each.label}  {each.score:.0%}" for each in shown) or None


def _name(score: Score) -> str:
    return f"score {score.label}" if score.label == str(score.index) else score.label


def iso_time(unix_ns: int) -> str:
    """Return wall time as ISO 8601 in UTC, with milliseconds."""
    moment = datetime.datetime.fromtimestamp(unix_ns / 1e9, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_task(prediction: Prediction) -> dict[str, Any]:
    """Return what only multi-label and regression models have."""
    record: dict[str, Any] = {}
    if prediction.labels_on is not None:
        record["labels_on"] = [answer.label for answer in prediction.labels_on]
    if prediction.scores is not None:
        record["scores"] = to_json(prediction.scores)
    return record


def _answers(answers: tuple[Answer, ...]) -> list[dict[str, Any]]:
    return [
        {"index": item.index, "label": item.label, "score": round(item.score, _SCORE_DIGITS)}
        for item in answers
    ]


def _ms(value: float) -> float:
    return round(value, _MS_DIGITS)
