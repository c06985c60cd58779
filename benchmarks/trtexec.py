"""NVIDIA's own trtexec on an engine: its medians, under the conditions that our sessions have."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

JETSON = "/usr/src/tensorrt/bin/trtexec"
"""Where JetPack and the Debian packages put it; the wheels have none."""

_LINE = re.compile(r"(?m)(?P<name>[A-Z][\w ]+?): min = .*?median = (?P<median>[\d.]+) ms")
_NAMES = {
    "H2D Latency": "to_device_ms",
    "GPU Compute Time": "compute_ms",
    "D2H Latency": "to_host_ms",
    "Enqueue Time": "enqueue_ms",
    "Latency": "latency_ms",
}


@dataclass(frozen=True)
class Trtexec:
    """Medians in milliseconds; 0 where that trtexec does not say."""

    latency_ms: float = 0.0
    to_device_ms: float = 0.0
    compute_ms: float = 0.0
    to_host_ms: float = 0.0
    enqueue_ms: float = 0.0


def find_trtexec() -> str | None:
    """Return where trtexec is; None where it is not."""
    return shutil.which("trtexec") or shutil.which(JETSON)


def command(
    program: str, plan: Path, version: str, shape: tuple[str, str] | None, *, graph: bool
) -> list[str]:
    """Return the call that times `plan` with transfers, spinning, and with or without a graph.

    Up to TensorRT 10 transfers are timed unless told otherwise, and spinning and graphs are to be
    asked for; from 11 on it is the other way round.

    Args:
        program: trtexec.
        plan: the engine.
        version: of its TensorRT, such as ``10.3.0``.
        shape: name of the input and its shape as ``1x224x224x3``; None for an engine without
            dynamic shapes.
        graph: whether to launch a CUDA graph.
    """
    words = [program, f"--loadEngine={plan}", "--warmUp=500", "--duration=5", "--iterations=200"]
    if shape is not None:
        words.append(f"--shapes={shape[0]}:{shape[1]}")
    if int(version.partition(".")[0]) >= 11:
        return [*words, "--includeDataTransfers", *([] if graph else ["--noCudaGraph"])]
    return [*words, "--useSpinWait", *(["--useCudaGraph"] if graph else [])]


def parse(text: str) -> Trtexec:
    """Return the medians in what trtexec printed.

    Raises:
        ValueError: there are none.
    """
    medians = {m["name"]: float(m["median"]) for m in _LINE.finditer(text)}
    found = {_NAMES[name]: value for name, value in medians.items() if name in _NAMES}
    if "compute_ms" not in found:
        raise ValueError(f"trtexec printed no times: {' '.join(text.split())[-300:]}")
    return Trtexec(**found)


def run(words: list[str]) -> Trtexec:
    """Return what the call `words` measures.

    Raises:
        ValueError: it failed, or printed no times.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"trtexec ended with {done.returncode}: {done.stderr[-300:].strip()}")
    return parse(done.stdout)
