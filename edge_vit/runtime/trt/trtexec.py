"""The command line of trtexec, NVIDIA's own tool, that builds the same engine."""

from __future__ import annotations

import shlex

from edge_vit.bundle import Bundle
from edge_vit.runtime.trt.identity import ONE_IMAGE, EngineOptions
from edge_vit.runtime.trt.store import PLAN_SUFFIX
from edge_vit.spec import Precision

GENERATIONS = (10, 11)
"""Major versions of TensorRT whose trtexec differ."""

# What edge-vit's own numbers have: transfers in, CUDA graph on, the CPU waiting without sleep.
_SAME_CONDITIONS = {10: ("--useCudaGraph", "--useSpinWait"), 11: ("--includeDataTransfers",)}


def trtexec_line(
    bundle: Bundle,
    precision: Precision,
    options: EngineOptions,
    generation: int,
    memory_mib: int | None = None,
) -> str:
    """Return the command that builds and times an engine of `bundle` with trtexec.

    `generation` is a major version of TensorRT, one of `GENERATIONS`.
    """
    onnx = bundle.graph(precision, "tensorrt")
    bundle.artifact(onnx)
    words = [
        "trtexec",
        f"--onnx={bundle.path / onnx}",
        f"--saveEngine={bundle.name}-{precision}{PLAN_SUFFIX}",
        "--noTF32",
        "--profilingVerbosity=detailed",
    ]
    if generation == 10:
        words.insert(2, "--stronglyTyped")
    if not bundle.spec.static_batch:
        image = bundle.spec.inputs[0]
        for name, batch in zip(("min", "opt", "max"), options.batches or ONE_IMAGE, strict=True):
            sizes = "x".join(map(str, (batch, *image.shape[1:])))
            words.append(f"--{name}Shapes={image.name}:{sizes}")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if memory_mib is not None:
        words.append(f"--memPoolSize=workspace:{memory_mib}")
    return shlex.join([*words, *_SAME_CONDITIONS[generation]])
