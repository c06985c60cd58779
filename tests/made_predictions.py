"""Answers made by hand, for the sinks."""

from __future__ import annotations

import numpy as np
from decoding import predict
from small_models import make_model

from edge_vit.camera.summary import CameraSummary, Percentiles
from edge_vit.camera.values import (
    STAGES,
    CameraPrediction,
    Counts,
    Frame,
    SinkStatus,
    SourceFormat,
    SourceStatus,
    Stamps,
)
from edge_vit.tasks.base import named
from edge_vit.tasks.prediction import FeaturesPrediction

LABELS = ("cat", "dog", 'say "owl"\nloudly', "Füchsin 🦊")
SPEC = make_model(labels=LABELS)
MS = 10**6


def make_prediction(
    number=0,
    logits=(3.0, 1.0, 0.0, -1.0),
    *,
    source="test://",
    at_ms=None,
    size=(48, 64),
    is_live=True,
    is_confident=True,
    features=None,
    spec=None,
) -> CameraPrediction:
    """Return the answer to frame `number`, captured at `at_ms` (default: 100 ms apart)."""
    captured = round((number * 100 if at_ms is None else at_ms) * MS)
    instants = [captured + ms * MS for ms in (0, 1, 3, 6, 10, 15, 21)]
    stamps = Stamps(*instants, captured_unix_ns=1_700_000_000_000 * MS + captured, clock="driver")
    pixels = np.full((*size, 3), 40 + number % 200, dtype=np.uint8)
    output = np.asarray(logits if features is None else features, dtype=np.float32)
    if features is None:
        prediction = predict(spec or SPEC, output, 3, f"frame {number}")
    else:
        prediction = FeaturesPrediction(f"frame {number}", tuple(features))
    outputs = named(spec or SPEC, output[None])
    frame = Frame(number, source, pixels, stamps, is_live)
    return CameraPrediction(frame, prediction, outputs, is_confident=is_confident)


def make_summary(**changes) -> CameraSummary:
    """Return how a loop with one source and one sink stands."""
    few = Percentiles(500, 2.0, 3.0, None, None, 9.0)
    counts = Counts(captured=120, answered=100, dropped=15, failed=3, in_flight=2)
    facts = {
        "model": "tiny",
        "backend": "fake",
        "precision": "int8",
        "threads": 1,
        "batch_size": 1,
        "seconds": 60.0,
        "fps": 29.0,
        "recent_fps": 30.5,
        "sources": (
            SourceStatus(
                'v4l2:///dev/"video0"',
                "running",
                True,
                SourceFormat(64, 48, 30.0, "yuyv422", "driver"),
                counts,
                num_reopened=2,
            ),
        ),
        "sinks": (SinkStatus("stdout", 90, 8, 2, "broken\npipe"),),
        "latency_ms": Percentiles(2000, 21.0, 25.0, 40.0, None, 50.0),
        "age_ms": few,
        "interval_ms": few,
        "stage_ms": dict.fromkeys(STAGES, few),
        "clocks": ("driver",),
        "preprocessing": "pillow",
    }
    return CameraSummary(**(facts | changes))
