"""What the engine inspector says of a small ViT, in the forms that are documented.

TensorRT 10 as the engine explorer's sample files and its users' reports have it; TensorRT 11 as the
migration guide has it: ``Bindings`` became ``I/O Tensors``, and ``Format/Datatype`` two fields.
"""

from __future__ import annotations

import json
from typing import Any

ROLES = ("qkv", "proj", "fc1", "fc2")
WORDS = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}
LINEAR = {
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
    "fp16": "Row major linear FP16 format",
    "fp32": "Row major linear FP32",
}


def tensor(name: str, precision: str, major: int, *, long: bool = False) -> dict[str, Any]:
    facts: dict[str, Any] = {"Name": name, "Location": "Device", "Dimensions": [1, 17, 32]}
    if major >= 11:
        return facts | {"Format": LINEAR[precision], "DataType": WORDS[precision]}
    return facts | {"Format/Datatype": LINEAR[precision] if long else WORDS[precision]}


def layer(
    name: str,
    kind: str,
    reads: list[str],
    writes: list[str],
    *nodes: str,
    major: int = 10,
    tactic: str = "",
    long: bool = False,
) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(f"in{i}", p, major, long=long) for i, p in enumerate(reads)],
        "Outputs": [tensor(f"out{i}", p, major, long=long) for i, p in enumerate(writes)],
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def vit_layers(
    major: int, *, linear: str = "int8", blocks: int = 2, is_fused: bool = True, long: bool = False
) -> list[dict[str, Any]]:
    """Return the layers of an engine whose linear layers compute in `linear`."""

    def make(*args, **options):
        return layer(*args, major=major, long=long, **options)

    layers = [
        make("Reformatting CopyNode for Input Tensor 0", "Reformat", ["fp16"], ["fp16"]),
        make("embed/Conv", "CaskConvolution", ["fp16"], ["fp16"], "embed/Conv"),
    ]
    for index in range(blocks):
        block = f"block{index}"
        norm = (f"{block}/LayerNormalization", f"{block}/qkv/quantize")
        layers.append(make(f"__myl_CastMeaSub_{index}", "kgen", ["fp16"], [linear], *norm))
        for role in ROLES:
            site = f"{block}/{role}"
            reads, writes = [linear, linear, "fp16"], ["fp16"]
            layers.append(make(f"{site}_myl0_{index}", "gemm", reads, writes, site))
        products = [f"{block}/scores", f"{block}/Softmax", f"{block}/context"]
        if is_fused:
            name = f"_gemm_mha_v2_myl0_{index}"
            layers.append(make(name, "kgen", ["fp16"] * 3, ["fp16"], *products))
        else:
            for node, kind in zip(products, ("gemm", "kgen", "gemm"), strict=True):
                layers.append(make(node, kind, ["fp16"] * 2, ["fp16"], node))
    return [*layers, make("head", "gemm", ["fp16"] * 2, ["fp16"], "head")]


def inspected(major: int, layers: list[Any]) -> str:
    """Return the inspector's JSON of `layers`."""
    if major >= 11:
        facts = {"Name": "images", "IOMode": "Input", "DataType": "Uint8"}
        return json.dumps({"Layers": layers, "I/O Tensors": [facts]})
    return json.dumps({"Layers": layers, "Bindings": ["images", "logits"]})
