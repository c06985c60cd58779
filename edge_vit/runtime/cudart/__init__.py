"""CUDA's runtime as sessions need it: memory, streams, events, graphs; numpy and no torch."""

from __future__ import annotations

from edge_vit.runtime.cudart.buffers import STRATEGIES, Buffer, Strategy, choose_strategy
from edge_vit.runtime.cudart.device import GpuFacts
from edge_vit.runtime.cudart.gpu import Cuda, Wait, open_cuda

__all__ = [
    "STRATEGIES",
    "Buffer",
    "Cuda",
    "GpuFacts",
    "Strategy",
    "Wait",
    "choose_strategy",
    "open_cuda",
]
