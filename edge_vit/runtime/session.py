"""A loaded model, ready to run: checked, timed and closed alike for every backend."""

from __future__ import annotations

import dataclasses
import importlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge_vit.bundle import Bundle
from edge_vit.errors import BackendError, DeviceLostError, EdgeVitError, ShapeError
from edge_vit.formats import find_format
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.backends import BACKENDS, choose_backend, resolve_backend, runs_on_cpu
from edge_vit.runtime.options import DEFAULT_OPTIONS as DEFAULT_OPTIONS
from edge_vit.runtime.options import SessionOptions as SessionOptions
from edge_vit.runtime.options import num_cores as num_cores
from edge_vit.runtime.options import report_degraded
from edge_vit.spec import Precision, TensorSpec
from edge_vit.spec.samples import feeds_of
from edge_vit.values import checked

Array = npt.NDArray[Any]
AnySession = TypeVar("AnySession", bound="Session")


@dataclass(frozen=True)
class LatencySplit:
    """The parts of one run on a GPU, in milliseconds: inputs in, computing, outputs out."""

    to_device_ms: float
    compute_ms: float
    to_host_ms: float


class Session(ABC):
    """A loaded model; a context manager that closes it.

    `run` may be called from several threads at once, `close` only when they are done.
    """

    backend: str  # such as ``ort``
    is_on_gpu: bool = False  # FP16 is then real, and what INT8 has to beat
    provider: str = ""  # of ONNX Runtime, such as ``cuda``
    uses_graph: bool | None = None  # whether the last run was a CUDA graph; None without any
    last_latency_ms: float | None = None  # of the last `run`, checks and copies included
    last_split: LatencySplit | None = None  # of the last `run`, where its parts are measured
    degraded: str = ""  # why it runs in place of the session that was asked for
    remark: str = ""  # a sentence that a reader of its figures has to know

    def __init__(
        self,
        *,
        precision: Precision,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int,
    ) -> None:
        self.precision = precision
        self.inputs = inputs
        self.outputs = outputs
        self.threads = threads
        self._closed = False

    @property
    def batch_range(self) -> tuple[int, int] | None:
        """Smallest and largest batch that `run` takes; None where any will do."""
        batch = self.inputs[0].shape[0]
        return (batch, batch) if isinstance(batch, int) else None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of `feeds`, both by name; the arrays belong to the caller.

        Raises:
            ShapeError: a feed is missing or unknown, or has another dtype or shape.
            BackendError: the session is closed, or the backend failed.
        """
        start = time.perf_counter_ns()
        if self._closed:
            raise BackendError(
                f"this {self.backend} session is closed. Open another with open_session"
            )
        outputs = self._run(self._check(feeds))
        self.last_latency_ms = (time.perf_counter_ns() - start) / 1e6
        return outputs

    def close(self) -> None:
        """Free what the session holds; closing again does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self: AnySession) -> AnySession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Return new arrays by output name; `feeds` are checked and contiguous, and only read."""

    @abstractmethod
    def _close(self) -> None:
        """Free what the backend holds; called once."""

    def _check(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return `feeds` as contiguous arrays, or refuse them."""
        names = list(feeds) if isinstance(feeds, Mapping) else [type(feeds).__name__]
        if set(names) != {spec.name for spec in self.inputs}:
            got = ", ".join(map(repr, names)) or "none"
            wanted = ", ".join(f"{spec.name!r} {spec}" for spec in self.inputs)
            raise ShapeError(f"inputs: got {got}, expected {wanted}")
        for spec in self.inputs:
            array: Any = feeds[spec.name]
            if not _fits(array, spec):
                got = f"a {type(array).__name__}, not a numpy array"
                if isinstance(array, np.ndarray):
                    got = f"{array.dtype} {array.shape}"
                raise ShapeError(f"input {spec.name!r}: got {got}, expected {spec}")
        return {name: np.ascontiguousarray(array) for name, array in feeds.items()}


@dataclass(frozen=True)
class Failures:
    """The wording of one runtime's errors, alike for every backend."""

    runtime: str
    noise: re.Pattern[str]  # what its messages hold beside the reason
    no_memory: re.Pattern[str]  # what they hold when the memory did not suffice
    advice: str

    def reason(self, error: Exception) -> str:
        """Return the runtime's message on one line."""
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


