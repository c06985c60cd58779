"""What a runtime's failures are called, alike for every backend."""

from __future__ import annotations

from collections.abc import Mapping

from edge_vit.errors import BackendError
from edge_vit.runtime.session import Array


def no_memory_to_load(runtime: str, name: str) -> BackendError:
    """Return the error of a graph called `name` for which the memory did not suffice."""
    return BackendError(f"{runtime} ran out of memory while loading {name}. Free some memory")


def failed_run(
    runtime: str, name: str, feeds: Mapping[str, Array], reason: str, *, is_memory: bool
) -> BackendError:
    """Return the error of a run that failed."""
    shapes = ", ".join(f"{key!r} {array.shape}" for key, array in feeds.items())
    if is_memory:
        return BackendError(
            f"{runtime} ran out of memory while running {name} on {shapes}. Use a smaller batch"
        )
    return BackendError(f"{runtime} failed to run {name} on {shapes}: {reason}")
