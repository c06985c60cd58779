"""OpenVINO on the CPU: the fastest way on x86; the only file that imports it."""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.bundle import WEIGHTS, Bundle
from edge_vit.formats import find_format
from edge_vit.optional import require
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.cpu import has_vnni
from edge_vit.runtime.options import DEFAULT_OPTIONS, SessionOptions
from edge_vit.runtime.self_test import expected_deviations
from edge_vit.runtime.session import Array, Failures, Session, run_images
from edge_vit.spec import Precision, TensorSpec
from edge_vit.tasks import task_of

# Processors with AMX or AVX512-BF16 compute in bfloat16 by default: 8 bits of mantissa, and
# a reference that is none. Around INT8 it takes a third off the time, for an error near that of
# INT8 itself on most models: the golden images tell which. docs/cpu.md has the figures.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
# Without VNNI the INT8 kernels of x86 saturate in 16 bits. Left as Q/DQ in float32 they are exact.
_NO_INT8_KERNELS = {"LP_TRANSFORMS_MODE": "NO"}
_BFLOAT16_LIMIT, _BFLOAT16_MARGIN = 0.02, 2.0
"""What bfloat16 around INT8 may deviate, and how many times as far as INT8 did when written."""
_LOG = logging.getLogger(__name__)
_FAILURES = Failures(
    "OpenVINO",
    noise=re.compile(r"Exception from \S+:\d+:\s*"),
    no_memory=re.compile("bad_alloc"),
    advice="Export it again, or use --backend ort",
)


def open_backend(
    bundle: Bundle, precision: Precision, options: SessionOptions, progress: Progress = SILENT
) -> OpenVinoSession:
    """Return a session that runs the portable `precision` graph of `bundle`."""
    file = bundle.graph(precision, "openvino")
    model: bytes | Path = bundle.read(file)
    if weights := bundle.find_weights(file):  # it looks for them beside the graph
        model = weights.with_name(weights.name.removesuffix(WEIGHTS))
    name = str(bundle.path / file)
    session = OpenVinoSession(model, precision, options, name=name)
    session.doubt_several = functools.partial(_doubt_bfloat16, bundle=bundle)
    if session.is_in_bfloat16 and (doubt := _doubt_bfloat16(session, bundle, 1, progress)):
        session.close()
        session = OpenVinoSession(model, precision, options, name=name, is_exact=True)
        title = find_format(precision).title
        session.remark = f"OpenVINO computes what is not {title} in float32: {doubt}."
    return session


def _doubt_bfloat16(
    session: Session, bundle: Bundle, batch: int = 0, progress: Progress = SILENT
) -> str:
    """Return why a quantized `session` is not to compute in bfloat16 on this processor, or ``""``.

    `batch` golden images are run at a time, or all together: other kernels run for one alone, which
    is what a camera brings.
    """
    expected = expected_deviations(bundle, session.precision)
    if not expected:
        return "the bundle does not hold how far INT8 is off on golden images. Export it again"
    images, spec = bundle.read_golden().images, bundle.spec
    batch = batch or len(images)
    with progress.step("testing bfloat16", len(images)) as advance:
        runs = []
        for index in range(0, len(images), batch):
            runs.append(run_images(session, images[index : index + batch]))
            advance(batch)
    outputs = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
    if not all(np.isfinite(output).all() for output in outputs.values()):
        return "in bfloat16, which this processor would take, a golden image gives NaN or infinity"
    found = task_of(spec).deviations(spec, bundle.read_golden().named(spec), outputs)
    limits = [max(_BFLOAT16_LIMIT, _BFLOAT16_MARGIN * each) for each in expected]
    error, limit = max(zip(found, limits, strict=True), key=lambda pair: pair[0] / pair[1])
    if error <= limit:
        return ""
    return (
        "in bfloat16, which this processor would take, a golden image is off by "
        f"{error:.2g} of the spread of the fp32 outputs, {limit:.2g} is allowed"
    )