@checked
def open_session(
    bundle: Bundle | Path | str,
    precision: Precision | None = None,
    backend: str = "auto",
    options: SessionOptions = DEFAULT_OPTIONS,
    progress: Progress = SILENT,
) -> Session:
    """Return a session that runs the `precision` graph of `bundle`; close it when done.

    Without a `precision` it is the smallest that the bundle has. Where a GPU backend fails and
    `options` allow a fallback, the session runs on the CPU and its `degraded` is the reason.

    Raises:
        SpecError: there is no such precision or backend, or the options contradict it.
        ArtifactError: the bundle or its graph is missing, truncated or edited; or there is no
            engine, and none may be built.
        BackendError: the backend cannot load the graph, or gives other outputs than the model.
        DeviceLostError: the GPU is lost.
        MissingDependencyError: the backend's package is not installed.
    """
    if precision is not None:
        find_format(precision)
    name = resolve_backend(backend, options)
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    precision = precision or bundle.smallest_precision
    try:
        return _open(name, bundle, precision, options, progress)
    except DeviceLostError:
        raise
    except EdgeVitError as error:
        if options.fallback == "none" or runs_on_cpu(name, options):
            raise
        reason = f"{name} cannot run {precision} of {bundle.path}: {error}"
    options = dataclasses.replace(options, provider="cpu")
    session = _open(choose_backend(cpu_only=True), bundle, precision, options, progress)
    session.degraded = reason
    report_degraded(f"{reason} -- Running on {session.backend} instead, as --fallback cpu allows")
    return session


def _open(
    name: str, bundle: Bundle, precision: Precision, options: SessionOptions, progress: Progress
) -> Session:
    opener = getattr(importlib.import_module(BACKENDS[name].module), BACKENDS[name].opener)
    session: Session = opener(bundle, precision, options, progress)
    return session


def run_batch(session: Session, images: Array) -> Array:
    """Return the first output of `session` for any number of `images`: see `run_images`."""
    return run_images(session, images)[session.outputs[0].name]


def run_images(session: Session, images: Array) -> dict[str, Array]:
    """Return the outputs of `session` for any number of `images`, (count, ...) each, in order.

    Where the batch is limited the session runs as often as needed; a last batch that is too small
    is filled up by repeating the last image, and what comes of the repetitions is cut off. Images
    are uint8 (count, height, width, 3) RGB, as preprocessed, or samples (edge_vit.spec.samples).

    Raises:
        ShapeError: the graph takes no such images, or an output has not a row for each.
    """
    if session.batch_range is None:
        return _run_rows(session, images)
    least, most = session.batch_range
    chunks = [images[start : start + most] for start in range(0, len(images) or 1, most)]
    repeated = np.repeat(images[-1:], max(least - len(chunks[-1]), 0), axis=0)
    chunks[-1] = np.concatenate([chunks[-1], repeated])
    runs = [_run_rows(session, chunk) for chunk in chunks]
    return {
        name: np.concatenate([outputs[name] for outputs in runs])[: len(images)] for name in runs[0]
    }


def _run_rows(session: Session, images: Array) -> dict[str, Array]:
    """The outputs of one run, each with a row for each image."""
    outputs = session.run(feeds_of(session.inputs, images))
    for name, output in outputs.items():
        if output.shape[:1] != images.shape[:1]:
            raise ShapeError(
                f"output {name} on {session.backend}: got shape {output.shape} for a batch of "
                f"{len(images)}, expected a row for each image. Where the model cannot be run in "
                "batches, export it again with --static-batch 1"
            )
    return outputs


def _fits(array: Any, spec: TensorSpec) -> bool:
    """Whether `array` is as `spec` wants it; a dynamic dimension takes any size but 0."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == spec.dtype
        and array.ndim == len(spec.shape)
        and all(
            size == wanted if isinstance(wanted, int) else size > 0
            for size, wanted in zip(array.shape, spec.shape, strict=True)
        )
    )
