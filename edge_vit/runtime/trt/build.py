"""Plans in a child process: which TensorRT builds, a build with progress, the first load."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_vit.errors import BackendError, EdgeVitError, MissingDependencyError, SpecError
from edge_vit.progress import Progress
from edge_vit.runtime.trt.api import TrtApi, TrtBackend, is_installed
from edge_vit.runtime.trt.audit import Asked, EngineAudit, audit_engine, check_audit
from edge_vit.runtime.trt.child import run_child
from edge_vit.runtime.trt.identity import NO_GPU, Batches, Hardware
from edge_vit.runtime.trt.network import OutOfMemoryError
from edge_vit.runtime.trt.store import TrustRecord, find_record, keep_record
from edge_vit.values import from_json, to_json

BuildBackend = Literal["auto", "trt", "rtx"]

MIN_WORKSPACE = 64 << 20
MIN_MEMORY_MIB = 16
SHARE_OF_FREE = 0.5
"""Of the free memory, for workspace; weights, activations and the library take the rest."""

_RETRIES = 3
_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Builder:
    """The TensorRT and the GPU of this machine; see `TrtApi` for what it can do."""

    backend: TrtBackend
    version: str
    title: str
    can_build: bool = True
    targets: tuple[str, ...] = ()
    takes_timing_cache: bool = False
    hardware: Hardware = NO_GPU
    device: int = 0


@dataclass(frozen=True)
class PlanRequest:
    """One plan to build, as the child gets it."""

    backend: TrtBackend
    device: int
    onnx_path: str
    onnx_digest: str
    plan_path: str  # what is there is replaced
    batches: Batches | None  # None of a graph whose batch is fixed
    optimization_level: int | None
    targets: tuple[str, ...]  # none for the GPU at hand
    timing_cache: str = ""
    workspace_bytes: int | None = None  # None for TensorRT's own limit
    has_weights_beside: bool = False


@dataclass(frozen=True)
class PlanReport:
    """Result of a build: the plan's SHA-256 and size, and the audit of the parsed network."""

    digest: str
    num_bytes: int
    seconds: float
    warnings: tuple[str, ...]
    audit: EngineAudit


def choose_builder(backend: BuildBackend, targets: tuple[str, ...] = ()) -> Builder:
    """Return what `backend` stands for on this machine, as a child process finds it.

    ``auto`` is TensorRT where it can build for the GPU that is here, else TensorRT-RTX; targets
    are for RTX alone. Where nothing can build, the error says why.
    """
    if backend != "auto":
        return find_builder(backend)
    if targets:
        return find_builder("rtx")
    reasons = []
    backends: tuple[TrtBackend, ...] = ("trt", "rtx")
    for name in filter(is_installed, backends):
        try:
            builder = find_builder(name)
        except EdgeVitError as error:
            reasons.append(str(error))
            continue
        if not builder.can_build:
            reasons.append(f"{builder.title} builds no engines")
        elif not builder.hardware.is_here:
            reasons.append(f"{builder.title} finds no GPU here{builder.hardware.because}")
        elif name == "rtx" and builder.hardware.compute_capability not in builder.targets:
            reasons.append(f"{builder.title} does not know {builder.hardware.compute_capability}")
        else:
            return builder
    if not reasons:
        raise MissingDependencyError(
            "no TensorRT is installed. A Jetson has it from JetPack; on a desktop GPU run: "
            "pip install 'edge-vit[rtx]'"
        )
    hint = ""
    if is_installed("rtx"):
        hint = ". To build for a desktop GPU that is not here, name it: --target sm_86"
    raise SpecError(f"nothing here can build an engine: {'; '.join(reasons)}{hint}")


def find_builder(backend: TrtBackend, device: int = 0) -> Builder:
    """Return what a child process finds of `backend` and the GPU; nothing of it is loaded here."""
    request = {"operation": "describe", "backend": backend, "device": device}
    found = run_child(request, lambda event: None, "looking for TensorRT")
    return from_json(Builder, found, "the result of the child process")


def builder_of(api: TrtApi, hardware: Hardware, device: int = 0) -> Builder:
    """Return `api` and the GPU `device` of this process as what builds and loads engines."""
    return Builder(
        backend=api.backend,
        version=api.version,
        title=api.title,
        can_build=api.can_build,
        targets=api.targets,
        takes_timing_cache=api.takes_timing_cache,
        hardware=hardware,
        device=device,
    )


