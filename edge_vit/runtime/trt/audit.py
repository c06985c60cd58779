"""In which precision an engine computes, against what its bundle asked for.

Two witnesses: the network as parsed (`audit_network`), before the build and on any machine, and the
layers of the built engine (`edge_vit.runtime.trt.inspector`), where a GPU can load it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_vit.bundle import TABLE, Bundle
from edge_vit.errors import GateFailed
from edge_vit.formats import (
    REFERENCE,
    all_formats,
    find_format,
    is_wider,
    names_of,
    sort_names,
)
from edge_vit.runtime.trt.network import NetworkLayer, TensorFacts
from edge_vit.spec import Precision

Witness = Literal["network", "engine"]

_PRODUCTS = frozenset({"MATRIX_MULTIPLY", "CONVOLUTION"})
_COMPUTING = _PRODUCTS | {
    "NORMALIZATION",
    "SOFTMAX",
    "ELEMENTWISE",
    "ACTIVATION",
    "UNARY",
    "REDUCE",
}
_TRANSPARENT = frozenset({"SHUFFLE", "IDENTITY"})
_INT8 = "INT8"  # TensorRT's word
_SHOWN = 3


@dataclass(frozen=True)
class Product:
    """One matrix product or convolution, where nearly all of the work is.

    Attributes:
        precision: that it computes in.
        macs: multiply-adds of a run: of one image, or of the graph's fixed batch.
    """

    precision: Precision
    macs: int


@dataclass(frozen=True)
class EngineAudit:
    """In which precision each part computes.

    Attributes:
        witness: what was looked at.
        layers: number of computing layers, by precision.
        products: by the name of the graph's node, such as ``block3/fc1``.
        num_reformats: layers that only change a tensor's type or order; None before the build.
        num_fused: blocks whose attention is one kernel; None before the build.
        num_blocks: of the model.
        num_named: products that the built engine's layers name; None before the build. Of the
            others the network speaks.
    """

    witness: Witness
    layers: Mapping[str, int]
    products: Mapping[str, Product]
    num_reformats: int | None = None
    num_fused: int | None = None
    num_blocks: int = 0
    num_named: int | None = None

    @property
    def macs(self) -> dict[Precision, int]:
        """Multiply-adds of a run, by precision."""
        sums: dict[Precision, int] = dict.fromkeys(names_of(all_formats()), 0)
        for product in self.products.values():
            sums[product.precision] = sums.get(product.precision, 0) + product.macs
        return sums

    def share(self, precision: Precision) -> float:
        """Return the share of the multiply-adds in `precision`, 0 to 1."""
        total = sum(self.macs.values())
        return self.macs.get(precision, 0) / total if total else 0.0


def audit_network(layers: Sequence[NetworkLayer]) -> EngineAudit:
    """Return what the parser made of a graph; for batch 1 where the batch is dynamic."""
    makers = {tensor.name: layer for layer in layers for tensor in layer.outputs}
    counts: dict[str, int] = dict.fromkeys(names_of(all_formats()), 0)
    products = {}
    for layer in layers:
        precision = _precision(layer, makers)
        if precision is None:
            continue
        counts[precision] += 1
        if layer.kind in _PRODUCTS:
            products[layer.name] = Product(precision, _macs(layer))
    return EngineAudit("network", counts, products, num_blocks=count_blocks(products))


def count_blocks(names: Mapping[str, object]) -> int:
    """Return how many blocks the nodes of `names` belong to, by what stands before the slash."""
    return len({name.partition("/")[0] for name in names if name.startswith("block")})


@dataclass(frozen=True)
class Asked:
    """What a bundle asks of its graph of one precision.

    Attributes:
        precision: of all but the exceptions.
        exceptions: by node, what a wider one is asked for.
        quantized: the layers that are asked for in it, where it is a quantized format; the others
            are asked for in the format around them.
    """

    precision: Precision
    exceptions: Mapping[str, Precision]
    quantized: frozenset[str]

    def of(self, node: str) -> Precision:
        """Return what the product of `node` should compute in, at the widest."""
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
    """Refuse an engine that computes in a wider precision than its bundle asked for.

    Args:
        audit: of the engine, or of the network that it is built from.
        asked: by the bundle.
        name: of the engine, for the message.

    Raises:
        GateFailed: a product is wider than asked, or INT8 is nowhere; the message names them.
    """
    wider = list(_wider(audit, asked))
    missing = sorted(asked.quantized - audit.products.keys())
    if audit.witness == "network":
        wider += [f"{site} is not there" for site in missing]
    if wider:
        more = f" and {len(wider) - _SHOWN} more" if len(wider) > _SHOWN else ""
        raise GateFailed(
            f"{name} is not what the bundle asked for: {', '.join(wider[:_SHOWN])}{more}. "
            "Please report this with the output of: edgevit doctor --json"
        )


def _wider(audit: EngineAudit, asked: Asked) -> Iterator[str]:
    for node, product in audit.products.items():
        wanted = asked.of(node)
        if is_wider(product.precision, wanted):
            yield f"{node} computes in {product.precision}, asked was {wanted}"


def _precision(layer: NetworkLayer, makers: Mapping[str, NetworkLayer]) -> Precision | None:
    """What `layer` computes in; None where it computes no numbers that count."""
    if layer.kind not in _COMPUTING:
        return None
    if layer.kind == "MATRIX_MULTIPLY" and all(_is_int8(x, makers) for x in layer.inputs[:2]):
        return _of_type(_INT8)
    kinds = [_of_type(tensor.dtype) for tensor in (*layer.inputs[:1], *layer.outputs[:1])]
    known = sort_names(kind for kind in kinds if kind)
    return known[0] if known and None not in kinds else None


def _of_type(tensor_type: str) -> Precision | None:
    """Return the format of numbers that TensorRT calls `tensor_type`."""
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
        num_filters = output[1]
        return math.prod(abs(size) for size in first) * num_filters
    if len(first) < 2 or len(output) < 2:
        return num_outputs * abs(first[-1])
    depth = first[-1] if first[-2] == output[-2] else first[-2]  # transposed
    return num_outputs * abs(depth)
