"""What a format predicts on a GPU, emulated on a CPU."""

from __future__ import annotations

import dataclasses
import importlib.util

from edge_vit.bundle import Bundle
from edge_vit.formats import find_format
from edge_vit.plugins import import_target
from edge_vit.runtime.backends import BACKENDS
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import Session, SessionOptions


def emulate_half(session: Session, bundle: Bundle, options: SessionOptions) -> Session:
    """Return a session that predicts as a GPU does, in place of `session`, which is then closed.

    Both runtimes of a CPU keep float32 between the nodes of such a graph: better predictions than a
    GPU's, and an overflow that stays hidden. On a GPU, or in a format that a CPU computes alike,
    `session` is returned as it is.
    """
    is_on_cpu = session.backend in BACKENDS and not session.is_on_gpu
    found = find_format(session.precision)
    if not found.emulate or not is_on_cpu:
        return session
    if not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        session.remark = (
            f"{found.title} keeps float32 between its nodes on a CPU: its answers here are better "
            "than a GPU's. To have those emulated run: pip install 'edge-vit[export]'"
        )
        return session
    from edge_vit.graph.exact import read_with_weights
    from edge_vit.graph.large import read_graph

    graph, _ = import_target(found.emulate)(read_graph(bundle, found.file))
    data, weights = read_with_weights(graph)
    name = f"{bundle.path / found.file}, emulated"
    options = dataclasses.replace(options, provider="cpu")
    emulated = OrtSession(data, found.name, options, name=name, weights=weights)
    emulated.backend, emulated.degraded = session.backend, session.degraded
    emulated.remark = (
        f"{found.title}'s answers are those of a GPU, emulated: the output of each node rounded to "
        "float16."
    )
    session.close()
    return emulated
