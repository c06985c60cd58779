"""An exported model as files of a bundle."""

from __future__ import annotations

import io

from PIL import Image

from edge_vit.bundle import GOLDEN, RECORD, Bundle, Golden
from edge_vit.export.export import Exported
from edge_vit.optional import installed_versions

_TOOLS = {
    "onnx": (),
    "timm": ("torch", "onnxscript", "timm"),
    "torchvision": ("torch", "onnxscript", "torchvision"),
    "hf": ("torch", "onnxscript", "transformers"),
}
"""Scheme of the source -> what makes its graph, where that is more or less than torch alone."""

_MAX_GOLDEN_PIXELS = 2_000_000  # larger ones are kept as the model sees them, not as decoded


def write_export(bundle: Bundle, exported: Exported) -> Bundle:
    """Add the reference graph, its record and the golden images to `bundle`; return it."""
    golden = Golden(exported.images, exported.outputs, exported.further)
    scheme = exported.spec.source.partition(":")[0]
    used = ("onnx", "onnx-ir", "onnxruntime", *_TOOLS.get(scheme, ("torch", "onnxscript")))
    bundle = bundle.add({bundle.graph(): exported.fp32}, made_by=installed_versions(*used))
    files = {GOLDEN: golden.to_bytes(), RECORD: exported.record.to_bytes()}
    for index, pixels in enumerate(exported.decoded):
        if pixels.shape[0] * pixels.shape[1] <= _MAX_GOLDEN_PIXELS:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            files[f"golden/{index}.png"] = buffer.getvalue()
    made_by = installed_versions("onnxruntime", "pillow")
    return bundle.add(files, parents=(bundle.graph(),), made_by=made_by)
