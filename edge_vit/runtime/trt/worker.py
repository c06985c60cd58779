"""The child process that touches TensorRT: builds a plan, loads one, or describes what is here.

It sends JSON lines on what was its stdout; whatever TensorRT prints goes to stderr.
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
from edge_vit.runtime.trt.api import open_api
from edge_vit.runtime.trt.audit import audit_network
from edge_vit.runtime.trt.build import PlanRequest, builder_of
from edge_vit.runtime.trt.child import ERRORS
from edge_vit.runtime.trt.identity import find_hardware
from edge_vit.runtime.trt.listeners import Phases
from edge_vit.runtime.trt.network import BuilderSettings, ShapeRange
from edge_vit.values import from_json, to_json

Answer = dict[str, Any]
Send = Callable[[Mapping[str, Any]], None]


def main() -> None:
    """Serve the one request on stdin."""
    send = _open_pipe()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    operation = {"build": _build, "load": _load, "describe": _describe}[request["operation"]]
    try:
        send({"answer": operation(request, send)})
    except EdgeVitError as error:
        kind = next(k.__name__ for k in type(error).__mro__ if k.__name__ in ERRORS)
        send({"error": kind, "text": str(error)})
    except MemoryError:
        send({"error": "OutOfMemoryError", "text": "out of memory"})
    sys.stderr.flush()
    os._exit(0)  # without running the destructors of a library that may be in a bad state


def _open_pipe() -> Send:
    """Return what sends a line to the parent, safe from whatever prints on file descriptor 1."""
    lock = threading.Lock()
    pipe: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: Mapping[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # then this process ends soon
            pipe.write(json.dumps(event) + "\n")
            pipe.flush()

    return send


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _describe(request: Mapping[str, Any], send: Send) -> Answer:
    device = request["device"]
    described: Answer = to_json(
        builder_of(open_api(request["backend"]), find_hardware(device), device)
    )
    return described


def _load(request: Mapping[str, Any], send: Send) -> Answer:
    find_hardware(request["device"], must_exist=True)
    engine = open_api(request["backend"]).load(_read(Path(request["plan_path"]), request["digest"]))
    engine.create_context()
    return {"inspected": engine.inspect()}


def _build(request: Mapping[str, Any], send: Send) -> Answer:
    """Build a plan into a file, for the GPU that CUDA now takes for this process's own."""
    wanted = from_json(PlanRequest, {k: request[k] for k in request if k != "operation"})
    find_hardware(wanted.device)
    api = open_api(wanted.backend)
    onnx = _read(Path(wanted.onnx_path), wanted.onnx_digest)
    network = api.parse(onnx, wanted.onnx_path if wanted.has_weights_beside else "")
    cache_path = wanted.timing_cache if api.takes_timing_cache else ""
    cache = Path(cache_path).read_bytes() if cache_path and Path(cache_path).exists() else b""
    settings = BuilderSettings(
        profile={
            tensor.name: ShapeRange(*((batch, *tensor.shape[1:]) for batch in wanted.batches))
            for tensor in network.inputs
            if wanted.batches and tensor.shape[0] == -1
        },
        optimization_level=wanted.optimization_level,
        workspace_bytes=wanted.workspace_bytes,
        targets=wanted.targets,
        timing_cache=cache if cache_path else None,
    )
    audit = audit_network(tuple(network.layers))
    send({"audit": to_json(audit)})
    start = time.monotonic()
    built = network.build(settings, Phases(lambda share: send({"percent": int(100 * share)})))
    plan_path = Path(wanted.plan_path)
    with refuse_os_errors(plan_path.parent), plan_path.open("wb") as file:
        file.write(built.plan)
        file.flush()
        os.fsync(file.fileno())
    warnings = list(built.warnings)
    if built.timing_cache is not None:
        try:
            write_atomically(Path(cache_path), built.timing_cache)
        except ArtifactError as error:  # the next build takes longer; this one is done
            warnings.append(f"the timing cache is lost: {error}")
    return {
        "digest": hashlib.sha256(built.plan).hexdigest(),
        "num_bytes": len(built.plan),
        "seconds": round(time.monotonic() - start, 3),
        "warnings": warnings,
        "audit": to_json(audit),
    }


def _read(path: Path, digest: str) -> bytes:
    """Return the bytes at `path`, which must be those that the parent means."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"{path} was truncated or edited: its SHA-256 is not the one on record")
    return data
