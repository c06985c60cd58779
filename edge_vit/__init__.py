"""edge-vit: a trained Vision Transformer, small and fast on a device, its answers still right.

Each public name is loaded when it is first used, so importing this package costs next to nothing,
and a device that only runs models never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_vit.api import calibrate as calibrate
    from edge_vit.api import export_bundle as export_bundle
    from edge_vit.api import quantize as quantize
    from edge_vit.bundle import Bundle as Bundle
    from edge_vit.data.images import ArraySource as ArraySource
    from edge_vit.data.images import FolderSource as FolderSource
    from edge_vit.data.images import ImageItem as ImageItem
    from edge_vit.errors import EdgeVitError as EdgeVitError
    from edge_vit.export.sources import SourceRequest as SourceRequest
    from edge_vit.measure.accuracy import evaluate as evaluate
    from edge_vit.measure.bench import benchmark as benchmark
    from edge_vit.measure.latency import measure_latency as measure_latency
    from edge_vit.measure.limits import Limits as Limits
    from edge_vit.measure.verify import verify as verify
    from edge_vit.runtime import Predictor as Predictor
    from edge_vit.runtime import Session as Session
    from edge_vit.runtime import SessionOptions as SessionOptions
    from edge_vit.runtime import open_session as open_session
    from edge_vit.runtime.trt.engines import build_engine as build_engine
    from edge_vit.runtime.trt.identity import EngineOptions as EngineOptions
    from edge_vit.spec import ModelSpec as ModelSpec
    from edge_vit.spec import PreprocessSpec as PreprocessSpec
    from edge_vit.spec.table import Recipe as Recipe

    __version__: str

_HOMES = {
    name: module
    for module, names in {
        "edge_vit.api": "export_bundle calibrate quantize",
        "edge_vit.bundle": "Bundle",
        "edge_vit.data.images": "ArraySource FolderSource ImageItem",
        "edge_vit.errors": "EdgeVitError",
        "edge_vit.export.sources": "SourceRequest",
        "edge_vit.measure.accuracy": "evaluate",
        "edge_vit.measure.bench": "benchmark",
        "edge_vit.measure.latency": "measure_latency",
        "edge_vit.measure.limits": "Limits",
        "edge_vit.measure.verify": "verify",
        "edge_vit.runtime": "open_session Session SessionOptions Predictor",
        "edge_vit.runtime.trt.engines": "build_engine",
        "edge_vit.runtime.trt.identity": "EngineOptions",
        "edge_vit.spec": "ModelSpec PreprocessSpec",
        "edge_vit.spec.table": "Recipe",
    }.items()
    for name in names.split()
}
"""Public name -> the module that it is loaded from."""

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from edge_vit.optional import installed_versions

        value: object = installed_versions()["edge-vit"]
    elif name in _HOMES:
        import importlib

        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'edge_vit' has no attribute {name!r}")
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
