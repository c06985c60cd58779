"""float16: strongly typed, what would overflow kept in float32."""

from __future__ import annotations

from edge_vit.formats.format import Look, NumberFormat, Variant

RECALIBRATE = (
    "calibrate on images that have such ones among them: edgevit calibrate BUNDLE --calib DIR, "
    "then edgevit quantize BUNDLE"
)

FORMAT = NumberFormat(
    name="fp16",
    title="FP16",
    help="float16, what would overflow in float32",
    order=100,
    bits=16,
    variants=(
        Variant(
            "any",
            "every backend",
            "onnx/fp16.onnx",
            proven_by="emulation of a GPU on the golden images",
        ),
    ),
    self_test_limit=0.1,  # on a GPU it is off by 0.005
    look=Look("#1f5fd6", "#6ea8ff", "blue", "s"),
    lower="edge_vit.lowering.variants:lower_fp16",
    emulate="edge_vit.graph.expose:round_as_half",
    proof="fp16.json",
    compute_capability=(5, 3),
    tensor_types=("HALF", "FP16"),
    not_finite=f"A value passes 65,504, where float16 ends. To have it in float32, {RECALIBRATE}",
)
