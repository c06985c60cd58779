"""Which GPU engines are built for here: as CUDA reports it."""

from __future__ import annotations

from edge_vit.errors import BackendError, MissingDependencyError
from edge_vit.runtime.cudart import GpuFacts, open_cuda
from edge_vit.runtime.cudart.gpu import ON_THE_CPU
from edge_vit.runtime.trt.identity import Hardware


def hardware_of(facts: GpuFacts, free_bytes: int = 0) -> Hardware:
    """Return what engines have to know of the GPU that `facts` are of."""
    major, minor = facts.compute_capability
    return Hardware(
        gpu=facts.name,
        compute_capability=f"sm_{major}{minor}",
        driver=".".join(map(str, facts.driver)),
        cuda=str(facts.runtime[0]),
        is_integrated=facts.is_integrated,
        free_bytes=free_bytes,
    )


def find_hardware(device: int = 0, *, must_exist: bool = False) -> Hardware:
    """Return the GPU `device`, or one that is not here and says why.

    CUDA stays with this process afterwards and takes memory: ask in a child process.

    Raises:
        BackendError: `must_exist`, and there is none; the message says why.
        MissingDependencyError: `must_exist`, and CUDA's runtime is not installed.
    """
    try:
        cuda = open_cuda(device)
    except (BackendError, MissingDependencyError) as error:
        if must_exist:
            raise
        return Hardware(why_none=str(error).removesuffix(f". {ON_THE_CPU}"))
    return hardware_of(cuda.facts, cuda.free_memory()[0])
