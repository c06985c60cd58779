"""One plan, built in a child process, with progress; with less workspace when memory runs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vit.errors import SpecError
from edge_vit.progress import Progress
from edge_vit.runtime.trt.api import TrtApi, TrtBackend
from edge_vit.runtime.trt.audit import Asked, EngineAudit, check_audit
from edge_vit.runtime.trt.child import run_child
from edge_vit.runtime.trt.identity import NO_GPU, Batches, Hardware
from edge_vit.runtime.trt.memory import available_bytes, workspace_bytes
from edge_vit.runtime.trt.network import OutOfMemoryError
from edge_vit.values import from_json

MIN_WORKSPACE = 64 << 20
_RETRIES = 3


@dataclass(frozen=True)
class Builder:
    """The TensorRT of this machine, as a child process found it.

    Attributes:
        backend: ``trt`` or ``rtx``.
        version: exact.
        title: for messages, such as ``TensorRT 10.3.0``.
        can_build: the lean and dispatch runtimes cannot.
        targets: compute capabilities that it builds for without that GPU.
        takes_timing_cache: whether one makes the next build quicker.
        hardware: the GPU that is here, or `NO_GPU`.
        device: CUDA's number of it.
    """

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
    """One plan to build.

    Attributes:
        onnx_path: the graph.
        onnx_digest: its SHA-256.
        plan_path: where the plan goes; whatever is there is replaced.
        batches: smallest, usual and largest; None for a graph whose batch is fixed.
        optimization_level: None for TensorRT's own.
        targets: compute capabilities; empty for the GPU at hand.
        memory_mib: limit of the workspace; None for what is free.
        timing_cache: file to read and write; None for none.
    """

    onnx_path: Path
    onnx_digest: str
    plan_path: Path
    batches: Batches | None
    optimization_level: int | None
    targets: tuple[str, ...]
    memory_mib: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class PlanReport:
    """What came of a build.

    Attributes:
        digest: SHA-256 of the plan.
        num_bytes: its size.
        seconds: that the builder took.
        warnings: of the builder.
        audit: of the parsed network.
    """

    digest: str
    num_bytes: int
    seconds: float
    warnings: tuple[str, ...]
    audit: EngineAudit


def find_builder(backend: TrtBackend, device: int = 0) -> Builder:
    """Return what a child process finds of `backend` and the GPU; nothing of it is loaded here.

    Raises:
        MissingDependencyError: it is not installed.
        BackendError: it cannot be loaded.
    """
    request = {"operation": "describe", "backend": backend, "device": device}
    found = run_child(request, lambda event: None, "looking for TensorRT")
    return from_json(Builder, found, "the answer of the child process")


def builder_of(api: TrtApi, hardware: Hardware, device: int = 0) -> Builder:
    """Return `api` and the GPU `device` of this process as what builds and loads engines."""
    return Builder(
        backend=api.backend,
        version=api.version,
        title=api.title,
        can_build=api.capabilities.can_build,
        targets=api.capabilities.targets,
        takes_timing_cache=api.capabilities.takes_timing_cache,
        hardware=hardware,
        device=device,
    )


def choose_targets(builder: Builder, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the compute capabilities to build for: those `wanted`, or that of the GPU here.

    Raises:
        SpecError: there is no such target, no GPU, or targets make no sense for this backend.
    """
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
        return (builder.hardware.compute_capability,)
    targets = wanted or (builder.hardware.compute_capability,)
    if targets == ("",):
        raise SpecError(
            "there is no GPU here to build for. Name the one that will run the engine, as in "
            f"--target sm_86; {builder.title} knows {', '.join(builder.targets)}"
        )
    for target in targets:
        if target not in builder.targets:
            raise SpecError(
                f"{builder.title} does not build for {_known_as(target)}, only for "
                f"{', '.join(builder.targets)}.{_INSTEAD.get(target, '')}"
            )
    return tuple(sorted(set(targets)))


_JETSON = " On a Jetson take TensorRT: --backend trt, on the device itself"
_SERVER = " On a server GPU take TensorRT: --backend trt, on that machine"
_INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("sm_53", "sm_62", "sm_72", "sm_87", "sm_101", "sm_110"), _JETSON),
    **dict.fromkeys(("sm_70", "sm_90", "sm_100", "sm_103"), _SERVER),
}
_NAMES = {
    "sm_72": "Xavier",
    "sm_87": "Orin",
    "sm_90": "Hopper",
    "sm_100": "Blackwell servers",
    "sm_101": "Thor",
    "sm_103": "Blackwell servers",
    "sm_110": "Thor",
}


def _known_as(target: str) -> str:
    return f"{target} ({_NAMES[target]})" if target in _NAMES else target


def build_plan(
    builder: Builder, request: PlanRequest, asked: Asked, what: str, progress: Progress
) -> PlanReport:
    """Build a plan into ``request.plan_path``.

    Where memory runs out, it is tried again with half the workspace, some times.

    Args:
        builder: what builds.
        request: what to build.
        asked: of the graph; checked before the builder begins.
        what: the engine, for progress and messages: ``int8 engine``.
        progress: follows the builder.

    Raises:
        OutOfMemoryError: with the smallest workspace too.
        CancelledError: the child was cancelled.
        BackendError: the builder refuses the graph, or crashed.
        ArtifactError: the graph was edited, or the plan cannot be written.
        GateFailed: TensorRT reads a wider precision in the graph than was asked for.
        KeyboardInterrupt: Ctrl-C; the child is gone by then.
    """
    limit = workspace_bytes(builder.hardware, request.memory_mib)
    for retries_left in reversed(range(_RETRIES + 1)):
        try:
            return _build_once(builder, request, asked, what, limit, progress)
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
    builder: Builder,
    request: PlanRequest,
    asked: Asked,
    what: str,
    limit: int | None,
    progress: Progress,
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

        answer = run_child(_to_json(builder, request, limit), on_event, title)
        advance(100 - shown)
    return from_json(PlanReport, answer, "the answer of the build")


def _to_json(builder: Builder, request: PlanRequest, limit: int | None) -> dict[str, Any]:
    return {
        "operation": "build",
        "backend": builder.backend,
        "device": builder.device,
        "onnx_path": str(request.onnx_path),
        "onnx_digest": request.onnx_digest,
        "plan_path": str(request.plan_path),
        "batches": request.batches,
        "optimization_level": request.optimization_level,
        "workspace_bytes": limit,
        "targets": request.targets,
        "timing_cache": str(request.timing_cache) if request.timing_cache else None,
    }
