"""CUDA's runtime as sessions need it: memory, streams, events, graphs; numpy and no torch."""

from edge_vit.runtime.cudart.calls import GpuMemoryError as GpuMemoryError
from edge_vit.runtime.cudart.gpu import Buffer as Buffer
from edge_vit.runtime.cudart.gpu import Cuda as Cuda
from edge_vit.runtime.cudart.gpu import GpuFacts as GpuFacts
from edge_vit.runtime.cudart.gpu import choose_memory as choose_memory
from edge_vit.runtime.cudart.gpu import open_cuda as open_cuda
