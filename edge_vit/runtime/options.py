"""How a session uses the machine: one value for every command that runs a model."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

from edge_vit.errors import SpecError
from edge_vit.runtime.cpu import cpu_quota
from edge_vit.values import settle

Provider = Literal["cpu", "cuda"]  # of ONNX Runtime

Fallback = Literal["none", "cpu"]  # what takes over where a GPU backend cannot run a model

Memory = Literal["auto", "copy", "mapped"]
"""How a tensor gets to the GPU and back: copied between pinned and GPU memory; or read and written
by the GPU in pinned memory; or what suits the GPU."""

Wait = Literal["block", "spin"]
"""How a thread waits for the GPU: asleep, or polling, which is some microseconds quicker and takes
a core."""

DEGRADED_STATUS = 6  # exit status of a command that did its work on a fallback

_LOG = logging.getLogger(__name__)
_COLLECTED: ContextVar[list[str] | None] = ContextVar("degraded", default=None)

PROVIDERS: tuple[Provider, ...] = get_args(Provider)
FALLBACKS: tuple[Fallback, ...] = get_args(Fallback)


@dataclass(frozen=True)
class SessionOptions:
    """How a session uses the machine; the command line gives it as `session_options`.

    Of several engines the one that is tuned closest to `batch_size` images is taken, and a first
    one is built for it; None for one image.
    """

    threads: int | None = None  # of one run; None for as many as `num_cores`
    device: int = 0  # number of the GPU
    provider: Provider = "cpu"
    cuda_graph: bool = True  # launch a run of an engine as one
    may_build: bool = True  # an engine that is missing or stale; else refuse
    trust_engine: bool = False  # load one that was not built here: it can run code of its maker
    fallback: Fallback = "none"
    self_test: bool = True  # by the golden images, before an engine is used
    batch_size: int | None = None
    memory: Memory = "auto"  # of an engine's tensors
    wait: Wait = "block"

    def __post_init__(self) -> None:
        settle(self)
        for name, least in (("threads", 1), ("batch_size", 1), ("device", 0)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise SpecError(f"{name}: got {number}, expected at least {least}")

    @property
    def num_threads(self) -> int:
        """`threads`, or the number of cores where that is None."""
        return self.threads or num_cores()


DEFAULT_OPTIONS = SessionOptions()


def num_cores() -> int:
    """Return how many logical cores this process may use: its affinity, within its CPU quota.

    A quota counts in whole cores, at least one: threads beyond it would use it up early in each
    period and then be stopped all together.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may grant fewer cores than there are
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def threads_of_ort(threads: int | None = None) -> int:
    """Return `threads` as ONNX Runtime takes it: 0 for its own choice, which knows no CPU quota."""
    return threads or (num_cores() if cpu_quota() is not None else 0)


@contextlib.contextmanager
def collect_degraded() -> Iterator[list[str]]:
    """Yield a list to which every fallback is added that is taken inside the block."""
    collected: list[str] = []
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def report_degraded(text: str) -> None:
    """Log that a fallback was taken, and why; inside `collect_degraded` it is collected as well."""
    _LOG.warning("%s", text)
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(text)
