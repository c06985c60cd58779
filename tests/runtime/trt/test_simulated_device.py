"""The road of a device, with TensorRT 10.3 and a GPU that are made up: built, loaded, audited.

Children are played in this process by the worker's own functions over the fake package.
"""

from __future__ import annotations

import dataclasses
import json

import pytest

from edge_vit.errors import ArtifactError, BackendError, EdgeVitError, GateFailed, SpecError
from edge_vit.runtime.trt import build, worker
from edge_vit.runtime.trt.api import TrtApi
from edge_vit.runtime.trt.engines import build_engine, find_engine
from edge_vit.runtime.trt.identity import EngineOptions
from edge_vit.runtime.trt.network import OutOfMemoryError
from edge_vit.runtime.trt.store import (
    TrustRecord,
    cache_folder,
    find_record,
    keep_record,
    list_engines,
)
from edge_vit.spec import image_input
from tests.runtime.trt.bundles import ORIN
from tests.runtime.trt.fake_trt import Severity, fake_trt
from tests.runtime.trt.inspected import ROLES, inspected, vit_layers


class Device:
    """A machine with a TensorRT; its habits may be changed in between."""

    def __init__(self, version, monkeypatch):
        self.version, self.habits, self.hardware = version, {}, ORIN.hardware
        self.requests, self.opened = [], []
        monkeypatch.setattr(worker, "open_api", lambda backend: self.api())
        monkeypatch.setattr(worker, "find_hardware", lambda *device, **options: self.hardware)
        monkeypatch.setattr(build, "run_child", self.run)

    def api(self):
        self.opened.append(fake_trt(self.version, **self.habits))
        return TrtApi("trt", self.opened[-1])

    def calls(self, name):
        return [call[1:] for trt in self.opened for call in trt.calls if call[0] == name]

    def run(self, request, on_event, purpose):
        self.requests.append(request["operation"])
        request = json.loads(json.dumps(request))  # as the pipe does it

        def send(event):
            on_event(json.loads(json.dumps(event)))

        operations = {"build": worker._build, "load": worker._load, "describe": worker._describe}
        operation = operations[request["operation"]]
        answer = operation(request, send)
        return json.loads(json.dumps(answer))

    @property
    def builder(self):
        return build.find_builder("trt")


def make_device(version, monkeypatch):
    device = Device(version, monkeypatch)
    major = int(version.partition(".")[0])
    sites = [f"block{i}/{role}" for i in range(2) for role in ROLES]
    device.habits["layers"] = [(site, "int8") for site in sites]
    device.habits["inspected"] = inspected(major, vit_layers(major))
    return device


@pytest.fixture(params=["10.3", "10.16", "11.0", "11.4"])
def device(request, monkeypatch):
    return make_device(request.param, monkeypatch)


@pytest.fixture
def old_device(monkeypatch):
    return make_device("10.3", monkeypatch)


def test_finds_the_builder_and_the_gpu(device):
    builder = device.builder
    assert builder.title == f"TensorRT {builder.version}"
    assert builder.hardware == ORIN.hardware
    assert builder.takes_timing_cache


def test_builds_loads_and_audits(device, bundle, watched, tmp_path):
    engine = build_engine(bundle, "int8", "trt", builder=device.builder, progress=watched)
    identity = engine.sidecar.identity
    assert (identity.gpu, identity.targets) == ("Orin", ("sm_87",))
    assert (identity.driver, identity.cuda) == ("12.6", "12")
    assert engine.path.name.startswith(f"int8-trt{identity.version}-Orin-")
    assert device.requests == ["describe", "build", "load"]
    audit = engine.sidecar.audit
    assert (audit.witness, audit.num_fused, audit.num_reformats) == ("engine", 2, 1)
    assert watched.steps[-1][0].startswith("loading .int8-trt")
    (record,) = [find_record(engine.sidecar.digest)]
    assert record.built
    assert record.loaded_with == (f"TensorRT {identity.version}, Orin, driver 12.6",)
    cache = tmp_path / "cache" / "edge-vit" / "timing"
    assert [p.name for p in cache.iterdir()] == [f"Orin-trt{identity.version}-cuda12.cache"]
    assert next(cache.iterdir()).read_bytes() == b"timed"


