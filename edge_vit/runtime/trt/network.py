"""Building with TensorRT: from an ONNX file to a network, from a network to a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_vit.errors import BackendError
from edge_vit.runtime.trt.listeners import Complaints, Phases, make_monitor

Shape = tuple[int, ...]

_MEMORY = re.compile(
    r"out ?of ?memory|MemoryAllocation|bad_alloc|insufficient memory|amount of GPU memory",
    re.IGNORECASE,
)


class OutOfMemoryError(BackendError):
    """The builder wanted more memory than there is; a smaller limit may help."""


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a network."""

    name: str
    dtype: str  # in TensorRT's words, such as ``HALF``
    shape: Shape  # -1 is a dynamic dimension; () where not even the rank is known


@dataclass(frozen=True)
class NetworkLayer:
    """One layer of a parsed network, named like its ONNX node or by the parser."""

    name: str
    kind: str  # in TensorRT's words, such as ``MATRIX_MULTIPLY``
    inputs: tuple[TensorFacts, ...]  # constants included
    outputs: tuple[TensorFacts, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The smallest, the usual and the largest shape of an input: an optimization profile."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class BuilderSettings:
    """Settings of the builder, beyond the graph; None for TensorRT's own, or no timing cache."""

    profile: Mapping[str, ShapeRange] = field(default_factory=dict)  # of inputs of dynamic shape
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    targets: tuple[str, ...] = ()  # for RTX alone
    timing_cache: bytes | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """A serialized engine, and a timing cache for the next build where one was asked for."""

    plan: bytes
    timing_cache: bytes | None
    warnings: tuple[str, ...]


class ParsedNetwork:
    """A network that can be looked at and built; made by `TrtApi.parse`."""

    def __init__(
        self, trt: Any, builder: Any, network: Any, parser: Any, complaints: Complaints, title: str
    ) -> None:
        self._trt = trt
        self._builder = builder
        self._network = network
        self._parser = parser  # owns the weights until the build is over
        self._complaints = complaints
        self._title = title

    @property
    def inputs(self) -> tuple[TensorFacts, ...]:
        """The inputs."""
        return tuple(map(_facts, map(self._network.get_input, range(self._network.num_inputs))))

    @property
    def layers(self) -> Iterator[NetworkLayer]:
        """Yield every layer, in the order of the network."""
        for layer in map(self._network.get_layer, range(self._network.num_layers)):
            inputs = filter(None, map(layer.get_input, range(layer.num_inputs)))
            outputs = map(layer.get_output, range(layer.num_outputs))
            yield NetworkLayer(
                layer.name, layer.type.name, tuple(map(_facts, inputs)), tuple(map(_facts, outputs))
            )

    def build(self, settings: BuilderSettings, phases: Phases) -> BuiltPlan:
        """Return the plan, in a second or tens of minutes; TF32 is off, so that fp32 is float32.

        Where it fails it is an OutOfMemoryError or a BackendError with the builder's own words.
        """
        self._complaints.clear()
        config = self._builder.create_builder_config()
        monitor = make_monitor(self._trt, phases)
        config.progress_monitor = monitor
        cache = self._configure(config, settings)
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            raise self._failure()
        timing_cache = None if cache is None else bytes(config.get_timing_cache().serialize())
        return BuiltPlan(bytes(plan), timing_cache, self._complaints.warnings)

    def _configure(self, config: Any, settings: BuilderSettings) -> Any:
        """Set `config`; return the timing cache, which has to stay alive, or None."""
        trt = self._trt
        tf32 = getattr(trt.BuilderFlag, "TF32", None)
        if tf32 is not None:
            config.clear_flag(tf32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the audit reads the layers
        if settings.optimization_level is not None:
            config.builder_optimization_level = settings.optimization_level
        if settings.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
        if settings.profile:
            profile = self._builder.create_optimization_profile()
            for name, shapes in settings.profile.items():
                profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
            if config.add_optimization_profile(profile) < 0:
                raise BackendError(
                    f"{self._title} refuses the shapes {dict(settings.profile)}: "
                    f"{self._complaints.reason}"
                )
        if settings.targets:
            config.num_compute_capabilities = len(settings.targets)
            for index, target in enumerate(settings.targets):
                word = target.replace("sm_", "SM").upper()
                config.set_compute_capability(getattr(trt.ComputeCapability, word), index)
        if settings.timing_cache is None:
            return None
        cache = config.create_timing_cache(settings.timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            self._complaints.add("warning", "the timing cache is unusable here, and begun anew")
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def _failure(self) -> BackendError:
        if any(map(_MEMORY.search, self._complaints.all)):
            return OutOfMemoryError(f"{self._title} ran out of memory: {self._complaints.reason}")
        return BackendError(f"{self._title} cannot build this graph: {self._complaints.reason}")


def parse_network(
    trt: Any, logger: Any, complaints: Complaints, title: str, onnx: bytes, path: str
) -> ParsedNetwork:
    """Return the strongly typed network that the parser of `trt` makes of `onnx`.

    Weights that it does not hold lie beside its `path`; "" where it holds all of them.
    """
    complaints.clear()
    builder = trt.Builder(logger)
    if builder is None:
        raise BackendError(f"{title} cannot make a builder: {complaints.reason}")
    # Required by TensorRT 10, the only way in 11, and a name that a later one may drop.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not (parser.parse(onnx, path) if path else parser.parse(onnx)):
        errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BackendError(f"{title} cannot read the graph: {'; '.join(errors[:3])}")
    return ParsedNetwork(trt, builder, network, parser, complaints, title)


def _describe(error: Any) -> str:
    words = " ".join(str(error.desc()).split()).rstrip(".")
    name, operator = (  # which older versions do not have
        str(getattr(error, method, str)()) for method in ("node_name", "node_operator")
    )
    if not name and not operator:
        return words
    return f"node {name or '(unnamed)'} ({operator or 'unknown operator'}): {words}"


def _facts(tensor: Any) -> TensorFacts:
    try:
        shape = tuple(tensor.shape)
    except ValueError:  # of unknown rank: its length is -1
        shape = ()
    return TensorFacts(tensor.name, tensor.dtype.name, shape)