class OpenVinoSession(Session):
    """An ONNX graph, in memory or at a path, run by OpenVINO on the CPU.

    A graph whose batch is dynamic is compiled twice: for a single image, which is what a camera
    brings and a tenth faster with its shape fixed, and for any number when that is first needed.
    Runs at the same time have a request each, and take turns on the same threads. The rest of a
    quantized graph is computed in bfloat16 where the processor has it, unless `is_exact`, or where
    `doubt_several` returns a reason against it for several images; others in float32, FP16 too.
    """

    backend = "openvino"
    doubt_several: Callable[[Session], str] = staticmethod(lambda session: "")

    def __init__(
        self,
        model: bytes | Path,
        precision: Precision,
        options: SessionOptions = DEFAULT_OPTIONS,
        *,
        name: str = "the graph",
        is_exact: bool = False,
    ) -> None:
        openvino = require("openvino", "running with OpenVINO")
        self._name, self._version = name, f"OpenVINO {openvino.__version__.partition('-')[0]}"
        self._properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.num_threads,
            **(_EXACT if is_exact or not find_format(precision).is_quantized else {}),
            **({} if has_vnni() else _NO_INT8_KERNELS),
        }
        self._lock = threading.RLock()
        self._several: _Compiled | None = None
        try:
            self._core = _shared_core()
            self._graph: Any = self._core.read_model(model)
            inputs = tuple(map(_tensor_spec, self._graph.inputs))
            outputs = tuple(map(_tensor_spec, self._graph.outputs))
            self._is_dynamic = inputs[0].shape[0] == "batch"
            self._single = self._compile_single()
        except Exception as error:
            raise _FAILURES.loading(error, name, self._version) from error
        around = str(self._single.model.get_property("INFERENCE_PRECISION_HINT").to_string())
        self.is_in_bfloat16 = find_format(precision).is_quantized and around == "bf16"
        if self.is_in_bfloat16:
            title = find_format(precision).title
            self.remark = f"OpenVINO computes what is not {title} in bfloat16 on this processor."
        super().__init__(
            precision=precision, inputs=inputs, outputs=outputs, threads=options.num_threads
        )

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        compiled = self._compiled_for(len(feeds[self.inputs[0].name]))
        with self._lock:
            idle = compiled.idle
            request = idle.pop() if idle else compiled.model.create_infer_request()
        try:
            outputs = request.infer(feeds, share_inputs=True, share_outputs=False)
        except Exception as error:
            raise _FAILURES.running(error, self._name, feeds) from error
        with self._lock:
            compiled.idle.append(request)
        return {spec.name: outputs[index] for index, spec in enumerate(self.outputs)}

    def _close(self) -> None:
        del self._single, self._several, self._graph

    def _compiled_for(self, batch: int) -> _Compiled:
        if batch == 1:
            return self._single
        with self._lock:
            if self._several is None:
                try:
                    self._several = self._compile()
                    doubt = self.doubt_several(self) if self.is_in_bfloat16 else ""
                    if doubt:
                        self._properties |= _EXACT
                        self._several = self._compile()
                        self.remark += f" It takes float32 for several images at once: {doubt}."
                except Exception as error:
                    raise _FAILURES.loading(error, self._name, self._version) from error
            return self._several

    def _compile_single(self) -> _Compiled:
        """Compile the graph for one image; for any number where OpenVINO cannot do it for one.

        Its passes on INT8 take a mean over frames, as TimeSformer has it, for a reshape that fails.
        """
        if self._is_dynamic:
            try:
                return self._compile(_fix_batch(self._graph))
            except RuntimeError:
                _LOG.debug("%s: not compiled for a batch of one", self._name, exc_info=True)
        self._several = self._compile()
        return self._several

    def _compile(self, graph: Any = None) -> _Compiled:
        return _Compiled(
            self._core.compile_model(graph or self._graph, "CPU", self._properties), []
        )


_CORE_LOCK = threading.Lock()


def _shared_core() -> Any:
    """Return the one `openvino.Core` of this process, which is never let go of.

    OpenVINO's CPU plugin lays a stack for signals with each core, for the large registers of AMX,
    and puts back what it found when the core goes. Where the lives of two cores overlap, that is
    the stack of one that went before: the next signal, Ctrl-C among them, would end the process.
    """
    with _CORE_LOCK:
        return _create_core()


@functools.cache
def _create_core() -> Any:
    return require("openvino", "running with OpenVINO").Core()


@dataclass(frozen=True)
class _Compiled:
    """A graph compiled for some shapes, and idle requests of it."""

    model: Any
    idle: list[Any]


def _fix_batch(graph: Any) -> Any:
    single = graph.clone()
    single.reshape({port.get_any_name(): [1, *port.partial_shape[1:]] for port in single.inputs})
    return single


def _tensor_spec(port: Any) -> TensorSpec:
    """The spec of a tensor of the graph; OpenVINO forgets the name of its dynamic axis."""
    shape = tuple(
        (size.get_length() if size.is_static else "batch" if axis == 0 else "?")
        for axis, size in enumerate(port.partial_shape)
    )
    return TensorSpec(port.get_any_name(), port.element_type.to_dtype().name, shape)
