"""The engines of a bundle: found where one fits this machine, built where none does."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_vit.bundle import Bundle, digest_of
from edge_vit.errors import ArtifactError, BackendError, SpecError
from edge_vit.files import refuse_os_errors
from edge_vit.formats import REFERENCE, NumberFormat, find_format
from edge_vit.locks import LOCK, locked
from edge_vit.optional import installed_versions
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.trt import build, store
from edge_vit.runtime.trt.api import TrtBackend
from edge_vit.runtime.trt.audit import check_audit, what_was_asked
from edge_vit.runtime.trt.identity import (
    ONE_IMAGE,
    EngineIdentity,
    EngineOptions,
    Hardware,
    batch_words,
)
from edge_vit.runtime.trt.network import OutOfMemoryError
from edge_vit.spec import Precision
from edge_vit.values import checked, to_json

DEFAULT_OPTIONS = EngineOptions()
_SPARE_BYTES = 4 << 20


def find_engine(
    bundle: Bundle,
    precision: Precision,
    backend: TrtBackend,
    *,
    builder: build.Builder | None = None,
    options: EngineOptions | None = None,
    may_build: bool = True,
    trusts: bool = False,
    batch_size: int = 1,
    progress: Progress = SILENT,
) -> store.Engine:
    """Return an engine of `bundle` that fits this machine, checked; build one where none does.

    One that fits and does not load all the same is built anew; where none may be built it is an
    ArtifactError. An engine that was not built here is taken with `trusts`, and trusted from then
    on. Without `options` one of any will do, and a new one gets those of the first that is stale.
    Engines that take `batch_size` images come first, the one tuned closest to it before others.
    """
    builder = builder or build.find_builder(backend)
    fixed = bundle.spec.static_batch
    known = options or EngineOptions(None if fixed else (batch_size,) * 3)
    wanted = identify(bundle, precision, builder, known)
    reasons: list[str] = []
    is_broken = False
    found = _candidates(bundle, precision, backend)
    for engine in sorted(found, key=lambda engine: _distance(engine, batch_size)):
        reason = _unfit(engine, wanted, ignores_options=options is None, trusts=trusts)
        if reason is None:
            try:
                if builder.hardware.is_here and not build.was_loaded(
                    engine.sidecar.digest, builder
                ):
                    build.probe_plan(engine.path, engine.sidecar.digest, builder, progress)
                return engine
            except OutOfMemoryError:
                raise  # another engine would want as much
            except BackendError as error:
                reason, is_broken = str(error), True
        if options is None and not reasons:
            known = engine.sidecar.identity.options  # it is to be replaced by its like
            if fixed:
                known = dataclasses.replace(known, batches=None)
        reasons.append(f"{engine.path.name}: {reason}")
    if not may_build:
        why = "; ".join(reasons[:2]) or f"{bundle.path} holds none"
        raise ArtifactError(
            f"no {precision} engine for this machine ({why}), and none may be built. "
            f"Run: edgevit build {bundle.path} --backend {backend} --precision {precision}"
        )
    for reason in reasons[:2]:
        progress.note(f"building a new engine: {reason}")
    return build_engine(
        bundle, precision, backend, known, builder=builder, force=is_broken, progress=progress
    )


@checked
def build_engine(
    bundle: Bundle | Path | str,
    precision: Precision | None = None,
    backend: build.BuildBackend = "auto",
    options: EngineOptions = DEFAULT_OPTIONS,
    *,
    memory_mib: int | None = None,
    lock_timeout: float | None = None,
    builder: build.Builder | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> store.Engine:
    """Return an engine of `bundle`; build it unless the very same one is there, or with `force`.

    The backend ``trt`` builds for this machine's own GPU, ``rtx`` for any desktop GPU that it
    knows, ``auto`` is the first of them that can. Another build of the same bundle is waited for,
    `lock_timeout` seconds at most.

    Raises:
        SpecError: the target or the options are impossible.
        ArtifactError: the graph is missing or edited, or the disk refuses.
        BackendError: TensorRT refuses the graph, crashed or ran out of memory.
        GateFailed: it would compute in a wider precision than the bundle asks for.
        MissingDependencyError: there is no TensorRT.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    precision = precision or bundle.smallest_precision
    bundle.artifact(bundle.graph(precision, "tensorrt"))  # or say how to make it, before any work
    builder = builder or build.choose_builder(backend, options.targets)
    if not builder.can_build:
        raise BackendError(
            f"{builder.title} runs engines and builds none. Install the full TensorRT, or build on "
            "another machine with the same GPU and version"
        )
    refuse_hardware(find_format(precision), builder.hardware)
    wanted = identify(bundle, precision, builder, options)
    store.refuse_an_unwritable_state()
    folder = store.writable_folder(bundle, progress.note)
    with locked(folder / LOCK, progress, lock_timeout):
        for engine in _candidates(bundle, precision, builder.backend) if not force else ():
            if _unfit(engine, wanted) is None:
                return engine
        built = _build(bundle, folder, wanted, builder, memory_mib, progress)
        for engine in store.list_engines(folder):
            if engine.path != built.path and _is_superseded(engine.sidecar.identity, wanted):
                store.remove_engine(engine)
    return built


