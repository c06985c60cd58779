"""Classes and boxes of objects: ``logits`` (batch, queries, classes), ``boxes`` (…, 4)."""

from edge_vit.tasks.detection.prediction import Box, DetectionPrediction
from edge_vit.tasks.detection.task import TASK, Detection

__all__ = ["TASK", "Box", "Detection", "DetectionPrediction"]
