"""An engine as a session: fed by numpy, run on the GPU, two runs at once; no torch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vit.errors import ArtifactError, BackendError, ShapeError
from edge_vit.files import write_atomically
from edge_vit.runtime.cudart import Cuda, choose_memory
from edge_vit.runtime.session import DEFAULT_OPTIONS, Array, Session, SessionOptions
from edge_vit.runtime.trt.execution import ExecutionContext, ExecutionOptions
from edge_vit.runtime.trt.execution_pool import ExecutionPool
from edge_vit.runtime.trt.loaded import EngineTensor, LoadedEngine
from edge_vit.runtime.trt.network import Shape, ShapeRange
from edge_vit.spec import ModelSpec, Precision, TensorSpec

_LOG = logging.getLogger(__name__)

NUM_CONTEXTS = 2
"""Runs that are under way at once: while one computes, the next one's images are copied."""

_MAX_CACHE_BYTES = 100 << 20  # NVIDIA's own advice for RTX's kernel cache


@dataclass(frozen=True)
class EngineFile:
    """An engine in memory and what belongs to it.

    Attributes:
        engine: the session closes it.
        name: of its file, for messages.
        captures_graphs: whether its contexts make CUDA graphs by themselves (RTX).
        cache_path: where the kernels are kept that the first runs compile (RTX); None for nowhere.
    """

    engine: LoadedEngine
    name: str
    captures_graphs: bool = False
    cache_path: Path | None = None


class TrtSession(Session):
    """A TensorRT engine on a GPU.

    Runs from several threads take turns on two execution contexts, each with a stream and memory
    of its own; `submit` uses both from one thread.

    Args:
        file: the engine.
        cuda: the GPU.
        spec: of the model, to whose tensors the engine is held.
        precision: what the engine was built from.
        options: memory, graphs and the like.

    Attributes:
        memory: how tensors get to the GPU and back.
        uses_graph: whether the last run was a CUDA graph; RTX was asked for one and does not tell.

    Raises:
        BackendError: the engine is not one of this model, or there is too little memory.
        SpecError: the GPU has no memory of the kind that was asked for.
    """

    backend = "trt"
    is_on_gpu = True

    def __init__(
        self,
        file: EngineFile,
        cuda: Cuda,
        spec: ModelSpec,
        precision: Precision,
        options: SessionOptions = DEFAULT_OPTIONS,
    ) -> None:
        tensors = file.engine.tensors
        super().__init__(
            precision=precision,
            inputs=_match(tensors, spec.inputs, file.name, is_input=True),
            outputs=_match(tensors, spec.outputs, file.name, is_input=False),
            threads=options.num_threads,
        )
        self._file, self._cuda = file, cuda
        self.memory = choose_memory(options.memory, cuda.facts)
        self.uses_graph = self._makes_graphs = file.captures_graphs and options.cuda_graph
        context: dict[str, Any] = {}
        if file.captures_graphs:
            context = {"captures_graphs": options.cuda_graph, "runtime_cache": self._read_cache()}
        captures = options.cuda_graph and not file.captures_graphs
        execution_options = ExecutionOptions(self.memory, captures, context)
        self._last_found: tuple[Mapping[str, Shape], int] = ({}, 0)

        def open_context() -> ExecutionContext:
            cuda.bind_thread()
            return ExecutionContext(file.engine, cuda, execution_options)

        self._pool = ExecutionPool(open_context, NUM_CONTEXTS)

    @property
    def batch_range(self) -> tuple[int, int] | None:
        """Smallest and largest batch that the engine was built for."""
        batches = [
            (allowed.min[0], allowed.max[0])
            for profile in self._file.engine.profiles
            for allowed in profile.values()
        ]
        if not batches:
            return super().batch_range
        least, most = zip(*batches, strict=True)
        return min(least), max(most)

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return self._collect(self._begin(feeds, is_submitted=False))

    def _submit(self, feeds: dict[str, Array]) -> ExecutionContext:
        return self._begin(feeds, is_submitted=True)

    def _begin(self, feeds: dict[str, Array], *, is_submitted: bool) -> ExecutionContext:
        profile = self._find_profile({name: array.shape for name, array in feeds.items()})
        execution = self._pool.take(is_submitted=is_submitted)
        with self._pool.discarding(execution):
            self._cuda.bind_thread()
            execution.start(feeds, profile)
        return execution

    def _collect(self, work: ExecutionContext) -> dict[str, Array]:
        with self._pool.discarding(work):
            self._cuda.bind_thread()
            outputs, self._last_split = work.finish()
        self.uses_graph = work.uses_graph or self._makes_graphs
        self._pool.give_back(work)
        return outputs

    def _close(self) -> None:
        try:
            if not self._cuda.is_lost:
                self._cuda.bind_thread()
            self._write_cache()
        finally:
            with contextlib.ExitStack() as stack:
                stack.callback(self._file.engine.close)
                stack.callback(self._pool.close)

    def _find_profile(self, shapes: Mapping[str, Shape]) -> int | None:
        """The tightest optimization profile that holds `shapes`; None where nothing is dynamic."""
        profiles = self._file.engine.profiles
        if not any(profiles):
            return None
        last_shapes, last_profile = self._last_found
        if shapes == last_shapes:
            return last_profile
        fitting = [i for i, profile in enumerate(profiles) if _holds(profile, shapes)]
        if fitting:
            tightest = min(fitting, key=lambda index: _largest_batch(profiles[index]))
            self._last_found = shapes, tightest
            return tightest
        name, shape = next(iter(shapes.items()))
        ranges = [f"{p[name].min[0]} to {p[name].max[0]}" for p in profiles if name in p]
        raise ShapeError(
            f"input {name!r}: got a batch of {shape[0]}, {self._file.name} was built for "
            f"{' or '.join(ranges)}. Build one for it: "
            f"edgevit build BUNDLE --backend {self.backend} --batch-size {shape[0]}"
        )

    def _read_cache(self) -> bytes | None:
        """The kernels of earlier sessions; empty where there are none, None where none are kept."""
        path = self._file.cache_path
        if path is None:
            return None
        try:
            return path.read_bytes() if path.stat().st_size <= _MAX_CACHE_BYTES else b""
        except OSError:
            return b""

    def _write_cache(self) -> None:
        """Keep the kernels that were compiled; a session that cannot still did its work."""
        path, execution = self._file.cache_path, self._pool.first
        if path is None or execution is None or self._cuda.is_lost:
            return
        kernels = execution.context.runtime_cache()
        if not kernels or len(kernels) > _MAX_CACHE_BYTES:
            return
        try:
            write_atomically(path, kernels)
        except ArtifactError as error:
            _LOG.info("compiled kernels were not kept for the next start: %s", error)