def discard_outdated(bundle: Bundle, progress: Progress = SILENT) -> None:
    """Remove the engines in `bundle` that were built from graphs that it no longer holds."""
    folder = bundle.path / "engines"
    if not folder.is_dir():
        return
    present = {artifact.sha256 for artifact in bundle.manifest.artifacts.values()}
    with locked(folder / LOCK, progress), refuse_os_errors(folder):
        for engine in list(store.list_engines(folder)):
            fits = engine.sidecar.identity.onnx_digest in present
            progress.note(f"{'kept' if fits else 'gone'}: engines/{engine.path.name}")
            if not fits:
                store.remove_engine(engine)


def refuse_hardware(wanted: NumberFormat, hardware: Hardware) -> None:
    """Refuse, by a BackendError, to build for a GPU that does not compute in `wanted`."""
    digits = hardware.compute_capability.removeprefix("sm_")
    if digits.isdigit() and divmod(int(digits), 10) < wanted.compute_capability:
        least = "".join(map(str, wanted.compute_capability))
        raise BackendError(
            f"{hardware.gpu} is sm_{digits}, and {wanted.title} takes sm_{least} or later. "
            f"Take a wider format: --precision {REFERENCE}"
        )


def identify(
    bundle: Bundle, precision: Precision, builder: build.Builder, options: EngineOptions
) -> EngineIdentity:
    """Return the identity of the engine that is wanted, or raise a SpecError."""
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
        targets=build.choose_targets(builder, options.targets),
        driver="" if is_rtx else hardware.driver,
        cuda="" if is_rtx else hardware.cuda,
        batches=None if fixed else options.batches or ONE_IMAGE,
        optimization_level=options.optimization_level,
    )


def _candidates(
    bundle: Bundle, precision: Precision, backend: TrtBackend
) -> Iterator[store.Engine]:
    """Yield the engines of that precision and backend, those in the bundle first."""
    for folder in store.engine_folders(bundle):
        for engine in store.list_engines(folder):
            identity = engine.sidecar.identity
            if (identity.precision, identity.backend) == (precision, backend):
                yield engine


def _distance(engine: store.Engine, batch_size: int) -> tuple[bool, int]:
    """Whether `engine` refuses `batch_size`, and how many images off it is tuned; for sorting."""
    least, usual, most = engine.sidecar.identity.batches or (batch_size,) * 3
    return not least <= batch_size <= most, abs(usual - batch_size)


def _unfit(
    engine: store.Engine,
    wanted: EngineIdentity,
    *,
    ignores_options: bool = False,
    trusts: bool = False,
) -> str | None:
    """Return in words why `engine` will not do; None where it will.

    With `trusts`, one that was not built here will do, and is trusted from now on.
    """
    found = engine.sidecar.identity
    if ignores_options:
        wanted = dataclasses.replace(
            wanted, batches=found.batches, optimization_level=found.optimization_level
        )
    differences = "; ".join(found.differences(wanted))
    if differences:
        return differences
    try:
        engine.read()
    except ArtifactError as error:
        return str(error)
    if store.find_record(engine.sidecar.digest) is not None:
        return None
    if not trusts:
        return (
            "it was not built here, and an engine can run code when it loads. "
            "If you know where it is from: --trust-engine"
        )
    store.keep_record(engine.sidecar.digest, store.TrustRecord())
    return None


