"""From a bundle to a session on the GPU: an engine found or built, tested, and once built anew."""

from __future__ import annotations

import logging
from functools import partial

from edge_vit.bundle import Bundle
from edge_vit.errors import BackendError
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.cudart import GpuMemoryError, open_cuda
from edge_vit.runtime.self_test import check_session
from edge_vit.runtime.session import SessionOptions
from edge_vit.runtime.trt.api import TrtBackend, open_api
from edge_vit.runtime.trt.build import builder_of
from edge_vit.runtime.trt.engines import build_engine, find_engine
from edge_vit.runtime.trt.identity import hardware_of
from edge_vit.runtime.trt.network import OutOfMemoryError
from edge_vit.runtime.trt.session import EngineFile, RtxSession, TrtSession
from edge_vit.runtime.trt.store import Engine, cache_folder
from edge_vit.spec import Precision

_LOG = logging.getLogger(__name__)


def open_engine_session(
    backend: TrtBackend,
    bundle: Bundle,
    precision: Precision,
    options: SessionOptions,
    progress: Progress = SILENT,
) -> TrtSession:
    """Return a session of an engine that fits this machine and passed the self-test.

    An engine that was found and then does not load, or gives other outputs than the model, is built
    once more; the second failure stands.
    """
    cuda = open_cuda(options.device, options.wait)  # first: without a driver TensorRT may crash
    api = open_api(backend)
    builder = builder_of(api, hardware_of(cuda), options.device)

    def load(engine: Engine) -> TrtSession:
        """Load `engine` and test it; nothing is kept where that fails."""
        name = engine.path.name
        with progress.step(f"loading {name}"):
            loaded = api.load(engine.read())
        kernels = None
        if api.has_runtime_cache:  # code too: it is kept where the user alone writes
            suffix = f"{builder.hardware.compute_capability}.kernels"
            kernels = cache_folder() / "kernels" / f"{engine.sidecar.digest[:24]}-{suffix}"
        file = EngineFile(loaded, name, api.captures_graphs, kernels)
        kind = RtxSession if backend == "rtx" else TrtSession
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
        return load(engine)
    except (GpuMemoryError, OutOfMemoryError):
        raise  # another engine would want as much
    except BackendError as error:
        if engine.is_new or not options.may_build:
            raise
        _LOG.warning("%s: %s. Building it once more", engine.path.name, error)
    again = engine.sidecar.identity.options
    return load(
        build_engine(
            bundle, precision, backend, again, builder=builder, force=True, progress=progress
        )
    )


open_trt = partial(open_engine_session, "trt")  # opener of the backend ``trt``

open_rtx = partial(open_engine_session, "rtx")  # opener of the backend ``rtx``
