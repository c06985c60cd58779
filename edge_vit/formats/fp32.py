"""float32: the reference, in canonical form."""

from __future__ import annotations

from edge_vit.formats.format import REFERENCE, Look, NumberFormat, Variant

FORMAT = NumberFormat(
    name=REFERENCE,
    title="FP32",
    help="float32, the reference",
    order=0,
    bits=32,
    variants=(
        Variant("any", "every backend", "onnx/fp32.onnx", proven_by="parity with the source"),
    ),
    self_test_limit=0.01,  # on another machine it is off by 0.0001
    look=Look("#5d6b80", "#9dabc0", "cyan", "o"),
    tensor_types=("FLOAT", "FP32", "TF32"),
    not_finite="The model itself fails there: check its weights and the image",
)
