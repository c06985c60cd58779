"""Trained models by address, such as ``timm:vit_small_patch16_224``: one file per scheme.

Each opener turns a `SourceRequest` into a `TorchSource` or an `OnnxSource` that knows its own
preprocessing.
"""

from edge_vit.export.sources.opening import open_source
from edge_vit.export.sources.request import SourceRequest, parse_model_args
from edge_vit.export.sources.values import OnnxSource, Source, TorchSource

__all__ = [
    "OnnxSource",
    "Source",
    "SourceRequest",
    "TorchSource",
    "open_source",
    "parse_model_args",
]
