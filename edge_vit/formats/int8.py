"""INT8: quantized linear layers, floating point around them."""

from __future__ import annotations

from edge_vit.formats import fp16
from edge_vit.formats.format import Look, NumberFormat, Variant

VNNI = "vnni"  # capability: products of uint8 and int8 added in 32 bits, which saturate elsewhere

_GOLDEN = "a run on the golden images"

FORMAT = NumberFormat(
    name="int8",
    title="INT8",
    help="INT8 linear layers, calibrated on images",
    order=200,
    bits=8,
    variants=(
        Variant(
            "tensorrt",
            "TensorRT: FP16 around it, symmetric",
            "onnx/int8.onnx",
            ("tensorrt", "ort-gpu"),
            proven_by="emulation of a GPU on the golden images",
        ),
        Variant(
            "ort-x64",
            "ONNX Runtime on x86 with VNNI",
            "onnx/int8.ort-x64.onnx",
            ("ort",),
            (VNNI,),
            proven_by=_GOLDEN,
        ),
        Variant(
            "cpu",
            "any CPU: float32 around it",
            "onnx/int8.cpu.onnx",
            ("ort", "openvino", "explain"),
            proven_by=_GOLDEN,
        ),
    ),
    self_test_limit=0.5,  # of bundles without a proof; a recipe that holds is off by 0.02 to 0.2
    look=Look("#a3189c", "#ea7be4", "magenta", "D"),
    granularity="activations per tensor, weights per output channel",
    around=fp16.FORMAT.name,
    needs_images=True,
    lower="edge_vit.lowering.variants:lower_int8",
    proof="int8.json",
    compute_capability=(6, 1),
    tensor_types=("INT8",),
    not_finite=f"To have its ranges hold what comes, {fp16.RECALIBRATE}",
)
