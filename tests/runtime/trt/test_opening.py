"""The failure ladder: an engine that fails is built once more, then the CPU where it may."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from simulated_cuda import SimulatedCuda
from simulated_engine import SimulatedEngine, load_simulated
from tiny_graph import golden_bundle, tiny_images, tiny_outputs

from edge_vit.errors import ArtifactError, BackendError, DeviceLostError, SpecError
from edge_vit.runtime import SessionOptions, open_session
from edge_vit.runtime.cudart import Cuda
from edge_vit.runtime.options import collect_degraded
from edge_vit.runtime.trt import opening
from edge_vit.runtime.trt.identity import EngineOptions
from edge_vit.runtime.trt.session import EngineFile

FEEDS = {"images": tiny_images(3)}
FEATURES = {
    **{"can_build": True, "targets": (), "takes_timing_cache": True},
    **{"has_runtime_cache": False, "captures_graphs": False},
}


@dataclass
class Machine:
    """A GPU and a TensorRT that are simulated; `engines` says what each plan computes.

    Attributes:
        engines: by the number of the plan, how the answers are changed; None for one that does not
            load. Plan 0 was found, each build makes the next.
    """

    engines: list
    is_new: bool = False
    cuda: SimulatedCuda = field(default_factory=SimulatedCuda)
    asked: dict = field(default_factory=dict)
    num_builds: int = 0
    built_with: object = None

    def find_engine(self, bundle, precision, backend, **asked):
        self.asked = asked
        return self.engine(0, self.is_new)

    def build_engine(self, bundle, precision, backend, options, **asked):
        assert asked["force"]
        self.num_builds += 1
        self.built_with = options
        return self.engine(self.num_builds, True)

    def engine(self, number, is_new):
        identity = SimpleNamespace(options=EngineOptions((1, 4, 8), 2))
        return SimpleNamespace(
            path=Path(f"{number}.engine"),
            is_new=is_new,
            read=lambda: bytes([number]),
            sidecar=SimpleNamespace(identity=identity, digest="5" * 64),
        )

    def load(self, plan):
        change = self.engines[plan[0]]
        if change is None:
            raise BackendError(
                "TensorRT 10.3.0 cannot load this engine: version tag does not match"
            )
        engine = SimulatedEngine(self.cuda, compute=lambda images: change(tiny_outputs(images)))
        return load_simulated(engine)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return golden_bundle(tmp_path_factory.mktemp("ladder") / "tiny.edgevit")


@pytest.fixture
def machine(monkeypatch):
    """A function (engines) that puts a `Machine` in place of this one."""
    machines = []

    def make(*engines, **settings):
        machine = Machine(list(engines), **settings)
        api = SimpleNamespace(
            backend="trt",
            version="10.3.0",
            title="TensorRT 10.3.0",
            load=machine.load,
            **FEATURES,
        )
        monkeypatch.setattr(
            opening, "open_cuda", lambda device, wait: Cuda(machine.cuda, device, wait)
        )
        monkeypatch.setattr(opening, "open_api", lambda backend: api)
        monkeypatch.setattr(opening, "find_engine", machine.find_engine)
        monkeypatch.setattr(opening, "build_engine", machine.build_engine)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.cuda.assert_clean()


def forget(cuda):
    """What went with the GPU."""
    cuda.blocks.clear()
    cuda.handles.clear()


def right(logits):
    return logits


def wrong(logits):
    return -logits


def test_an_engine_that_fits_is_opened_and_tested(bundle, machine):
    here = machine(right)
    with open_session(bundle, "fp32", "trt") as session:
        np.testing.assert_allclose(session.run(FEEDS)["logits"], tiny_outputs(FEEDS["images"]))
        assert (session.backend, session.degraded) == ("trt", "")
    assert here.num_builds == 0
    assert (here.asked["may_build"], here.asked["trusts"]) == (True, False)


def test_the_options_reach_the_engines(bundle, machine):
    here = machine(right)
    open_session(bundle, "fp32", "trt", SessionOptions(may_build=False, trust_engine=True)).close()
    assert (here.asked["may_build"], here.asked["trusts"]) == (False, True)


@pytest.mark.parametrize("bad", [None, wrong], ids=["does not load", "wrong answers"])
def test_an_engine_that_fails_is_built_once_more(bundle, machine, caplog, bad):
    here = machine(bad, right)
    with caplog.at_level(logging.WARNING), open_session(bundle, "fp32", "trt") as session:
        np.testing.assert_allclose(session.run(FEEDS)["logits"], tiny_outputs(FEEDS["images"]))
    assert here.num_builds == 1
    assert (here.built_with.batches, here.built_with.optimization_level) == ((1, 4, 8), 2)
    assert "0.engine: " in caplog.text
    assert "Building it once more" in caplog.text


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        ((None, None), "cannot load this engine: version tag does not match"),
        ((wrong, wrong), r"1\.engine gives other answers than the model: .*--no-self-test"),
    ],
)
def test_the_second_failure_stands(bundle, machine, engines, message):
    here = machine(*engines)
    with pytest.raises(BackendError, match=message):
        open_session(bundle, "fp32", "trt")
    assert here.num_builds == 1


def test_an_engine_that_was_just_built_is_not_built_again(bundle, machine):
    here = machine(wrong, right, is_new=True)
    with pytest.raises(BackendError, match="other answers than the model"):
        open_session(bundle, "fp32", "trt")
    assert here.num_builds == 0


def test_nothing_is_built_where_nothing_may_be(bundle, machine):
    here = machine(None, right)
    with pytest.raises(BackendError, match="version tag"):
        open_session(bundle, "fp32", "trt", SessionOptions(may_build=False))
    assert here.num_builds == 0


def test_without_the_self_test_a_wrong_engine_runs(bundle, machine):
    machine(wrong)
    with open_session(bundle, "fp32", "trt", SessionOptions(self_test=False)) as session:
        assert not np.allclose(session.run(FEEDS)["logits"], tiny_outputs(FEEDS["images"]))


def test_the_cpu_takes_over_where_it_may_and_says_so(bundle, machine, caplog):
    machine(wrong, wrong)
    options = SessionOptions(1, fallback="cpu")
    with (
        caplog.at_level(logging.WARNING),
        collect_degraded() as degraded,
        open_session(bundle, "fp32", "trt", options) as session,
    ):
        logits = session.run(FEEDS)["logits"]
    np.testing.assert_allclose(logits, tiny_outputs(FEEDS["images"]), atol=1e-5)
    assert session.backend in ("ort", "openvino")
    assert not session.is_on_gpu
    assert session.degraded.startswith("trt cannot run fp32 of ")
    (said,) = degraded
    assert "1.engine gives other answers" in said
    assert said.endswith(f"Running on {session.backend} instead, as --fallback cpu allows")
    assert said in caplog.text


@pytest.mark.parametrize(
    ("cuda", "message"),
    [
        (SimulatedCuda(driver=0), "this machine has no NVIDIA driver"),
        (SimulatedCuda(driver=12020), "the NVIDIA driver knows CUDA 12.2"),
        (SimulatedCuda(memory=64), "cudaErrorMemoryAllocation, 0 of 0 MiB are free"),
    ],
    ids=["no driver", "old driver", "no memory"],
)
def test_what_the_machine_lacks_is_one_line_and_may_fall_back(bundle, machine, cuda, message):
    here = machine(right, right, cuda=cuda)
    with pytest.raises(BackendError, match=message) as caught:
        open_session(bundle, "fp32", "trt")
    assert "\n" not in str(caught.value)
    with open_session(bundle, "fp32", "trt", SessionOptions(1, fallback="cpu")) as session:
        assert message in session.degraded
    assert here.num_builds == 0


def test_a_session_that_cannot_be_opened_leaves_nothing(bundle, machine):
    here = machine(right)
    here.cuda.fail("cudaEventCreateWithFlags", 2)
    with pytest.raises(BackendError, match="cudaEventCreateWithFlags"):
        open_session(bundle, "fp32", "trt", SessionOptions(may_build=False))


def test_rtx_keeps_its_kernels_where_the_user_alone_writes(bundle, machine, monkeypatch, tmp_path):
    machine(right)
    files = []
    kind = opening.RtxSession

    def remember(file, *arguments):
        files.append(file)
        return kind(EngineFile(file.engine, file.name), *arguments)

    monkeypatch.setattr(opening, "RtxSession", remember)
    api = opening.open_api("rtx")
    features = {**FEATURES, "has_runtime_cache": True, "captures_graphs": True}
    monkeypatch.setattr(
        opening,
        "open_api",
        lambda name: SimpleNamespace(
            backend=name, version="1.7", title="RTX", load=api.load, **features
        ),
    )
    open_session(bundle, "fp32", "rtx").close()
    (file,) = files
    assert file.captures_graphs
    assert file.cache_path.is_relative_to(tmp_path / "cache")
    assert file.cache_path.name.endswith("-sm_87.kernels")


def test_a_stale_engine_that_may_not_be_built_falls_back(bundle, machine, monkeypatch):
    machine(right)

    def refuse(*args, **asked):
        raise ArtifactError("no fp32 engine for this machine (TensorRT 10.3 there, 10.16 here)")

    monkeypatch.setattr(opening, "find_engine", refuse)
    options = SessionOptions(1, fallback="cpu", may_build=False)
    with open_session(bundle, "fp32", "trt", options) as session:
        assert "TensorRT 10.3 there, 10.16 here" in session.degraded


def test_a_lost_gpu_never_falls_back(bundle, machine):
    here = machine(right)
    here.cuda.fail("cudaEventSynchronize", 700)
    with pytest.raises(DeviceLostError) as caught:
        open_session(bundle, "fp32", "trt", SessionOptions(fallback="cpu"))
    assert caught.value.exit_status == 4
    forget(here.cuda)


def test_a_gpu_that_is_lost_in_the_middle_has_its_own_error(bundle, machine):
    here = machine(right)
    with open_session(bundle, "fp32", "trt") as session:
        session.run(FEEDS)
        here.cuda.fail("cudaEventSynchronize", 719)
        with pytest.raises(DeviceLostError, match="cudaErrorLaunchFailure"):
            session.run(FEEDS)
    forget(here.cuda)


def test_unknown_options_never_fall_back(bundle):
    with pytest.raises(SpecError, match="provider: got 'cuda'"):
        open_session(bundle, "fp32", "trt", SessionOptions(provider="cuda", fallback="cpu"))


def test_a_cpu_backend_has_nothing_to_fall_back_to(bundle, monkeypatch):
    monkeypatch.setattr("edge_vit.runtime.ort.OrtSession", None)
    with pytest.raises(TypeError):
        open_session(bundle, "fp32", "ort", SessionOptions(fallback="cpu"))
