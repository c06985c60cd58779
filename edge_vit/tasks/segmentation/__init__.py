"""Masks: the class of each pixel, and objects with a mask each."""

from edge_vit.tasks.segmentation.decoding import Segment
from edge_vit.tasks.segmentation.objects import InstanceSegmentation, PanopticSegmentation
from edge_vit.tasks.segmentation.prediction import MaskPrediction, SegmentsPrediction
from edge_vit.tasks.segmentation.semantic import Segmentation

__all__ = ["INSTANCES", "PANOPTIC", "TASK", "MaskPrediction", "Segment", "SegmentsPrediction"]

TASK, INSTANCES, PANOPTIC = Segmentation(), InstanceSegmentation(), PanopticSegmentation()
