"""Reads TensorRT's engine inspector: the layers that a build came to, in either form of its JSON.

TensorRT 10 writes ``"Bindings"`` and one field ``"Format/Datatype"`` per tensor; TensorRT 11 writes
``"I/O Tensors"`` and has split that field. Both forms are from published samples; no GPU has shown
this project a real one yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_vit.errors import BackendError
from edge_vit.formats import all_formats, names_of, sort_names
from edge_vit.runtime.trt.audit import EngineAudit, Product
from edge_vit.spec import Precision

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_BLOCK = re.compile(r"\bblock\d+(?=/)")
_MOVES = re.compile(r"reformat|constant|shuffle|noop|memcpy", re.IGNORECASE)
_FUSED_ATTENTION = re.compile(r"mha|fmha|flash|fused_attention", re.IGNORECASE)


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: as TensorRT calls it; of a fused layer something made up.
        kind: in TensorRT's words, such as ``gemm`` or ``Reformat``.
        tactic: the kernel, where it is named.
        nodes: of the ONNX graph that went into it.
        inputs: the precision of each input that has one.
        outputs: of each output.
    """

    name: str
    kind: str
    tactic: str
    nodes: tuple[str, ...]
    inputs: tuple[Precision, ...]
    outputs: tuple[Precision, ...]

    @property
    def moves_only(self) -> bool:
        """Whether it computes nothing."""
        return bool(_MOVES.search(self.kind))

    @property
    def widest(self) -> Precision | None:
        """The widest of all that it reads and writes; None where no type is given."""
        return next(iter(sort_names((*self.inputs, *self.outputs))), None)

    @property
    def is_attention(self) -> bool:
        """Whether it is a whole attention in one kernel."""
        return bool(_FUSED_ATTENTION.search(self.name) or _FUSED_ATTENTION.search(self.tactic))


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers in the inspector's JSON `text`.

    Raises:
        BackendError: it is no such JSON, or the engine was built without details.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise BackendError("the engine inspector's JSON has no layers: an unknown form") from None
    if any(not isinstance(layer, dict) for layer in layers):
        raise BackendError(
            "the engine inspector gives names alone: the engine was built without details. "
            "Build it again with: edgevit build"
        )
    return tuple(map(_layer, layers))


def audit_engine(text: str, network: EngineAudit) -> EngineAudit:
    """Return what the inspector's JSON `text` says of an engine.

    Args:
        text: of all layers.
        network: the audit of the network it was built from: which products there are, and their
            work. It speaks for those that no layer names, as types are strong.
    """
    layers = read_layers(text)
    counts: dict[str, int] = dict.fromkeys(names_of(all_formats()), 0)
    products: dict[str, Product] = {}
    fused: set[str] = set()
    num_nameless = 0
    for layer in layers:
        nodes = [node for node in layer.nodes if node in network.products]
        # A product computes in what its first input is: weights alone in INT8 would not count, nor
        # does a Quantize at its end. Anything else computes in the widest that it touches.
        precision = layer.inputs[0] if nodes and layer.inputs else layer.widest
        if precision is None or layer.moves_only:
            continue
        counts[precision] += 1
        for node in nodes:
            products[node] = Product(precision, network.products[node].macs)
        if layer.is_attention:
            blocks = {found[0] for node in layer.nodes if (found := _BLOCK.match(node))}
            fused |= blocks
            num_nameless += not blocks
    return EngineAudit(
        witness="engine",
        layers=counts,
        products={**network.products, **products},
        num_reformats=sum("reformat" in layer.kind.lower() for layer in layers),
        num_fused=len(fused) + num_nameless,
        num_blocks=network.num_blocks,
        num_named=len(products),
    )


def _layer(data: Mapping[str, Any]) -> EngineLayer:
    name = str(data.get("Name", ""))
    nodes = tuple(_ONNX_LAYER.findall(str(data.get("Metadata", ""))))
    return EngineLayer(
        name=name,
        kind=str(data.get("LayerType", "")),
        tactic=str(data.get("TacticName", "")),
        nodes=nodes or tuple(part.strip() for part in name.split(" + ")),
        inputs=tuple(_precisions(data.get("Inputs", ()))),
        outputs=tuple(_precisions(data.get("Outputs", ()))),
    )


def _precisions(tensors: Any) -> Iterator[Precision]:
    for tensor in tensors:
        if not isinstance(tensor, dict):
            continue
        words = " ".join(
            str(value)
            for key, value in tensor.items()
            if key.lower() in ("format/datatype", "datatype", "format")
        )
        # With both fields, a format such as "Row major linear FP32 format" repeats the type.
        tokens = set(re.findall(r"[A-Z0-9]+", words.upper()))
        narrow_first = reversed(all_formats())
        found = next((f for f in narrow_first if not tokens.isdisjoint(f.tensor_types)), None)
        if found is not None:
            yield found.name
