"""The failures of a runtime in one wording, alike for every backend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_vit.errors import BackendError
from edge_vit.runtime.session import Array


@dataclass(frozen=True)
class Failures:
    """How the errors of one runtime are read and worded.

    Attributes:
        runtime: its name, for people.
        noise: what its messages hold beside the reason.
        no_memory: how they say that the memory did not suffice.
        advice: what to do where a graph cannot be loaded.
    """

    runtime: str
    noise: re.Pattern[str]
    no_memory: re.Pattern[str]
    advice: str

    def reason(self, error: Exception) -> str:
        """Return what the runtime says, on one line."""
        return " ".join(self.noise.sub("", " ".join(str(error).split())).split()).rstrip(".")

    def loading(self, error: Exception, name: str, version: str) -> BackendError:
        """Return the error of a graph called `name` that `version` of the runtime cannot load."""
        if self._is_memory(error):
            return BackendError(
                f"{version} ran out of memory while loading {name}. Free some memory"
            )
        return BackendError(f"{version} cannot load {name}: {self.reason(error)}. {self.advice}")

    def running(self, error: Exception, name: str, feeds: Mapping[str, Array]) -> BackendError:
        """Return the error of a run of the graph called `name` on `feeds`."""
        shapes = ", ".join(f"{key!r} {array.shape}" for key, array in feeds.items())
        if self._is_memory(error):
            return BackendError(
                f"{self.runtime} ran out of memory while running {name} on {shapes}. "
                "Use a smaller batch"
            )
        return BackendError(
            f"{self.runtime} failed to run {name} on {shapes}: {self.reason(error)}"
        )

    def _is_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError) or bool(self.no_memory.search(str(error)))