def test_takes_the_engine_that_is_tuned_closest_to_the_runs(old_device, bundle):
    builder = old_device.builder
    for batches in ((1, 1, 1), (4, 4, 4), (2, 8, 8)):  # the newest last
        build_engine(bundle, "int8", "trt", EngineOptions(batches), builder=builder)
    taken = {
        size: find_engine(bundle, "int8", "trt", builder=builder, batch_size=size, may_build=False)
        for size in (1, 2, 4, 5, 9)
    }
    assert {size: engine.sidecar.identity.batches for size, engine in taken.items()} == {
        1: (1, 1, 1),
        2: (2, 8, 8),
        4: (4, 4, 4),
        5: (2, 8, 8),
        9: (2, 8, 8),  # none holds it: runs are split
    }


def test_a_first_engine_is_built_for_the_runs(old_device, bundle):
    engine = find_engine(bundle, "int8", "trt", builder=old_device.builder, batch_size=8)
    assert engine.sidecar.identity.batches == (8, 8, 8)


def test_a_plan_that_was_loaded_is_not_probed_again(old_device, bundle):
    build_engine(bundle, "int8", "trt", builder=old_device.builder)
    found = find_engine(bundle, "int8", "trt", builder=old_device.builder, may_build=False)
    assert not found.is_new
    assert old_device.requests.count("load") == 1


def test_a_new_driver_makes_a_new_engine(old_device, bundle, watched):
    first = build_engine(bundle, "int8", "trt", builder=old_device.builder)
    old_device.hardware = dataclasses.replace(old_device.hardware, driver="12.8")
    again = find_engine(bundle, "int8", "trt", builder=old_device.builder, progress=watched)
    assert again.is_new
    assert watched.notes == [
        f"building a new engine: {first.path.name}: driver 12.6 there, 12.8 here"
    ]
    assert [engine.path for engine in list_engines(bundle.path / "engines")] == [again.path]


def test_a_stale_engine_is_replaced_by_its_like(old_device, bundle):
    options = EngineOptions((1, 4, 8), 2)
    build_engine(bundle, "int8", "trt", options, builder=old_device.builder)
    old_device.hardware = dataclasses.replace(old_device.hardware, driver="12.8")
    again = find_engine(bundle, "int8", "trt", builder=old_device.builder)
    assert again.is_new
    assert again.sidecar.identity.options == options


def test_the_timing_cache_is_read_again(old_device, bundle):
    for _ in range(2):
        build_engine(bundle, "int8", "trt", builder=old_device.builder, force=True)
    assert old_device.calls("create_timing_cache") == [(b"",), (b"timed",)]
    (cache,) = (cache_folder() / "timing").iterdir()
    assert cache.read_bytes() == b"timed"


def test_a_timing_cache_that_cannot_be_written_loses_no_engine(old_device, bundle):
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "timing").write_text("")
    engine = build_engine(bundle, "int8", "trt", builder=old_device.builder)
    (warning,) = engine.sidecar.warnings
    assert warning.startswith("the timing cache is lost: cannot write ")


def test_a_graph_whose_batch_is_fixed_now_asks_for_no_range(old_device, bundle):
    options = EngineOptions((1, 4, 8))
    build_engine(bundle, "int8", "trt", options, builder=old_device.builder)
    spec = dataclasses.replace(bundle.spec, inputs=(image_input((32, 32), 2),))
    manifest = dataclasses.replace(bundle.manifest, spec=spec)
    fixed = dataclasses.replace(bundle, manifest=manifest)
    old_device.hardware = dataclasses.replace(old_device.hardware, driver="12.8")
    again = find_engine(fixed, "int8", "trt", builder=old_device.builder)
    assert again.sidecar.identity.batches is None


def test_a_fixed_batch_takes_no_other(old_device, bundle):
    spec = dataclasses.replace(bundle.spec, inputs=(image_input((32, 32), 2),))
    manifest = dataclasses.replace(bundle.manifest, spec=spec)
    fixed = dataclasses.replace(bundle, manifest=manifest)
    with pytest.raises(SpecError, match="batch: got 4, but the graph's is fixed at 2"):
        build_engine(fixed, "int8", "trt", EngineOptions((4, 4, 4)), builder=old_device.builder)
    same = EngineOptions((2, 2, 2))
    engine = build_engine(fixed, "int8", "trt", same, builder=old_device.builder)
    assert engine.sidecar.identity.batches is None


