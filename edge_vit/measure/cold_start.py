"""Time to the first prediction, in a process of its own that has done nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edge_vit.errors import BackendError
from edge_vit.measure.results import ColdStart
from edge_vit.runtime.session import DEFAULT_OPTIONS, SessionOptions
from edge_vit.spec import Precision
from edge_vit.values import from_json, to_json


def measure_cold_start(
    bundle: Path,
    precision: Precision,
    backend: str = "auto",
    options: SessionOptions = DEFAULT_OPTIONS,
    *,
    batch_size: int = 1,
) -> ColdStart:
    """Return how long the first prediction of a bundle takes, in a fresh process of this Python.

    Files that were read before are in the system's memory: that is a warm disk.
    """
    request = {
        "bundle": str(bundle),
        "precision": precision,
        "backend": backend,
        "options": to_json(options),
        "batch_size": batch_size,
        "started_ns": time.monotonic_ns(),
    }
    home = str(Path(__file__).parents[2])  # where this very package lies, installed or not
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    child = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import _main; _main()"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if child.returncode:
        reason = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
        raise BackendError(f"the cold start of {bundle} failed: {reason}")
    return from_json(ColdStart, json.loads(child.stdout.splitlines()[-1]), "cold start")


def _main() -> None:
    """Answer the request on stdin with a `ColdStart` on stdout; runs in the fresh process."""
    request: dict[str, Any] = json.load(sys.stdin)
    import numpy as np

    from edge_vit.bundle import Bundle
    from edge_vit.runtime.session import open_session, run_batch

    imported_ns = time.monotonic_ns()
    options = from_json(SessionOptions, request["options"])
    bundle = Bundle.open(Path(request["bundle"]))
    with open_session(bundle, request["precision"], request["backend"], options) as session:
        loaded_ns = time.monotonic_ns()
        shape = (request["batch_size"], *map(int, session.inputs[0].shape[1:]))
        run_batch(session, np.zeros(shape, np.uint8))  # an engine may want more, or take fewer
        done_ns = time.monotonic_ns()
    cold_start = ColdStart(
        process_ms=(imported_ns - request["started_ns"]) / 1e6,
        load_ms=(loaded_ns - imported_ns) / 1e6,
        first_run_ms=(done_ns - loaded_ns) / 1e6,
        memory_peak_mib=read_memory_peak(),
    )
    sys.stdout.write(json.dumps(to_json(cold_start)) + "\n")


def read_memory_peak() -> float | None:
    """Return the most memory that this process has held, MiB; None where Linux does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) / 1024 if found else None
