"""An engine as a session: fed by numpy, run on the GPU; no torch."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vit.errors import ArtifactError, BackendError, EdgeVitError, ShapeError
from edge_vit.files import write_atomically
from edge_vit.runtime.cudart import Cuda, choose_memory
from edge_vit.runtime.session import DEFAULT_OPTIONS, Array, Session, SessionOptions
from edge_vit.runtime.trt.execution import ExecutionContext
from edge_vit.runtime.trt.loaded import EngineTensor, LoadedEngine
from edge_vit.spec import ModelSpec, Precision, TensorSpec

_LOG = logging.getLogger(__name__)

_MAX_CACHE_BYTES = 100 << 20  # NVIDIA's own advice for RTX's kernel cache


@dataclass(frozen=True)
class EngineFile:
    """An engine in memory and the name of its file, for messages."""

    engine: LoadedEngine
    name: str
    captures_graphs: bool = False  # by itself, as RTX does
    cache_path: Path | None = None  # of kernels that RTX compiles


class TrtSession(Session):
    """A TensorRT engine on a GPU; runs from several threads take turns.

    It closes the engine, whose tensors have to be those of `spec`. `uses_graph` is of RTX whether
    a graph was asked for.
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
        self._captures = options.cuda_graph and not file.captures_graphs
        self._settings: dict[str, Any] = {}
        if file.captures_graphs:
            cache = self._read_cache()
            self._settings = {"captures_graphs": options.cuda_graph, "runtime_cache": cache}
        self._turn = threading.Lock()
        self._execution: ExecutionContext | None = self._open_context()

    @property
    def batch_range(self) -> tuple[int, int] | None:
        """Smallest and largest batch that the engine was built for."""
        for tensor in self._file.engine.tensors.values():
            if tensor.profile:
                return tensor.profile.min[0], tensor.profile.max[0]
        return super().batch_range

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self._check_profile(feeds)
        with self._turn:
            self._cuda.bind_thread()
            execution = self._execution or self._open_context()
            self._execution = None  # until it ends well: after a failure its stream is undefined
            try:
                outputs, self.last_split = execution.run(feeds)
            except BaseException:
                try:
                    execution.close()
                except EdgeVitError as error:
                    _LOG.debug("closing after a failure: %s", error)
                raise
            self._execution = execution
            self.uses_graph = execution.uses_graph or self._makes_graphs
        return outputs

    def _close(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._file.engine.close)
            if self._execution is not None:
                stack.callback(self._execution.close)
            if not self._cuda.is_lost:
                self._cuda.bind_thread()
                self._write_cache()

    def _open_context(self) -> ExecutionContext:
        self._cuda.bind_thread()
        return ExecutionContext(
            self._file.engine, self._cuda, self.memory, self._captures, self._settings
        )

    def _check_profile(self, feeds: Mapping[str, Array]) -> None:
        for name, array in feeds.items():
            profile = self._file.engine.tensors[name].profile
            if profile is None:
                continue
            sizes = zip(profile.min, array.shape, profile.max, strict=True)
            if not all(least <= size <= most for least, size, most in sizes):
                raise ShapeError(
                    f"input {name!r}: got a batch of {len(array)}, {self._file.name} was built for "
                    f"{profile.min[0]} to {profile.max[0]}. Build one for it: "
                    f"edgevit build BUNDLE --backend {self.backend} --batch-size {len(array)}"
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
        path, execution = self._file.cache_path, self._execution
        kernels = execution.context.runtime_cache() if path and execution else None
        if path is None or not kernels or len(kernels) > _MAX_CACHE_BYTES:
            return
        try:
            write_atomically(path, kernels)
        except ArtifactError as error:
            _LOG.info("compiled kernels were not kept for the next start: %s", error)


class RtxSession(TrtSession):
    """A TensorRT-RTX engine on a GPU."""

    backend = "rtx"


def _match(
    tensors: Mapping[str, EngineTensor], specs: tuple[TensorSpec, ...], name: str, *, is_input: bool
) -> tuple[TensorSpec, ...]:
    """Return the engine's inputs or outputs in the words of the model's `specs`.

    A dimension that is dynamic there may be fixed in the engine.
    """
    own = {tensor.name: tensor for tensor in tensors.values() if tensor.is_input == is_input}
    found = []
    for spec in specs:
        tensor = own.pop(spec.name, None)
        shape = tensor.shape if tensor else ()
        fits = tensor is not None and tensor.dtype == spec.dtype and len(shape) == len(spec.shape)
        sizes = list(zip(shape, spec.shape, strict=fits))
        if not fits or any(isinstance(want, int) and size != want for size, want in sizes):
            got = "none" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            difference = f"its tensor {spec.name!r} is {got}, expected {spec}"
            raise _of_another_model(name, difference)
        own_shape = tuple(want if size == -1 else size for size, want in sizes)
        found.append(TensorSpec(spec.name, spec.dtype, own_shape))
    if own:
        raise _of_another_model(name, f"it also has {', '.join(map(repr, own))}")
    return tuple(found)


def _of_another_model(name: str, difference: str) -> BackendError:
    return BackendError(
        f"{name} is no engine of this model: {difference}. Build it again: edgevit build BUNDLE"
    )
