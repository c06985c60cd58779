"""Identity of an engine: two that were built from, with and for the same are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge_vit.errors import BackendError, MissingDependencyError, SpecError
from edge_vit.runtime.cudart import Cuda, open_cuda
from edge_vit.runtime.cudart.gpu import ON_THE_CPU
from edge_vit.spec import Precision
from edge_vit.values import settle

Batches = tuple[int, int, int]

ONE_IMAGE: Batches = (1, 1, 1)

_TARGET = re.compile(r"sm_\d+")
_MAX_LEVEL = 5


@dataclass(frozen=True)
class Hardware:
    """The GPU that is here; empty for none."""

    gpu: str = ""
    compute_capability: str = ""  # such as ``sm_87``
    driver: str = ""  # the newest CUDA version that it knows
    cuda: str = ""  # major version of the runtime
    is_integrated: bool = False  # and shares the CPU's memory
    free_bytes: int = 0
    why_none: str = ""  # CUDA's reason

    @property
    def is_here(self) -> bool:
        """Whether there is a GPU that engines can be run on."""
        return bool(self.gpu)

    @property
    def because(self) -> str:
        """`why_none` as the end of a sentence."""
        return f": {self.why_none}" if self.why_none else ""


NO_GPU = Hardware()


def hardware_of(cuda: Cuda) -> Hardware:
    """Return the GPU of this process as engines know it."""
    facts = cuda.facts
    return Hardware(
        gpu=facts.name,
        compute_capability="sm_{}{}".format(*facts.compute_capability),
        driver=".".join(map(str, facts.driver)),
        cuda=str(facts.runtime[0]),
        is_integrated=facts.is_integrated,
        free_bytes=cuda.free_memory()[0],
    )


def find_hardware(device: int = 0, *, must_exist: bool = False) -> Hardware:
    """Return the GPU `device`, or `NO_GPU` with the reason unless it `must_exist`.

    CUDA stays with this process afterwards and takes memory: call it in a child process.
    """
    try:
        return hardware_of(open_cuda(device))
    except (BackendError, MissingDependencyError) as error:
        if must_exist:
            raise
        return Hardware(why_none=str(error).removesuffix(f". {ON_THE_CPU}"))


@dataclass(frozen=True)
class EngineOptions:
    """Options of a build.

    `batches` are the smallest, usual and largest number of images in a run; None for one image, or
    for the batch that is fixed in the graph. The optimization level is 0 (quick build) to 5 (fast
    engine), TensorRT's own 3. `targets` are for RTX alone, such as ``sm_86``; see `choose_targets`.
    """

    batches: Batches | None = None
    optimization_level: int | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        least, usual, most = self.batches or ONE_IMAGE
        if not 1 <= least <= usual <= most:
            raise SpecError(
                f"batch sizes: got min {least}, opt {usual}, max {most}, expected "
                "1 <= min <= opt <= max"
            )
        level = self.optimization_level
        if level is not None and not 0 <= level <= _MAX_LEVEL:
            raise SpecError(f"optimization level: got {level}, expected 0 to {_MAX_LEVEL}")
        for target in self.targets:
            if not _TARGET.fullmatch(target):
                raise SpecError(
                    f"target: got {target!r}, expected a compute capability such as sm_86"
                )


@dataclass(frozen=True)
class EngineIdentity:
    """All that decides what is in a plan and where it may run.

    GPU, driver and CUDA are empty for RTX, whose plans are compiled to the end on any GPU of a
    target.
    """

    precision: Precision
    onnx_digest: str  # SHA-256 of the graph
    backend: str
    version: str
    gpu: str
    targets: tuple[str, ...]  # compute capabilities
    driver: str
    cuda: str
    batches: Batches | None  # None of a graph whose batch is fixed
    optimization_level: int | None

    @property
    def options(self) -> EngineOptions:
        """The options that build such an engine for the machine at hand."""
        return EngineOptions(self.batches, self.optimization_level)

    def differences(self, wanted: EngineIdentity) -> Iterator[str]:
        """Yield what differs from what is `wanted`, a phrase each; none where it will do.

        A plan for several targets will do for each of them.
        """
        for what, there, here in (
            ("precision", self.precision, wanted.precision),
            ("backend", self.backend, wanted.backend),
            ("graph", self.onnx_digest[:12], wanted.onnx_digest[:12]),
            ("TensorRT", self.version, wanted.version),
            ("GPU", self.gpu, wanted.gpu),
            ("driver", self.driver, wanted.driver),
            ("CUDA", self.cuda, wanted.cuda),
            ("batch", batch_words(self.batches), batch_words(wanted.batches)),
            ("optimization level", self.optimization_level, wanted.optimization_level),
        ):
            if there != here:
                yield f"{what} {_shown(there)} there, {_shown(here)} here"
        if not set(wanted.targets) <= set(self.targets):
            there, here = ("+".join(i.targets) or "none" for i in (self, wanted))
            yield f"compute capability {there} there, {here} here"


def _shown(value: str | int | None) -> str | int | None:
    return "default" if value is None else "unknown" if value == "" else value


def batch_words(batches: Batches | None) -> str:
    """Return `batches` for people: ``1``, ``1 to 8, tuned for 4``, or ``fixed``."""
    if batches is None:
        return "fixed"
    least, usual, most = batches
    return str(least) if least == most else f"{least} to {most}, tuned for {usual}"
