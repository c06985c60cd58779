"""Runs of an engine: a context, a stream, memory of the tensors, and a CUDA graph."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_vit.errors import BackendError
from edge_vit.runtime.cudart import Buffer, Cuda
from edge_vit.runtime.options import Memory
from edge_vit.runtime.session import Array, LatencySplit
from edge_vit.runtime.trt.loaded import Context, EngineTensor, LoadedEngine
from edge_vit.runtime.trt.network import Shape

_LOG = logging.getLogger(__name__)

_NUM_EVENTS = 4  # before the inputs are copied, before and after the engine, after the outputs


class ExecutionContext:
    """Runs an engine, one run at a time. After an error it has to be closed.

    The first run of new shapes is an ordinary one, which is also what TensorRT asks for before a
    capture. The second captures a graph, which all that follow launch, until a shape, and with it
    perhaps an address, changes.

    The GPU has to be bound to the calling thread; `memory` is any but ``auto``, `settings` are for
    `LoadedEngine.create_context`. `uses_graph` is whether the last run was launched as a graph.
    """

    def __init__(
        self,
        engine: LoadedEngine,
        cuda: Cuda,
        memory: Memory,
        captures: bool,
        settings: Mapping[str, Any],
    ) -> None:
        self._engine, self._cuda = engine, cuda
        self._outputs = [name for name, tensor in engine.tensors.items() if not tensor.is_input]
        self._memory = memory
        self._may_capture = captures
        self._wants_profile = any(tensor.profile for tensor in engine.tensors.values())
        self._buffers: dict[str, Buffer] = {}
        self._views: dict[str, Array] = {}  # the tensors as the CPU sees them, in their shapes
        self._shapes: dict[str, Shape] = {}
        self._graph: int | None = None
        self._num_runs = 0  # of these shapes
        self.uses_graph = False
        with contextlib.ExitStack() as stack:
            self._stream = cuda.create_stream()
            stack.callback(cuda.release, "cudaStreamDestroy", self._stream)
            self._events = []
            for _ in range(_NUM_EVENTS):
                self._events.append(cuda.create_event())
                stack.callback(cuda.release, "cudaEventDestroy", self._events[-1])
            self.context: Context = engine.create_context(**settings)
            stack.callback(self.context.close)
            stack.callback(self._free_buffers)
            stack.callback(self._drop_graph)
            self._stack = stack.pop_all()

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], LatencySplit]:
        """Return the outputs, which belong to the caller, and where the time went.

        `feeds` are contiguous arrays by input name.
        """
        cuda, stream = self._cuda, self._stream
        self._prepare({name: array.shape for name, array in feeds.items()})
        for name, array in feeds.items():
            self._views[name][...] = array
        cuda.record(self._events[0], stream)
        for name, array in feeds.items():
            self._buffers[name].upload(array.nbytes, stream)
        cuda.record(self._events[1], stream)
        self._compute()
        cuda.record(self._events[2], stream)
        for name in self._outputs:
            self._buffers[name].download(self._views[name].nbytes, stream)
        cuda.record(self._events[3], stream)
        cuda.wait_for(self._events[3])
        pairs = zip(self._events, self._events[1:], strict=False)
        split = LatencySplit(*(cuda.elapsed_ms(*pair) for pair in pairs))
        return {name: self._views[name].copy() for name in self._outputs}, split

    def close(self) -> None:
        """Wait for the run under way, and free everything."""
        try:
            if not self._cuda.is_lost:
                self._cuda.synchronize(self._stream)
        finally:
            self._stack.close()

    def _prepare(self, shapes: dict[str, Shape]) -> None:
        """Give the context its shapes and addresses where they are not those of the last run."""
        if all(self._shapes.get(n) == s for n, s in shapes.items()):
            return
        self._drop_graph()
        self._num_runs = 0
        self._shapes, self._views = {}, {}  # not known until all of this succeeds
        if self._wants_profile:
            self.context.choose_profile(self._stream)
            self._cuda.synchronize(self._stream)
            self._wants_profile = False
        for name, shape in shapes.items():
            self.context.set_shape(name, shape)
        missing = self.context.missing()
        if missing:
            raise BackendError(f"TensorRT still wants the shape of {', '.join(missing)}")
        for name in self._outputs:
            shapes[name] = self.context.shape_of(name)
        self._views = {
            name: self._reserve(tensor, shapes[name])
            for name, tensor in self._engine.tensors.items()
        }
        self._shapes = shapes

    def _reserve(self, tensor: EngineTensor, shape: Shape) -> Array:
        """Make room for `tensor` in `shape`, give the context its address, and return its view."""
        if min(shape, default=1) < 1:
            raise BackendError(f"tensor {tensor.name!r} of the engine has the shape {shape}")
        num_bytes = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
        old = self._buffers.get(tensor.name)
        if old is None or len(old.host) < num_bytes:
            if old is not None:
                del self._buffers[tensor.name]
                old.free()
            buffer = Buffer(self._cuda, num_bytes, self._memory)
            self._buffers[tensor.name] = buffer
            self.context.set_address(tensor.name, buffer.device)
        return self._buffers[tensor.name].host[:num_bytes].view(tensor.dtype).reshape(shape)

    def _compute(self) -> None:
        """Enqueue the engine, as a graph where there is one."""
        if self._graph is None and self._may_capture and self._num_runs > 0:
            self._capture()
        self._num_runs += 1
        self.uses_graph = self._graph is not None
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        elif not self.context.enqueue(self._stream):
            self._cuda.take_error()
            raise BackendError(f"TensorRT cannot run this engine: {self.context.reason}")

    def _capture(self) -> None:
        """Make a graph of a run; where that fails, log it and do without from now on."""
        graph, is_taken, reason = 0, False, ""
        try:
            self._cuda.begin_capture(self._stream)
            try:
                is_taken = self.context.enqueue(self._stream)
                reason = "" if is_taken else self.context.reason
            finally:
                graph = self._cuda.end_capture(self._stream)
            if is_taken:
                self._graph = self._cuda.instantiate(graph)
        except BackendError as error:
            reason = reason or str(error)
        finally:
            if graph:
                self._cuda.release("cudaGraphDestroy", graph)
        if self._graph is None:
            self._cuda.take_error()
            self._may_capture = False
            _LOG.warning("running without a CUDA graph, some microseconds slower: %s", reason)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.release("cudaGraphExecDestroy", graph)

    def _free_buffers(self) -> None:
        self._views = {}
        while self._buffers:
            self._buffers.popitem()[1].free()
