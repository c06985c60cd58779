"""The child process that touches TensorRT: builds a plan, loads one, or says what is here.

It talks JSON lines on what was its stdout; whatever TensorRT prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from edge_vit.errors import ArtifactError, EdgeVitError
from edge_vit.files import refuse_os_errors, write_atomically
from edge_vit.runtime.trt.api import TrtApi, open_api
from edge_vit.runtime.trt.audit import audit_network
from edge_vit.runtime.trt.build import builder_of
from edge_vit.runtime.trt.child import ERRORS
from edge_vit.runtime.trt.hardware import find_hardware
from edge_vit.runtime.trt.network import BuilderSettings, ParsedNetwork, ShapeRange
from edge_vit.runtime.trt.phases import Phases
from edge_vit.values import to_json

Answer = dict[str, Any]


def main() -> None:
    """Answer the one request on stdin."""
    lines = _Lines()
    request = json.loads(sys.stdin.readline())
    cancelled = threading.Event()
    threading.Thread(target=_listen, args=(cancelled,), daemon=True).start()
    operation = {"build": _build, "load": _load, "describe": _describe}[request["operation"]]
    try:
        lines.say({"answer": operation(request, lines, cancelled)})
    except EdgeVitError as error:
        lines.say({"error": _kind(error), "text": str(error)})
    except MemoryError:
        lines.say({"error": "OutOfMemoryError", "text": "out of memory"})
    sys.stderr.flush()
    os._exit(0)  # without running the destructors of a library that may be in a bad state


class _Lines:
    """The pipe to the parent, safe from whatever prints on file descriptor 1."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, event: Mapping[str, Any]) -> None:
        """Send one line; a parent that is gone is the listener's business."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._pipe.write(json.dumps(event) + "\n")
            self._pipe.flush()


def _listen(cancelled: threading.Event) -> None:
    """Wait for the word to cancel; when the parent is gone, end with it."""
    if sys.stdin.readline():
        cancelled.set()
    else:
        os._exit(1)


def _kind(error: EdgeVitError) -> str:
    """The nearest kind of error that the parent knows."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS)


def _describe(request: Mapping[str, Any], lines: _Lines, cancelled: threading.Event) -> Answer:
    """Say which TensorRT and which GPU are here."""
    device = request["device"]
    described: Answer = to_json(
        builder_of(open_api(request["backend"]), find_hardware(device), device)
    )
    return described


def _load(request: Mapping[str, Any], lines: _Lines, cancelled: threading.Event) -> Answer:
    """Load a plan and make a context; say what the inspector says."""
    find_hardware(request["device"], must_exist=True)
    api = open_api(request["backend"])
    engine = api.load(_read(Path(request["plan_path"]), request["digest"]))
    engine.create_context()
    inspected = engine.inspect() if api.capabilities.can_inspect else None
    return {"inspected": inspected, "device_bytes": engine.device_bytes}


def _build(request: Mapping[str, Any], lines: _Lines, cancelled: threading.Event) -> Answer:
    """Build a plan into a file, for the GPU that CUDA now takes for this process's own."""
    find_hardware(request["device"])
    api = open_api(request["backend"])
    network = api.parse(_read(Path(request["onnx_path"]), request["onnx_digest"]))
    settings = BuilderSettings(
        profile=_profile(network, request["batches"]),
        optimization_level=request["optimization_level"],
        workspace_bytes=request["workspace_bytes"],
        targets=tuple(request["targets"]),
        timing_cache=_timing_cache(api, request),
    )
    audit = audit_network(tuple(network.layers))
    lines.say({"audit": to_json(audit)})
    start = time.monotonic()
    built = network.build(settings, Phases(_report(lines), lambda: not cancelled.is_set()))
    plan_path = Path(request["plan_path"])
    with refuse_os_errors(plan_path.parent), plan_path.open("wb") as file:
        file.write(built.plan)
        file.flush()
        os.fsync(file.fileno())
    warnings = list(built.warnings)
    if built.timing_cache is not None:
        try:
            write_atomically(Path(request["timing_cache"]), built.timing_cache)
        except ArtifactError as error:  # the next build takes longer; this one is done
            warnings.append(f"the timing cache is lost: {error}")
    return {
        "digest": hashlib.sha256(built.plan).hexdigest(),
        "num_bytes": len(built.plan),
        "seconds": round(time.monotonic() - start, 3),
        "warnings": warnings,
        "audit": to_json(audit),
    }


def _report(lines: _Lines) -> Callable[[float, str], None]:
    last = 0

    def report(share: float, phase: str) -> None:
        nonlocal last
        percent = int(100 * share)
        if percent > last:
            last = percent
            lines.say({"percent": percent, "phase": phase})

    return report


def _read(path: Path, digest: str) -> bytes:
    """The bytes at `path`, which must be those that the parent means."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"{path} was truncated or edited: its SHA-256 is not the one on record")
    return data


def _profile(network: ParsedNetwork, batches: list[int] | None) -> dict[str, ShapeRange]:
    if batches is None:
        return {}
    return {
        tensor.name: ShapeRange(*((batch, *tensor.shape[1:]) for batch in batches))
        for tensor in network.inputs
        if tensor.shape[0] == -1
    }


def _timing_cache(api: TrtApi, request: Mapping[str, Any]) -> bytes | None:
    if not api.capabilities.takes_timing_cache or not request["timing_cache"]:
        return None
    path = Path(request["timing_cache"])
    return path.read_bytes() if path.exists() else b""
