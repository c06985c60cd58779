"""An engine for `SimulatedCuda`, with TensorRT's calls; it computes what the tiny graph says.

Stricter than TensorRT: the profile has to be chosen before the shapes, a context may have work in
one stream alone and be used by one thread at a time, a capture needs an ordinary run after the last
change, and a graph is refused once its context has other shapes or addresses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from simulated_cuda import SimulatedCuda
from simulated_cuda_parts import Op, StickyError, Stream
from tiny_graph import CLASSES, SIZE, tiny_outputs, tiny_spec

from edge_vit.runtime.cudart import Cuda
from edge_vit.runtime.session import DEFAULT_OPTIONS, SessionOptions
from edge_vit.runtime.trt.listeners import Complaints
from edge_vit.runtime.trt.loaded import LoadedEngine
from edge_vit.runtime.trt.session import EngineFile, TrtSession
from edge_vit.spec import Precision

Shape = tuple[int, ...]


class SimulatedEngine:
    """Input ``images`` uint8 (batch, 8, 8, 3), output ``logits`` float32 (batch, 5).

    Args:
        cuda: where it runs.
        batches: smallest, usual and largest batch of its profile.
        batch: fixed batch; None for a dynamic one.
        compute: what it computes.
        nanoseconds: that an image takes.
    """

    def __init__(
        self,
        cuda: SimulatedCuda,
        batches: tuple[int, int, int] = (1, 1, 8),
        *,
        batch: int | None = None,
        compute: Callable[[np.ndarray], np.ndarray] = tiny_outputs,
        nanoseconds: int = 1_000_000,
        output_type: str = "FLOAT",
    ) -> None:
        self.cuda = cuda
        self.batches = (batch, batch, batch) if batch else batches
        self.compute = compute
        self.nanoseconds = nanoseconds
        self.num_io_tensors = 2
        self.num_contexts = 0
        self.enqueues = 0
        self.refuses_capture = False
        self.fails_at: int | None = None  # an enqueue that returns False
        self.dies_at: int | None = None  # an enqueue whose work kills the context
        self.shapes: dict[str, Shape] = {
            "images": (batch or -1, SIZE, SIZE, 3),
            "logits": (batch or -1, CLASSES),
        }
        self._types = {"images": "UINT8", "logits": output_type}

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name={"images": "INPUT", "logits": "OUTPUT"}[name])

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self._types[name])

    def get_tensor_shape(self, name: str) -> Shape:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        assert (name, profile) == ("images", 0)
        return [(batch, *self.shapes[name][1:]) for batch in self.batches]

    def create_execution_context(self) -> SimulatedContext | None:
        return SimulatedContext(self)


class SimulatedContext:
    """See the module."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine, self._cuda = engine, engine.cuda
        self._profile: int | None = None
        self._batch: int | None = engine.shapes["images"][0]
        self._addresses: dict[str, int] = {}
        self._has_run = False
        self._lock = threading.Lock()
        engine.num_contexts += 1

    def __del__(self) -> None:
        self._engine.num_contexts -= 1
        if self._cuda.is_pending(self):
            self._cuda.broken("dropped a context with work under way")

    @property
    def _is_dynamic(self) -> bool:
        return self._engine.shapes["images"][0] == -1

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        with self._alone():
            self._cuda.get(stream, Stream)
            if index != 0:
                return False
            self._profile, self._has_run = index, False
            if self._is_dynamic:
                self._batch = None
            self._cuda.enqueue(stream, Op("profile", lambda: None, owner=self))
            return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        with self._alone():
            if self._profile is None and self._is_dynamic:
                raise self._cuda.broken("set a shape before the profile")
            least, _, most = self._engine.batches
            if name != "images" or tuple(shape[1:]) != (SIZE, SIZE, 3):
                raise self._cuda.broken(f"{name} has no shape {shape}")
            if not least <= shape[0] <= most:
                return False
            self._has_run = self._has_run and shape[0] == self._batch
            self._batch = shape[0]
            return True

    def infer_shapes(self) -> list[str]:
        with self._alone():
            return [] if self._batch and self._batch > 0 else ["images"]

    def get_tensor_shape(self, name: str) -> Shape:
        with self._alone():
            return (self._batch or -1, *self._engine.shapes[name][1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        with self._alone():
            if name not in self._engine.shapes:
                return False
            self._has_run = self._has_run and self._addresses.get(name) == address
            self._addresses[name] = address
            return True

    def execute_async_v3(self, stream: int) -> bool:
        with self._alone():
            engine, cuda = self._engine, self._cuda
            engine.enqueues += 1
            if engine.enqueues == engine.fails_at:
                return False
            found = cuda.get(stream, Stream)
            if found.captured is not None:
                if engine.refuses_capture:
                    found.is_invalid = True
                    return False
                if not self._has_run:
                    raise cuda.broken("captured before an ordinary run of this shape and address")
            if cuda.is_pending(self, apart_from=stream):
                raise cuda.broken("a context has work in two streams")
            if (self._profile is None and self._is_dynamic) or not self._batch:
                raise cuda.broken("ran without a profile or a shape")
            if self._addresses.keys() != engine.shapes.keys():
                raise cuda.broken("ran without an address for every tensor")
            batch, addresses = self._batch, dict(self._addresses)
            dies = engine.enqueues == engine.dies_at
            cuda.submit(stream, lambda queue: self._enqueue(queue, batch, addresses, dies))
            self._has_run = True
            return True

    def _enqueue(self, stream: int, batch: int, addresses: dict[str, int], dies: bool) -> None:
        cuda = self._cuda
        if (batch, addresses) != (self._batch, self._addresses):
            raise cuda.broken("launched a graph of another shape or of other addresses")
        images = cuda.find(addresses["images"], batch * SIZE * SIZE * 3, "device")
        dtype = np.dtype({"FLOAT": "float32", "HALF": "float16"}[self._engine._types["logits"]])
        logits = cuda.find(addresses["logits"], batch * CLASSES * dtype.itemsize, "device")

        def run() -> None:
            if dies:
                raise StickyError(700)
            pixels = images.data.reshape(batch, SIZE, SIZE, 3)
            answer = self._engine.compute(pixels).astype(dtype)
            logits.data[:] = np.frombuffer(answer.tobytes(), np.uint8)

        time = batch * self._engine.nanoseconds
        cuda.enqueue(stream, Op("compute", run, [images], [logits], time, owner=self))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise self._cuda.broken("two threads use one context")
        try:
            with self._cuda._lock:
                yield
        finally:
            self._lock.release()


TRT = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT=SimpleNamespace(name="INPUT")))


def load_simulated(engine: SimulatedEngine) -> LoadedEngine:
    """Return `engine` behind the adapter that real ones have."""
    return LoadedEngine(TRT, None, None, engine, Complaints())


def open_simulated(
    cuda: SimulatedCuda | None = None,
    engine: SimulatedEngine | None = None,
    precision: Precision = "fp32",
    options: SessionOptions = DEFAULT_OPTIONS,
    kind: type[TrtSession] = TrtSession,
) -> TrtSession:
    """Return a session that runs a simulated engine on a simulated GPU."""
    cuda = cuda or (engine.cuda if engine else SimulatedCuda())
    file = EngineFile(load_simulated(engine or SimulatedEngine(cuda)), "tiny.engine")
    gpu = Cuda(cuda, options.device, options.wait)
    return kind(file, gpu, tiny_spec(), precision, options)
