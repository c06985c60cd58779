"""The precisions that an engine computes in, against what its bundle asked for.

Two witnesses: the network as parsed (`audit_network`), before the build and on any machine, and the
layers of the built engine (`audit_engine`), where a GPU can load it. TensorRT 10's inspector writes
``"Bindings"`` and one field ``"Format/Datatype"`` per tensor; TensorRT 11 writes ``"I/O Tensors"``
and has split that field. Both forms are from published samples.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_vit.bundle import TABLE, Bundle
from edge_vit.errors import BackendError, GateFailed
from edge_vit.formats import REFERENCE, all_formats, find_format, is_wider, names_of, sort_names
from edge_vit.runtime.trt.network import NetworkLayer, TensorFacts
from edge_vit.spec import Precision

_PRODUCTS = frozenset({"MATRIX_MULTIPLY", "CONVOLUTION"})
_COMPUTING = _PRODUCTS | {
    *("NORMALIZATION", "SOFTMAX", "ELEMENTWISE", "ACTIVATION", "UNARY", "REDUCE")
}
_TRANSPARENT = frozenset({"SHUFFLE", "IDENTITY"})
_INT8 = "INT8"  # TensorRT's word
_SHOWN = 3

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_BLOCK = re.compile(r"\bblock\d+(?=/)")
_MOVES = re.compile(r"reformat|constant|shuffle|noop|memcpy", re.IGNORECASE)
_FUSED_ATTENTION = re.compile(r"mha|fmha|flash|fused_attention", re.IGNORECASE)
_TYPE_FIELDS = ("format/datatype", "datatype", "format")


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution."""

    precision: Precision
    macs: int  # multiply-adds in a run of one image; of a graph with a fixed batch, of that


@dataclass(frozen=True)
class EngineAudit:
    """The precision of each part; numbers that are None are not known before a build."""

    witness: Literal["network", "engine"]
    layers: Mapping[str, int]  # computing layers by precision
    products: Mapping[str, Product]  # named like the graph's nodes, such as ``block3/fc1``
    num_reformats: int | None = None  # layers that only change a tensor's type or order
    num_fused: int | None = None  # blocks whose attention is one kernel
    num_blocks: int = 0
    num_named: int | None = None  # products that the engine's layers name; else the network's

    @property
    def macs(self) -> dict[Precision, int]:
        """Multiply-adds of a run, by precision."""
        sums = _no_counts()
        for product in self.products.values():
            sums[product.precision] = sums.get(product.precision, 0) + product.macs
        return sums

    def share(self, precision: Precision) -> float:
        """Return the share of the multiply-adds in `precision`, 0 to 1."""
        total = sum(self.macs.values())
        return self.macs.get(precision, 0) / total if total else 0.0


def audit_network(layers: Sequence[NetworkLayer]) -> EngineAudit:
    """Return the audit of a parsed graph; for batch 1 where the batch is dynamic."""
    makers = {tensor.name: layer for layer in layers for tensor in layer.outputs}
    counts, products = _no_counts(), {}
    for layer in layers:
        precision = _precision(layer, makers)
        if precision is None:
            continue
        counts[precision] += 1
        if layer.kind in _PRODUCTS:
            products[layer.name] = Product(precision, _macs(layer))
    blocks = {name.partition("/")[0] for name in products if name.startswith("block")}
    return EngineAudit("network", counts, products, num_blocks=len(blocks))


def audit_engine(text: str, network: EngineAudit) -> EngineAudit:
    """Return the audit of an engine by the inspector's JSON `text` of all layers.

    The audit of its `network` gives the products and their work, and speaks for those that no layer
    names, as types are strong. JSON without layers is a BackendError.
    """
    counts, products = _no_counts(), {}
    fused: set[str] = set()
    num_reformats = num_nameless = 0
    for layer in _inspected_layers(text):
        name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", ""))
        num_reformats += "reformat" in kind.lower()
        found = _ONNX_LAYER.findall(str(layer.get("Metadata", "")))
        all_nodes = found or [part.strip() for part in name.split(" + ")]
        nodes = [node for node in all_nodes if node in network.products]
        inputs = list(_inspected_types(layer.get("Inputs", ())))
        types = [*inputs, *_inspected_types(layer.get("Outputs", ()))]
        if not types or _MOVES.search(kind):
            continue
        # A product computes in what its first input is: weights alone in INT8 would not count, nor
        # does a Quantize at its end. Anything else computes in the widest that it touches.
        precision = inputs[0] if nodes and inputs else sort_names(types)[0]
        counts[precision] += 1
        for node in nodes:
            products[node] = Product(precision, network.products[node].macs)
        if any(map(_FUSED_ATTENTION.search, (name, str(layer.get("TacticName", ""))))):
            blocks = {block[0] for node in all_nodes if (block := _BLOCK.match(node))}
            fused |= blocks
            num_nameless += not blocks
    return EngineAudit(
        witness="engine",
        layers=counts,
        products={**network.products, **products},
        num_reformats=num_reformats,
        num_fused=len(fused) + num_nameless,
        num_blocks=network.num_blocks,
        num_named=len(products),
    )


