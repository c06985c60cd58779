"""The builder's half of TensorRT: from an ONNX file to a network, from a network to a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_vit.errors import BackendError
from edge_vit.runtime.trt.listeners import Complaints, Watch, make_monitor

Shape = tuple[int, ...]

_MEMORY = re.compile(
    r"out ?of ?memory|MemoryAllocation|bad_alloc|insufficient memory|amount of GPU memory",
    re.IGNORECASE,
)


class OutOfMemoryError(BackendError):
    """The builder wanted more memory than there is; a smaller limit may help."""


class CancelledError(BackendError):
    """The build was cancelled from outside."""


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a network.

    Attributes:
        name: unique in the network.
        dtype: in TensorRT's words, such as ``HALF``.
        shape: -1 for a dynamic dimension; () where not even the rank is known.
    """

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class NetworkLayer:
    """One layer of a parsed network.

    Attributes:
        name: that of the ONNX node it came from, or one of the parser's own.
        kind: in TensorRT's words, such as ``MATRIX_MULTIPLY``.
        inputs: what it reads, constants included.
        outputs: what it makes.
    """

    name: str
    kind: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that an engine takes: an optimization profile.

    Attributes:
        min: the smallest.
        opt: the one it is tuned for.
        max: the largest.
    """

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class BuilderSettings:
    """Settings of the builder, beyond the graph.

    Attributes:
        profile: by input name; inputs without a dynamic dimension need none.
        optimization_level: 0 (quick build) to 5 (fast engine); None for TensorRT's own.
        workspace_bytes: that a tactic may use for scratch; None for TensorRT's own limit.
        targets: compute capabilities to build for, such as ``sm_86``; RTX alone.
        timing_cache: what an earlier build measured; None for no cache.
    """

    profile: Mapping[str, ShapeRange] = field(default_factory=dict)
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    targets: tuple[str, ...] = ()
    timing_cache: bytes | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """What a build made.

    Attributes:
        plan: the serialized engine.
        timing_cache: to give to the next build; None where none was asked for.
        warnings: what the builder warned of.
    """

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
        """The tensors that a run feeds."""
        return tuple(map(_facts, map(self._network.get_input, range(self._network.num_inputs))))

    @property
    def outputs(self) -> tuple[TensorFacts, ...]:
        """The tensors that a run returns."""
        return tuple(map(_facts, map(self._network.get_output, range(self._network.num_outputs))))

    @property
    def layers(self) -> Iterator[NetworkLayer]:
        """Yield every layer, in the order of the network."""
        for layer in map(self._network.get_layer, range(self._network.num_layers)):
            inputs = filter(None, map(layer.get_input, range(layer.num_inputs)))
            outputs = map(layer.get_output, range(layer.num_outputs))
            yield NetworkLayer(
                layer.name, layer.type.name, tuple(map(_facts, inputs)), tuple(map(_facts, outputs))
            )

    def build(self, settings: BuilderSettings, watch: Watch) -> BuiltPlan:
        """Return the plan; takes from a second to tens of minutes.

        TF32 is off, so that fp32 is float32.

        Raises:
            CancelledError: `watch` said so.
            OutOfMemoryError: there was too little memory.
            BackendError: the builder refuses; the message holds its own words.
        """
        self._complaints.clear()
        config = self._builder.create_builder_config()
        monitor = make_monitor(self._trt, watch)
        config.progress_monitor = monitor
        cache = self._configure(config, settings)
        plan = self._builder.build_serialized_network(self._network, config)
        if monitor.error is not None:
            raise monitor.error
        if monitor.cancelled:
            raise CancelledError(f"the build with {self._title} was cancelled")
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
        if any(_MEMORY.search(complaint.text) for complaint in self._complaints.all):
            return OutOfMemoryError(f"{self._title} ran out of memory: {self._complaints.reason}")
        return BackendError(f"{self._title} cannot build this graph: {self._complaints.reason}")


def parse_network(
    trt: Any, logger: Any, complaints: Complaints, title: str, onnx: bytes
) -> ParsedNetwork:
    """Return the strongly typed network that the parser of `trt` makes of `onnx`."""
    complaints.clear()
    builder = trt.Builder(logger)
    if builder is None:
        raise BackendError(f"{title} cannot make a builder: {complaints.reason}")
    # Required by TensorRT 10, the only way in 11, and a name that a later one may drop.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BackendError(f"{title} cannot read the graph: {'; '.join(errors[:3])}")
    return ParsedNetwork(trt, builder, network, parser, complaints, title)


def _describe(error: Any) -> str:
    """What the parser says of one error, with the node that it is about."""
    words = " ".join(str(error.desc()).split()).rstrip(".")
    name = _call(error, "node_name")
    operator = _call(error, "node_operator")
    if not name and not operator:
        return words
    return f"node {name or '(unnamed)'} ({operator or 'unknown operator'}): {words}"


def _call(error: Any, name: str) -> str:
    """What the method `name` says, where this version has it."""
    method = getattr(error, name, None)
    return str(method()) if method is not None else ""


def _facts(tensor: Any) -> TensorFacts:
    try:
        shape = tuple(tensor.shape)
    except ValueError:  # of unknown rank: its length is -1
        shape = ()
    return TensorFacts(tensor.name, tensor.dtype.name, shape)
