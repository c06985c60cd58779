"""Other quantizers beside edge-vit: an environment for each, and one call that runs any of them.

``python benchmarks/peers.py`` makes the environments under ``build/peers/``; whoever needs one that
is missing makes it too. All get the same fp32 graph and the same calibration images. What they
made is kept and not made again while graph, images and, for edge-vit, its code are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.spec.table import RECIPES
from edge_vit.values import to_json

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
CHILD = Path(__file__).with_name("peer_child.py")

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    # ModelOpt 0.47 asks for a torch below 2.14; the CPU build has the same API.
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "torch<2.14"),
    "nncf": ("nncf==3.4.0", "openvino==2026.4.1", "onnx"),
    "onnxruntime": ("onnxruntime==1.31.1", "onnx==1.23.2"),
}

EDGE_VIT = ("edge-vit fast", "edge-vit balanced")
PRESETS = tuple(f"edge-vit {name}" for name in RECIPES)
PEERS: Mapping[str, str] = {
    "ModelOpt": "modelopt",
    "ModelOpt linear only": "modelopt",
    "ONNX Runtime static": "onnxruntime",
    "ONNX Runtime static-linear": "onnxruntime",
    "ONNX Runtime dynamic": "onnxruntime",
    "NNCF transformer": "nncf",
}
"""Environment by way of quantizing."""

WAYS = (*EDGE_VIT, *PEERS)
LEGAL_PEERS = ("ModelOpt", "ModelOpt linear only", "ONNX Runtime static-linear")
"""Those whose graphs are static, symmetric INT8, which TensorRT builds."""


@dataclass(frozen=True)
class Quantized:
    """One quantized model.

    Attributes:
        path: an ONNX file, or OpenVINO's ``.xml``.
        seconds: that quantizing took, without starting Python.
        peak_mib: resident memory of the process at its highest.
        versions: of what did it.
    """

    path: Path
    seconds: float
    peak_mib: float
    versions: Mapping[str, str]


def quantize_by(
    way: str,
    fp32: bytes,
    spec: ModelSpec,
    calibration: np.ndarray,
    kept: Path = BUILD / "quantized",
) -> Quantized:
    """Return `fp32` as `way` quantizes it on `calibration`, uint8 (N, H, W, 3).

    Args:
        way: one of `WAYS`.
        fp32: the graph.
        spec: its facts, for edge-vit.
        calibration: images.
        kept: folder for what was made, where an earlier run's is found.

    Raises:
        RuntimeError: the tool failed; the message is the end of what it said.
    """
    key = hashlib.sha256(fp32 + calibration.tobytes() + json.dumps(to_json(spec)).encode())
    key.update(b"".join(path.read_bytes() for path in _sources(way)))
    home = kept / f"{way.replace(' ', '-')}-{key.hexdigest()[:16]}"
    out = home / ("int8.xml" if PEERS.get(way) == "nncf" else "int8.onnx")
    facts = home / "facts.json"
    if not facts.exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "fp32.onnx").write_bytes(fp32)
        np.save(home / "calibration.npy", calibration)
        (home / "spec.json").write_text(json.dumps(to_json(spec)))
        inputs = [home / name for name in ("fp32.onnx", "calibration.npy")]
        command = [python_of(way), CHILD, way, *inputs, out, home / "spec.json"]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            cwd=home,
            env=os.environ | {"PYTHONPATH": str(ROOT)} if way.startswith("edge-vit") else None,
        )
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr.strip()[-400:]}")
        facts.write_text(done.stdout.strip().splitlines()[-1] + "\n")
        for path in inputs:
            path.unlink()
    return Quantized(out, **json.loads(facts.read_text()))


def python_of(way: str, folder: Path = BUILD) -> Path:
    """Return the Python that `way` runs in; its environment is made where it is missing."""
    if way not in PEERS:
        return Path(sys.executable)
    home = folder / "peers" / PEERS[way]
    python, stamp = home / "bin" / "python", home / "edge-vit-peers.txt"
    wanted = " ".join(ENVIRONMENTS[PEERS[way]])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {wanted} into {home}", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[PEERS[way]]]
        subprocess.run(list(map(str, install)), check=True)
        stamp.write_text(wanted)
    return python


def _sources(way: str) -> list[Path]:
    """Return the files that decide what `way` makes of its inputs."""
    package = ROOT / "edge_vit"
    folders = ("calibration", "graph", "lowering")
    own = [path for name in folders for path in sorted((package / name).rglob("*.py"))]
    own.append(package / "spec" / "table.py")
    return [CHILD, *(own if way.startswith("edge-vit") else [])]


def open_runner(path: Path, threads: int | None = None) -> Any:
    """Return a function from images, uint8 (N, H, W, 3), to the output of the graph in `path`.

    ONNX files run in ONNX Runtime, ``.xml`` in OpenVINO with float32 around its INT8.
    """
    if path.suffix == ".xml":
        import openvino

        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        return lambda images: np.array(compiled({"images": images})[compiled.outputs[0]])
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    if not threads:  # not timed: leave the cores to others between operators
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD, help="folder for environments")
    arguments = parser.parse_args()
    for way in PEERS:
        print(way, python_of(way, arguments.build), flush=True)


if __name__ == "__main__":
    main()