def choose_targets(builder: Builder, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the compute capabilities to build for: those `wanted`, or that of the GPU here."""
    here = builder.hardware.compute_capability
    if builder.backend == "trt":
        if wanted:
            raise SpecError(
                "--target is for TensorRT-RTX: TensorRT builds for the GPU that it runs on. "
                "Build on the device, or take --backend rtx"
            )
        if not builder.hardware.is_here:
            raise SpecError(
                f"{builder.title} builds on the GPU that will run the engine, and there is none "
                f"here{builder.hardware.because}. Build on the device, or for a desktop GPU take: "
                "--backend rtx --target sm_86"
            )
        return (here,)
    if not (wanted or here):
        raise SpecError(
            "there is no GPU here to build for. Name the one that will run the engine, as in "
            f"--target sm_86; {builder.title} knows {', '.join(builder.targets)}"
        )
    for target in wanted or (here,):
        if target not in builder.targets:
            raise SpecError(
                f"{builder.title} does not build for {target}, only for "
                f"{', '.join(builder.targets)}. On a Jetson or a server GPU take TensorRT: "
                "--backend trt, on that machine itself"
            )
    return tuple(sorted(set(wanted or (here,))))


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Return how much main memory is free without swapping; None where it is not known."""
    try:
        found = _AVAILABLE.search(meminfo.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def workspace_bytes(
    hardware: Hardware, memory_mib: int | None, meminfo: Path = _MEMINFO
) -> int | None:
    """Return the limit of a build's workspace: `memory_mib`, or a share of what is free.

    A low limit excludes kernels that want more, it reserves nothing. On a Jetson GPU and CPU share
    one memory, so that what Linux calls available counts. None is TensorRT's own limit.
    """
    if memory_mib is not None:
        if memory_mib < MIN_MEMORY_MIB:
            raise SpecError(f"memory: got {memory_mib} MiB, expected at least {MIN_MEMORY_MIB}")
        return memory_mib << 20
    if not hardware.is_here:
        return None
    free = available_bytes(meminfo) if hardware.is_integrated else hardware.free_bytes
    return int(free * SHARE_OF_FREE) if free else None


def build_plan(
    builder: Builder,
    request: PlanRequest,
    asked: Asked,
    what: str,
    progress: Progress,
    memory_mib: int | None = None,
) -> PlanReport:
    """Build a plan into ``request.plan_path``; where memory runs out, with less workspace.

    The network is held to what was `asked` before the builder begins; `what` names the engine in
    messages: ``int8 engine``. For `memory_mib` see `workspace_bytes`.

    Raises:
        OutOfMemoryError: with the smallest workspace too.
        BackendError: the builder refuses the graph or crashed.
        ArtifactError: the graph was edited, or the plan cannot be written.
        GateFailed: TensorRT reads a wider precision in the graph than was asked for.
        KeyboardInterrupt: Ctrl-C; the child is gone by then.
    """
    limit = workspace_bytes(builder.hardware, memory_mib)
    for retries_left in reversed(range(_RETRIES + 1)):
        limited = dataclasses.replace(request, workspace_bytes=limit)
        try:
            return _build_once(builder, limited, asked, what, progress)
        except OutOfMemoryError as error:
            smaller = (limit or available_bytes() or 1 << 30) // 2
            if not retries_left or smaller < MIN_WORKSPACE:
                raise OutOfMemoryError(
                    f"{error}. Close what else uses memory, add swap, or give less: --memory 256"
                ) from None
            progress.note(f"{error}. Trying again with {smaller >> 20} MiB of workspace")
            limit = smaller
    raise AssertionError("unreachable")


def _build_once(
    builder: Builder, request: PlanRequest, asked: Asked, what: str, progress: Progress
) -> PlanReport:
    title = f"building the {what} with {builder.title}"
    with progress.step(title, 100) as advance:
        shown = 0

        def on_event(event: dict[str, Any]) -> None:
            nonlocal shown
            if "audit" in event:
                check_audit(from_json(EngineAudit, event["audit"]), asked, what)
            percent = event.get("percent", 0)
            if percent > shown:
                advance(percent - shown)
                shown = percent

        answer = run_child({"operation": "build", **to_json(request)}, on_event, title)
        advance(100 - shown)
    return from_json(PlanReport, answer, "the result of the build")


def was_loaded(digest: str, builder: Builder) -> bool:
    """Return whether the plan with SHA-256 `digest` was loaded by the same versions before."""
    record = find_record(digest)
    return record is not None and _loader(builder) in record.loaded_with


def probe_plan(path: Path, digest: str, builder: Builder, progress: Progress) -> str | None:
    """Load the trusted plan at `path` in a child process, and remember that it went well.

    A bad plan can crash its process. The child checks `digest` before TensorRT sees a byte. Return
    the inspector's JSON of the layers; None where this TensorRT has no inspector.
    """
    purpose = f"loading {path.name} for the first time"
    request = {
        "operation": "load",
        "backend": builder.backend,
        "device": builder.device,
        "plan_path": str(path),
        "digest": digest,
    }
    with progress.step(purpose):
        answer: Mapping[str, Any] = run_child(request, lambda event: None, purpose)
    record = find_record(digest) or TrustRecord()
    known = tuple(sorted({*record.loaded_with, _loader(builder)}))
    keep_record(digest, dataclasses.replace(record, loaded_with=known))
    inspected: str | None = answer["inspected"]
    return inspected


def audit_plan(inspected: str | None, network: EngineAudit, progress: Progress) -> EngineAudit:
    """Return the audit of an engine by the JSON of `probe_plan`, else that of its `network`."""
    if inspected is None:
        return network
    try:
        return audit_engine(inspected, network)
    except BackendError as error:
        progress.note(f"{error}. The audit is that of the graph as TensorRT read it")
        return network


def _loader(builder: Builder) -> str:
    """What a load depends on besides the plan: where this differs, it is tried anew."""
    return f"{builder.title}, {builder.hardware.gpu}, driver {builder.hardware.driver}"
