"""The first load of a plan, in a child process: a bad plan can crash its process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edge_vit.errors import BackendError
from edge_vit.progress import Progress
from edge_vit.runtime.trt.audit import EngineAudit
from edge_vit.runtime.trt.build import Builder
from edge_vit.runtime.trt.child import run_child
from edge_vit.runtime.trt.inspector import audit_engine
from edge_vit.runtime.trt.trust import TrustRecord, find_record, keep_record


def loaded_with(builder: Builder) -> str:
    """Return what a load depends on besides the plan: where this differs, it is tried anew."""
    hardware = builder.hardware
    return f"{builder.title}, {hardware.gpu}, driver {hardware.driver}"


def was_loaded(digest: str, builder: Builder) -> bool:
    """Say whether the plan with SHA-256 `digest` was loaded here before, with all as it is now."""
    record = find_record(digest)
    return record is not None and loaded_with(builder) in record.loaded_with


def probe_plan(path: Path, digest: str, builder: Builder, progress: Progress) -> str | None:
    """Load the plan at `path` in a child process and remember that it went well.

    Args:
        path: of a plan that is trusted.
        digest: its SHA-256, which the child checks before TensorRT sees a byte.
        builder: what loads it.
        progress: says what goes on.

    Returns:
        The inspector's JSON of its layers; None where this TensorRT has no inspector.

    Raises:
        ArtifactError: the plan was truncated or edited.
        BackendError: it cannot be loaded, or crashed the child.
    """
    purpose = f"loading {path.name} for the first time"
    with progress.step(purpose):
        answer = run_child(
            {
                "operation": "load",
                "backend": builder.backend,
                "device": builder.device,
                "plan_path": str(path),
                "digest": digest,
            },
            lambda event: None,
            purpose,
        )
    record = find_record(digest) or TrustRecord()
    known = {*record.loaded_with, loaded_with(builder)}
    keep_record(digest, dataclasses.replace(record, loaded_with=tuple(sorted(known))))
    inspected: str | None = answer["inspected"]
    return inspected


def audit_plan(inspected: str | None, network: EngineAudit, progress: Progress) -> EngineAudit:
    """Return the audit of an engine's layers, or that of the network where these are not to be had.

    Args:
        inspected: what `probe_plan` returned.
        network: the audit of the network it was built from.
        progress: notes when the layers cannot be read.
    """
    if inspected is None:
        return network
    try:
        return audit_engine(inspected, network)
    except BackendError as error:
        progress.note(f"{error}. The audit is that of the graph as TensorRT read it")
        return network
