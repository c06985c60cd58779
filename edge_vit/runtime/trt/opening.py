"""From a bundle to a session on the GPU: an engine found or built, tested, and once built anew."""

from __future__ import annotations

import logging

from edge_vit.bundle import Bundle
from edge_vit.errors import BackendError
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.cudart import Cuda, GpuMemoryError, open_cuda
from edge_vit.runtime.self_test import check_session
from edge_vit.runtime.session import SessionOptions
from edge_vit.runtime.trt.api import TrtApi, TrtBackend, open_api
from edge_vit.runtime.trt.build import builder_of
from edge_vit.runtime.trt.engines import build_engine, find_engine
from edge_vit.runtime.trt.hardware import hardware_of
from edge_vit.runtime.trt.network import OutOfMemoryError
from edge_vit.runtime.trt.session import EngineFile, RtxSession, TrtSession
from edge_vit.runtime.trt.sidecar import Engine
from edge_vit.runtime.trt.trust import cache_folder
from edge_vit.spec import Precision

_LOG = logging.getLogger(__name__)

_KERNELS_SUFFIX = ".kernels"


def open_trt(
    bundle: Bundle, precision: Precision, options: SessionOptions, progress: Progress = SILENT
) -> TrtSession:
    """Return a session that runs a TensorRT engine of `bundle`; see `open_engine_session`."""
    return open_engine_session(bundle, precision, "trt", options, progress)


def open_rtx(
    bundle: Bundle, precision: Precision, options: SessionOptions, progress: Progress = SILENT
) -> TrtSession:
    """Return a session that runs a TensorRT-RTX engine of `bundle`; see `open_engine_session`."""
    return open_engine_session(bundle, precision, "rtx", options, progress)


def open_engine_session(
    bundle: Bundle,
    precision: Precision,
    backend: TrtBackend,
    options: SessionOptions,
    progress: Progress = SILENT,
) -> TrtSession:
    """Return a session of an engine that fits this machine and passed the self-test.

    An engine that was found and then does not load, or gives other answers than the model, is built
    once more; the second failure stands.

    Args:
        bundle: whose engine.
        precision: of its graph.
        backend: ``trt`` or ``rtx``.
        options: whether to build, to trust and to test, and how to run.
        progress: follows the build.

    Raises:
        ArtifactError: no engine fits and none may be built.
        BackendError: there is no GPU or no memory, or the engine is wrong.
        DeviceLostError: the GPU is lost.
        MissingDependencyError: TensorRT or CUDA's runtime is not installed.
    """
    cuda = open_cuda(options.device, options.wait)  # first: without a driver TensorRT may crash
    api = open_api(backend)
    hardware = hardware_of(cuda.facts, cuda.free_memory()[0])
    builder = builder_of(api, hardware, options.device)
    engine = find_engine(
        bundle,
        precision,
        backend,
        builder=builder,
        may_build=options.may_build,
        trusts=options.trust_engine,
        batch_size=options.batch_size or 1,
        progress=progress,
    )
    try:
        return _open(engine, bundle, precision, options, api, cuda, progress)
    except (GpuMemoryError, OutOfMemoryError):
        raise  # another engine would want as much
    except BackendError as error:
        if engine.is_new or not options.may_build:
            raise
        _LOG.warning("%s: %s. Building it once more", engine.path.name, error)
    engine = build_engine(
        bundle,
        precision,
        backend,
        engine.sidecar.identity.options,
        builder=builder,
        force=True,
        progress=progress,
    )
    return _open(engine, bundle, precision, options, api, cuda, progress)


def _open(
    engine: Engine,
    bundle: Bundle,
    precision: Precision,
    options: SessionOptions,
    api: TrtApi,
    cuda: Cuda,
    progress: Progress,
) -> TrtSession:
    """Load `engine` and test it; nothing is kept where that fails."""
    name = engine.path.name
    with progress.step(f"loading {name}"):
        loaded = api.load(engine.read())
    kernels = None
    if api.capabilities.has_runtime_cache:  # code too, so it is kept where the user alone writes
        sm = "sm_{}{}".format(*cuda.facts.compute_capability)
        kept = cache_folder() / "kernels"
        kernels = kept / f"{engine.sidecar.digest[:24]}-{sm}{_KERNELS_SUFFIX}"
    file = EngineFile(loaded, name, api.capabilities.captures_graphs, kernels)
    kind = RtxSession if api.backend == "rtx" else TrtSession
    try:
        session = kind(file, cuda, bundle.spec, precision, options)
    except BaseException:
        loaded.close()
        raise
    if options.self_test:
        try:
            with progress.step(f"testing {name} on the golden images"):
                check_session(session, bundle, name)
        except BaseException:
            session.close()
            raise
    return session
