"""A loaded model: sessions over one backend each, and the predictor on top of them.

Backends are imported when a session is opened; this package alone needs numpy and Pillow.
"""

from __future__ import annotations

from edge_vit.runtime.predictor import Prediction, Predictor
from edge_vit.runtime.session import (
    LatencySplit,
    Session,
    SessionOptions,
    Ticket,
    open_session,
    run_batch,
    run_images,
)

__all__ = [
    "LatencySplit",
    "Prediction",
    "Predictor",
    "Session",
    "SessionOptions",
    "Ticket",
    "open_session",
    "run_batch",
    "run_images",
]
