"""CUDA's runtime as sessions need it: memory, streams, events, graphs; numpy and no torch."""

from __future__ import annotations

from edge_vit.runtime.cudart.buffers import Buffer, choose_memory
from edge_vit.runtime.cudart.checked import GpuMemoryError
from edge_vit.runtime.cudart.device import GpuFacts
from edge_vit.runtime.cudart.gpu import Cuda, open_cuda

__all__ = ["Buffer", "Cuda", "GpuFacts", "GpuMemoryError", "choose_memory", "open_cuda"]
