"""Which TensorRT builds, where the user leaves it open."""

from __future__ import annotations

from typing import Literal

from edge_vit.errors import EdgeVitError, MissingDependencyError, SpecError
from edge_vit.runtime.trt.api import TrtBackend, is_installed
from edge_vit.runtime.trt.build import Builder, find_builder

BuildBackend = Literal["auto", "trt", "rtx"]

_ORDER: tuple[TrtBackend, ...] = ("trt", "rtx")


def choose_builder(backend: BuildBackend, targets: tuple[str, ...] = ()) -> Builder:
    """Return what `backend` stands for on this machine; a child process looks.

    ``auto`` takes TensorRT where it can build for the GPU that is here, else TensorRT-RTX; targets
    are for RTX alone.

    Raises:
        MissingDependencyError: nothing is installed.
        SpecError: something is installed, but nothing that builds here; the message says why.
        BackendError: the one that was named cannot be loaded.
    """
    if backend != "auto":
        return find_builder(backend)
    if targets:
        return find_builder("rtx")
    reasons = []
    for name in filter(is_installed, _ORDER):
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
