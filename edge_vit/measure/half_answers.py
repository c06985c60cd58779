"""What FP16 answers on a GPU, found out on a CPU."""

from __future__ import annotations

import dataclasses
import importlib.util

from edge_vit.bundle import FP16, Bundle
from edge_vit.runtime.backends import BACKENDS
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import Session, SessionOptions

_PACKAGES = ("onnx", "onnxruntime")
_KEEPS_FLOAT32 = (
    "FP16 keeps float32 between its nodes on a CPU: its answers here are better than a GPU's. "
    "To have those emulated run: pip install 'edge-vit[export]'"
)
_IS_EMULATED = (
    "FP16's answers are those of a GPU, emulated: the output of each node rounded to float16."
)


def emulate_half(session: Session, bundle: Bundle, options: SessionOptions) -> Session:
    """Return what answers as FP16 does on a GPU, in place of `session`, which is then closed.

    Both runtimes of a CPU keep float32 between the nodes of such a graph: better answers than a
    GPU's, and an overflow that stays hidden. The `remark` of what is returned says what its answers
    are; its time says nothing.

    Args:
        session: of `bundle`. On a GPU, or in another precision, it is returned as it is.
        bundle: holds the graph.
        options: threads.
    """
    is_on_cpu = session.backend in BACKENDS and not session.is_on_gpu
    if session.precision != "fp16" or not is_on_cpu:
        return session
    if not all(map(importlib.util.find_spec, _PACKAGES)):
        session.remark = _KEEPS_FLOAT32
        return session
    import onnx

    from edge_vit.graph.half_rounding import round_as_half

    graph, _ = round_as_half(onnx.load_from_string(bundle.read(FP16)))
    name = f"{bundle.path / FP16}, emulated"
    options = dataclasses.replace(options, provider="cpu")
    emulated = OrtSession(graph.SerializeToString(), "fp16", options, name=name)
    emulated.backend, emulated.degraded = session.backend, session.degraded
    emulated.remark = _IS_EMULATED
    session.close()
    return emulated
