"""Whether an engine fits: what this machine wants, against what each engine's sidecar says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator

from edge_vit.bundle import Bundle, digest_of
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.runtime.trt.api import TrtBackend
from edge_vit.runtime.trt.build import Builder, choose_targets
from edge_vit.runtime.trt.identity import ONE_IMAGE, EngineIdentity, EngineOptions, batch_words
from edge_vit.runtime.trt.places import engine_folders
from edge_vit.runtime.trt.sidecar import Engine, list_engines
from edge_vit.runtime.trt.trust import TrustRecord, find_record, keep_record
from edge_vit.spec import Precision
from edge_vit.values import to_json


def identify(
    bundle: Bundle, precision: Precision, builder: Builder, options: EngineOptions
) -> EngineIdentity:
    """Return the identity of the engine that is wanted.

    Raises:
        SpecError: the target or the batch is impossible.
        ArtifactError: the bundle has no such graph.
    """
    fixed = bundle.spec.static_batch
    if fixed and options.batches not in (None, (fixed,) * 3):
        raise SpecError(
            f"batch: got {batch_words(options.batches)}, but the graph's is fixed at {fixed}. "
            "Leave it out, or export again without --static-batch"
        )
    is_rtx = builder.backend == "rtx"  # whose plans are compiled to the end on the GPU they run on
    hardware = builder.hardware
    return EngineIdentity(
        precision=precision,
        onnx_digest=bundle.artifact(bundle.graph(precision, "tensorrt")).sha256,
        backend=builder.backend,
        version=builder.version,
        gpu="" if is_rtx else hardware.gpu,
        targets=choose_targets(builder, options.targets),
        driver="" if is_rtx else hardware.driver,
        cuda="" if is_rtx else hardware.cuda,
        batches=None if fixed else options.batches or ONE_IMAGE,
        optimization_level=options.optimization_level,
    )


def candidates(bundle: Bundle, precision: Precision, backend: TrtBackend) -> Iterator[Engine]:
    """Yield the engines of that precision and backend, those in the bundle first."""
    for folder in engine_folders(bundle):
        for engine in list_engines(folder):
            identity = engine.sidecar.identity
            if (identity.precision, identity.backend) == (precision, backend):
                yield engine


def distance(engine: Engine, batch_size: int) -> tuple[bool, int]:
    """Return how far `engine` is from runs of `batch_size`, for sorting: the smallest is best.

    Returns:
        Whether it refuses that batch, and how many images the one that it is tuned for is off.
    """
    batches = engine.sidecar.identity.batches
    if batches is None:  # fixed in the graph, and so in all engines alike
        return False, 0
    least, usual, most = batches
    return not least <= batch_size <= most, abs(usual - batch_size)


def unfit(
    engine: Engine, wanted: EngineIdentity, *, ignores_options: bool = False, trusts: bool = False
) -> str | None:
    """Return in words why `engine` will not do; None where it will.

    Args:
        engine: on disk.
        wanted: for this machine.
        ignores_options: whether any batches and optimization level will do.
        trusts: take a plan that was not built here, and remember that it is trusted.
    """
    found = engine.sidecar.identity
    if ignores_options:
        wanted = dataclasses.replace(
            wanted, batches=found.batches, optimization_level=found.optimization_level
        )
    differences = found.differences(wanted)
    if differences:
        return "; ".join(differences)
    try:
        engine.read()
    except ArtifactError as error:
        return str(error)
    if find_record(engine.sidecar.digest) is not None:
        return None
    if not trusts:
        return (
            "it was not built here, and an engine can run code when it loads. "
            "If you know where it is from: --trust-engine"
        )
    keep_record(engine.sidecar.digest, TrustRecord())
    return None


def is_superseded(old: EngineIdentity, new: EngineIdentity) -> bool:
    """Say whether `old` is of no more use once there is `new`: it serves no other machine."""
    here = ("precision", "backend", "gpu", "targets", "batches", "optimization_level")
    return all(getattr(old, name) == getattr(new, name) for name in here)


def stem(identity: EngineIdentity) -> str:
    """Return a file name that people can read and that no other identity has."""
    key = digest_of(json.dumps(to_json(identity), sort_keys=True).encode())[:10]
    where = re.sub(r"[^A-Za-z0-9]+", "-", identity.gpu).strip("-") or "+".join(identity.targets)
    return f"{identity.precision}-{identity.backend}{identity.version}-{where}-{key}"