def _is_superseded(old: EngineIdentity, new: EngineIdentity) -> bool:
    """Whether `old` is of no more use once there is `new`: it serves no other machine."""
    here = ("precision", "backend", "gpu", "targets", "batches", "optimization_level")
    return all(getattr(old, name) == getattr(new, name) for name in here)


def _build(
    bundle: Bundle,
    folder: Path,
    wanted: EngineIdentity,
    builder: build.Builder,
    memory_mib: int | None,
    progress: Progress,
) -> store.Engine:
    onnx = bundle.graph(wanted.precision, "tensorrt")
    weights = bundle.find_weights(onnx)
    num_bytes = bundle.artifact(onnx).num_bytes + (weights.stat().st_size if weights else 0)
    _refuse_a_full_disk(folder, num_bytes)
    what = f"{wanted.precision} engine"
    asked = what_was_asked(bundle, wanted.precision)
    path = _free_path(folder, wanted)
    with store.draft(folder, path.name) as plan_path:
        request = build.PlanRequest(
            backend=builder.backend,
            device=builder.device,
            onnx_path=str(bundle.locate(onnx)),
            onnx_digest=wanted.onnx_digest,
            has_weights_beside=weights is not None,
            plan_path=str(plan_path),
            batches=wanted.batches,
            optimization_level=wanted.optimization_level,
            targets=wanted.targets if builder.backend == "rtx" else (),
            timing_cache=_timing_cache(builder),
        )
        report = build.build_plan(builder, request, asked, what, progress, memory_mib)
        audit = report.audit
        store.keep_record(report.digest, store.TrustRecord(built=_now()))
        if builder.hardware.is_here:
            inspected = build.probe_plan(plan_path, report.digest, builder, progress)
            audit = build.audit_plan(inspected, report.audit, progress)
            check_audit(audit, asked, what)
        sidecar = store.Sidecar(
            format=store.SIDECAR_FORMAT,
            identity=wanted,
            digest=report.digest,
            num_bytes=report.num_bytes,
            created=_now(),
            seconds=report.seconds,
            edge_vit=installed_versions()["edge-vit"],
            warnings=report.warnings,
            audit=audit,
        )
        with refuse_os_errors(path):
            plan_path.replace(path)
        store.write_sidecar(path, sidecar)
    return store.Engine(path, sidecar, is_new=True)


def _free_path(folder: Path, identity: EngineIdentity) -> Path:
    """Return where a new plan goes: an old one stays whole until the new one has its sidecar.

    A plan without a sidecar is what a builder that was killed left, and is written over.
    """
    key = digest_of(json.dumps(to_json(identity), sort_keys=True).encode())[:10]
    where = re.sub(r"[^A-Za-z0-9]+", "-", identity.gpu).strip("-") or "+".join(identity.targets)
    name = f"{identity.precision}-{identity.backend}{identity.version}-{where}-{key}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    paths = (folder / f"{each}{store.PLAN_SUFFIX}" for each in names)
    return next(path for path in paths if not store.sidecar_path(path).exists())


def _timing_cache(builder: build.Builder) -> str:
    """The file that a build reads and writes, by GPU, version and CUDA; empty for none."""
    if not builder.takes_timing_cache:
        return ""
    hardware = builder.hardware
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", hardware.gpu).strip("-")
    name = f"{gpu}-{builder.backend}{builder.version}-cuda{hardware.cuda}.cache"
    return str(store.cache_folder() / "timing" / name)


def _refuse_a_full_disk(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _SPARE_BYTES:
        raise ArtifactError(
            f"{folder}: {free / 2**20:.0f} MiB are left on the disk, and the engine wants about "
            f"{num_bytes / 2**20:.0f} MiB. Free some space"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