@dataclass(frozen=True)
class Asked:
    """The precisions that a bundle asks for in one of its graphs."""

    precision: Precision
    exceptions: Mapping[str, Precision]  # nodes that are asked for in a wider one
    quantized: frozenset[str]  # layers; the others are asked for in the format around

    def of(self, node: str) -> Precision:
        """Return the widest precision that the product of `node` should compute in."""
        if node in self.exceptions:
            return self.exceptions[node]
        around = find_format(self.precision).around
        return around if around and node not in self.quantized else self.precision


def what_was_asked(bundle: Bundle, precision: Precision) -> Asked:
    """Return what the calibration table of `bundle` asks of the `precision` graph.

    A graph without a table, such as FP16 alone, is asked for its precision everywhere.
    """
    found = find_format(precision)
    if found.is_reference or not bundle.has(TABLE):
        return Asked(precision, {}, frozenset())
    table = bundle.read_table()
    nodes = table.int8_fp32_nodes if found.is_quantized else table.fp32_nodes
    layers = table.sites.items() if found.is_quantized else ()
    quantized = frozenset(name for name, scales in layers if scales.is_quantized)
    return Asked(precision, dict.fromkeys(nodes, REFERENCE), quantized)


def check_audit(audit: EngineAudit, asked: Asked, name: str) -> None:
    """Refuse, by GateFailed, an engine that computes in a wider precision than was asked for."""
    wider = [
        f"{node} computes in {product.precision}, asked was {asked.of(node)}"
        for node, product in audit.products.items()
        if is_wider(product.precision, asked.of(node))
    ]
    if audit.witness == "network":
        missing = sorted(asked.quantized - audit.products.keys())
        wider += [f"{layer} is not there" for layer in missing]
    if wider:
        more = f" and {len(wider) - _SHOWN} more" if len(wider) > _SHOWN else ""
        raise GateFailed(
            f"{name} is not what the bundle asked for: {', '.join(wider[:_SHOWN])}{more}. "
            "Please report this with the output of: edgevit doctor --json"
        )


def _no_counts() -> dict[Precision, int]:
    return dict.fromkeys(names_of(all_formats()), 0)


def _precision(layer: NetworkLayer, makers: Mapping[str, NetworkLayer]) -> Precision | None:
    """The precision of `layer`; None where it computes no numbers that count."""
    if layer.kind not in _COMPUTING:
        return None
    if layer.kind == "MATRIX_MULTIPLY" and all(_is_int8(x, makers) for x in layer.inputs[:2]):
        return _of_type(_INT8)
    kinds = [_of_type(tensor.dtype) for tensor in (*layer.inputs[:1], *layer.outputs[:1])]
    known = sort_names(kind for kind in kinds if kind)
    return known[0] if known and None not in kinds else None


def _of_type(tensor_type: str) -> Precision | None:
    return next((f.name for f in all_formats() if tensor_type in f.tensor_types), None)


def _is_int8(tensor: TensorFacts, makers: Mapping[str, NetworkLayer]) -> bool:
    """Whether `tensor` is made of INT8 numbers by a DequantizeLinear, shapes aside."""
    maker = makers.get(tensor.name)
    while maker is not None and maker.kind in _TRANSPARENT:
        maker = makers.get(maker.inputs[0].name)
    return maker is not None and maker.kind == "DEQUANTIZE" and maker.inputs[0].dtype == _INT8


def _macs(layer: NetworkLayer) -> int:
    """Multiply-adds of a product: the outputs, times what each sums over; dynamic sizes are 1."""
    output, first = layer.outputs[0].shape, layer.inputs[0].shape
    if not output or not first:
        return 0
    num_outputs = math.prod(abs(size) for size in output)
    if layer.kind == "CONVOLUTION":
        # A ViT's patches do not overlap, so that each number of the image is used once per filter.
        return math.prod(abs(size) for size in first) * output[1]
    if len(first) < 2 or len(output) < 2:
        return num_outputs * abs(first[-1])
    depth = first[-1] if first[-2] == output[-2] else first[-2]  # transposed
    return num_outputs * abs(depth)


def _inspected_layers(text: str) -> list[Mapping[str, Any]]:
    try:
        layers: list[Mapping[str, Any]] = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise BackendError("the engine inspector's JSON has no layers: an unknown form") from None
    if any(not isinstance(layer, dict) for layer in layers):
        raise BackendError(
            "the engine inspector gives names alone: the engine was built without details. "
            "Build it again with: edgevit build"
        )
    return layers


def _inspected_types(tensors: Any) -> Iterator[Precision]:
    """The precision of each of `tensors` that has one."""
    for tensor in tensors:
        if not isinstance(tensor, dict):
            continue
        words = " ".join(str(tensor[key]) for key in tensor if key.lower() in _TYPE_FIELDS)
        # With both fields, a format such as "Row major linear FP32 format" repeats the type.
        tokens = set(re.findall(r"[A-Z0-9]+", words.upper()))
        narrow_first = reversed(all_formats())
        found = next((f for f in narrow_first if not tokens.isdisjoint(f.tensor_types)), None)
        if found is not None:
            yield found.name