class RtxSession(TrtSession):
    """A TensorRT-RTX engine on a GPU."""

    backend = "rtx"


def _match(
    tensors: Mapping[str, EngineTensor],
    specs: tuple[TensorSpec, ...],
    name: str,
    *,
    is_input: bool,
) -> tuple[TensorSpec, ...]:
    """Return the engine's inputs or outputs in the words of the model's `specs`."""
    own = {tensor.name: tensor for tensor in tensors.values() if tensor.is_input == is_input}
    for spec in specs:
        tensor = own.pop(spec.name, None)
        if tensor is None or not _fits(tensor, spec):
            got = "none" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise BackendError(
                f"{name} is no engine of this model: its tensor {spec.name!r} is {got}, expected "
                f"{spec}. Build it again: edgevit build BUNDLE"
            )
    if own:
        raise BackendError(
            f"{name} is no engine of this model: it also has {', '.join(map(repr, own))}. "
            "Build it again: edgevit build BUNDLE"
        )
    return tuple(
        TensorSpec(spec.name, spec.dtype, _shape(tensors[spec.name], spec)) for spec in specs
    )


def _fits(tensor: EngineTensor, spec: TensorSpec) -> bool:
    """Whether `tensor` is what `spec` says; what is dynamic there may be fixed in the engine."""
    return (
        tensor.dtype == spec.dtype
        and len(tensor.shape) == len(spec.shape)
        and all(
            isinstance(wanted, str) or size == wanted
            for size, wanted in zip(tensor.shape, spec.shape, strict=True)
        )
    )


def _shape(tensor: EngineTensor, spec: TensorSpec) -> tuple[int | str, ...]:
    pairs = zip(tensor.shape, spec.shape, strict=True)
    return tuple(wanted if size == -1 else size for size, wanted in pairs)


def _holds(profile: Mapping[str, ShapeRange], shapes: Mapping[str, Shape]) -> bool:
    return all(
        least <= size <= most
        for name, allowed in profile.items()
        for least, size, most in zip(allowed.min, shapes[name], allowed.max, strict=True)
    )


def _largest_batch(profile: Mapping[str, ShapeRange]) -> int:
    return max(allowed.max[0] for allowed in profile.values())
