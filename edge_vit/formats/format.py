"""What a number format is, and the variants of a graph in it: data alone, importing nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

REFERENCE = "fp32"  # the format that all others are compared with; every bundle holds its graph

Precision = str  # the name of a number format


@dataclass(frozen=True)
class Variant:
    """One file of a bundle: the graph of a format for a target."""

    target: str  # ``any``, ``tensorrt``, ``cpu``, ...
    help: str  # the same in a few words
    file: str  # path inside the bundle
    readers: tuple[str, ...] = ()
    """What runs or reads it: ``tensorrt``, ``ort`` on a CPU, ``ort-gpu``, ``openvino``,
    ``explain``; empty for all of them."""
    needs: tuple[str, ...] = ()  # capabilities of the machine, such as ``vnni``
    proven_by: str = ""  # what showed that it is right before it became part of the bundle

    def suits(self, reader: str) -> bool:
        """Return whether `reader` takes this file."""
        return not self.readers or reader in self.readers


@dataclass(frozen=True)
class Look:
    """How a format is drawn."""

    day: str  # colour on a light page, ``#rrggbb``
    night: str  # on a dark one
    console: str  # a colour that rich knows
    marker: str  # matplotlib's, which tells formats apart where colours do not


UNKNOWN_LOOK = Look("#6b6f76", "#9aa0aa", "", "X")
"""Of a format in an old report whose plug-in is not installed."""


@dataclass(frozen=True)
class NumberFormat:
    """A number format that a model can be deployed in."""

    name: Precision  # as users type it, such as ``int8``
    title: str  # for people, such as ``INT8``
    help: str  # what it is, in a few words
    order: int  # from wide to narrow; the reference has 0
    bits: int  # of a weight
    variants: tuple[Variant, ...]  # its files; of those that suit a reader, the best first
    # Largest error of the golden images over the spread of the reference's outputs; another model
    # is off by about 1.4
    self_test_limit: float
    look: Look  # how it is drawn
    granularity: str = ""  # which values share one scale; empty for floating point
    around: str = ""  # format of what is not quantized in its graph for TensorRT; empty for its own
    needs_images: bool = False  # whether it is written from a calibration table alone
    # The module:function that writes its files: see edge_vit.lowering.variants.Lower
    lower: str = ""
    # The module:function that makes of its graph one that a CPU computes as a GPU does; empty where
    # it does so by itself
    emulate: str = ""
    proof: str = ""  # file of the bundle that holds what its graphs came to on the golden images
    compute_capability: tuple[int, int] = (0, 0)  # least of a GPU that computes in it
    tensor_types: tuple[str, ...] = ()  # names in TensorRT's network and in its inspector
    # What to do where an output is NaN or infinite
    not_finite: str = "Export it again, and calibrate it on images like this one"

    @property
    def is_reference(self) -> bool:
        """Whether all other formats are compared with it."""
        return self.name == REFERENCE

    @property
    def is_quantized(self) -> bool:
        """Whether its numbers are levels of a scale, and not floating point."""
        return bool(self.granularity)

    @property
    def file(self) -> str:
        """The file that a bundle with this format holds in any case."""
        return self.variants[0].file

    @property
    def files(self) -> tuple[str, ...]:
        """All files of a bundle that are this format's own."""
        proof = (self.proof,) if self.proof else ()
        return (*(variant.file for variant in self.variants), *proof)

    def variant(
        self,
        reader: str,
        has: Callable[[str], bool] = lambda file: True,
        capabilities: Collection[str] = (),
    ) -> Variant:
        """Return the best variant for `reader` that is there, or else the least demanding one.

        `has` tells whether the bundle holds a file, `capabilities` are those of the machine.
        """
        able = [
            variant
            for variant in self.variants
            if variant.suits(reader) and set(variant.needs) <= set(capabilities)
        ]
        return next((v for v in able if has(v.file)), (able or self.variants)[-1])
