"""A backend: ONNX Runtime under another name."""

from __future__ import annotations

from edge_vit.runtime.backends import Backend

BACKEND = Backend("edge_vit_toy.backend", "onnxruntime", "a toy: ONNX Runtime by another name")


def open_backend(bundle, precision, options, progress):
    """Return the session of ONNX Runtime, which calls itself ``toyrun``."""
    from edge_vit.runtime.ort import open_backend as open_ort

    session = open_ort(bundle, precision, options, progress)
    session.backend = "toyrun"
    return session