def test_the_workspace_follows_from_the_device(old_device, bundle, monkeypatch):
    monkeypatch.setattr(build, "available_bytes", lambda path: 1 << 30)
    build_engine(bundle, "int8", "trt", builder=old_device.builder)
    limits = {"memory_mib": 300}
    build_engine(bundle, "int8", "trt", **limits, builder=old_device.builder, force=True)
    assert old_device.calls("limit") == [("WORKSPACE", 1 << 29), ("WORKSPACE", 300 << 20)]


def test_a_wider_engine_is_not_kept(old_device, bundle):
    old_device.habits["inspected"] = inspected(10, vit_layers(10, linear="fp32"))
    with pytest.raises(GateFailed, match="block0/qkv computes in fp32, asked was int8"):
        build_engine(bundle, "int8", "trt", builder=old_device.builder)
    assert list((bundle.path / "engines").iterdir()) == []


def test_a_plan_that_does_not_load_is_not_kept(old_device, bundle):
    old_device.habits["refuses_plan"] = True
    with pytest.raises(BackendError, match="cannot load this engine"):
        build_engine(bundle, "int8", "trt", builder=old_device.builder)
    assert list((bundle.path / "engines").iterdir()) == []


def test_a_plan_of_another_version_is_built_again(old_device, bundle, watched):
    build_engine(bundle, "int8", "trt", builder=old_device.builder)
    old_device.version = "10.16"
    engine = find_engine(bundle, "int8", "trt", builder=old_device.builder, progress=watched)
    assert engine.sidecar.identity.version == "10.16.2"
    assert watched.notes[0].endswith("TensorRT 10.3.0 there, 10.16.2 here")


def fail_first_load(monkeypatch, error):
    """Let the next load of a plan in a child fail; those after it are as ever."""
    errors, probe_plan = [error], build.probe_plan

    def probe_or_fail(*arguments):
        if errors:
            raise errors.pop()
        return probe_plan(*arguments)

    monkeypatch.setattr(build, "probe_plan", probe_or_fail)


@pytest.mark.parametrize("may_build", [True, False])
def test_an_engine_that_does_not_load_any_more_is_built_again(
    old_device, bundle, watched, monkeypatch, may_build
):
    first = build_engine(bundle, "int8", "trt", builder=old_device.builder)
    keep_record(first.sidecar.digest, TrustRecord(built="here"))  # and not loaded so far
    fail_first_load(monkeypatch, BackendError("the child crashed while loading it"))
    asked = {"builder": old_device.builder, "may_build": may_build, "progress": watched}
    if not may_build:
        with pytest.raises(ArtifactError, match=r"crashed while loading it\), and none may be"):
            find_engine(bundle, "int8", "trt", **asked)
        return
    again = find_engine(bundle, "int8", "trt", **asked)
    assert again.is_new
    assert watched.notes[0].endswith("the child crashed while loading it")
    assert old_device.requests.count("build") == 2


def test_too_little_memory_is_no_reason_to_build_again(old_device, bundle, monkeypatch):
    first = build_engine(bundle, "int8", "trt", builder=old_device.builder)
    keep_record(first.sidecar.digest, TrustRecord(built="here"))
    fail_first_load(monkeypatch, OutOfMemoryError("no memory"))
    with pytest.raises(OutOfMemoryError):
        find_engine(bundle, "int8", "trt", builder=old_device.builder)
    assert old_device.requests.count("build") == 1


def test_memory_runs_out(old_device, bundle, watched):
    old_device.habits["says"] = ((Severity.ERROR, "Error Code 2: OutOfMemory (no memory)"),)
    with pytest.raises(EdgeVitError, match=r"ran out of memory.*--memory 256$"):
        build_engine(bundle, "int8", "trt", builder=old_device.builder, progress=watched)
    assert len(watched.notes) == 3
    assert list((bundle.path / "engines").iterdir()) == []
