"""The adapter's contract: on every version of TensorRT it touches only names that all have."""

from __future__ import annotations

import importlib
import sys

import pytest

from edge_vit.errors import BackendError, MissingDependencyError
from edge_vit.runtime.trt import api
from edge_vit.runtime.trt.api import TrtApi, open_api
from edge_vit.runtime.trt.network import BuilderSettings, OutOfMemoryError, ShapeRange
from tests.runtime.trt.fake_trt import NAMES, VERSIONS, Severity, fake_trt, names

IMAGE = (8, 8, 3)
PROFILE = {"images": ShapeRange((1, *IMAGE), (1, *IMAGE), (8, *IMAGE))}
every_version = pytest.mark.parametrize("version", VERSIONS)


class Watch:
    """Counts."""

    def __init__(self):
        self.steps = 0

    def start(self, phase, parent, num_steps):
        pass

    def step(self, phase, index):
        self.steps += 1

    def finish(self, phase):
        pass


def adapter(version, **habits) -> TrtApi:
    return TrtApi("rtx" if version == "rtx" else "trt", fake_trt(version, **habits))


def calls(trt_api: TrtApi, name: str) -> list[tuple]:
    return [call[1:] for call in trt_api._module.calls if call[0] == name]


@every_version
def test_parses_and_builds(version):
    trt_api, watch = adapter(version), Watch()
    network = trt_api.parse(b"graph")
    assert [tensor.dtype for tensor in network.inputs] == ["UINT8"]
    (layer,) = network.layers
    assert (layer.name, layer.kind, len(layer.inputs)) == ("head", "MATRIX_MULTIPLY", 1)
    takes_cache = trt_api.takes_timing_cache
    built = network.build(
        BuilderSettings(
            PROFILE,
            optimization_level=5,
            workspace_bytes=1 << 20,
            targets=("sm_86",) if version == "rtx" else (),
            timing_cache=b"" if takes_cache else None,
        ),
        watch,
    )
    assert (built.plan, built.warnings, watch.steps) == (b"plan", (), 2)
    assert built.timing_cache == (b"timed" if takes_cache else None)
    assert calls(trt_api, "clear_flag") == [("TF32",)]
    assert calls(trt_api, "limit") == [("WORKSPACE", 1 << 20)]
    typed = fake_trt(version).NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert calls(trt_api, "create_network") == [(1 << typed,)]
    assert calls(trt_api, "target") == ([("SM86", 0)] if version == "rtx" else [])


@every_version
def test_loads_and_runs(version):
    trt_api = adapter(version)
    engine = trt_api.load(b"plan")
    assert list(engine.tensors) == ["images", "logits"]
    assert engine.tensors["images"].profile == PROFILE["images"]
    assert (engine.tensors["images"].dtype, engine.tensors["logits"].dtype) == ("uint8", "float32")
    assert engine.inspect() == '{"Layers": []}'
    context = engine.create_context(captures_graphs=True, runtime_cache=b"old")
    context.set_shape("images", (2, *IMAGE))
    context.set_address("images", 1024)
    assert context.missing() == ("images",)
    assert context.shape_of("logits") == (1, 10)
    assert context.enqueue(7)
    assert calls(trt_api, "execute") == [(7,)]
    is_rtx = version == "rtx"
    assert context.runtime_cache() == (b"kernels" if is_rtx else None)
    assert calls(trt_api, "kernels") == ([(b"old",)] if is_rtx else [])
    ((*config,),) = calls(trt_api, "create_execution_context")
    assert len(config) == is_rtx
    if is_rtx:
        assert config[0].cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
        assert config[0].dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    with pytest.raises(BackendError, match=r"refuses the shape \(9, 8, 8, 3\) of 'images'"):
        context.set_shape("images", (9, *IMAGE))
    with pytest.raises(BackendError, match="refuses an address of 'other'"):
        context.set_address("other", 1024)
    context.close()
    engine.close()


@every_version
def test_finds_what_a_version_can_do(version):
    found = adapter(version)
    assert found.can_build
    is_rtx = version == "rtx"
    assert bool(found.targets) == is_rtx
    assert "sm_87" not in found.targets
    assert found.takes_timing_cache != is_rtx
    assert found.has_runtime_cache == found.captures_graphs == is_rtx


@every_version
def test_a_removed_name_cannot_be_touched(version):
    trt = fake_trt(version)
    removed = [
        (kind, name) for kind in NAMES for name in NAMES[kind].get("gone in 11.1", "").split()
    ]
    assert len(removed) > 30
    for kind, name in removed:
        if hasattr(trt, kind):
            with pytest.raises(pytest.fail.Exception, match="TensorRT 11 removed"):
                hasattr(getattr(trt, kind), name)


def test_a_name_of_a_later_version_is_not_there():
    assert not hasattr(fake_trt("10.3"), "IRuntimeConfig")
    assert not hasattr(fake_trt("10.3").ICudaEngine, "create_runtime_config")
    assert hasattr(fake_trt("10.16").ICudaEngine, "create_runtime_config")
    with pytest.raises(AttributeError):
        fake_trt("11.4").IBuilderConfig().num_compute_capabilities = 1


@every_version
def test_a_refused_graph_names_the_node(version):
    with pytest.raises(BackendError) as caught:
        adapter(version, refuses_graph=True).parse(b"graph")
    assert str(caught.value).endswith(
        "cannot read the graph: node block0/fc1 (Gelu): Assertion failed: no such operator"
    )


@every_version
def test_a_refused_plan_says_why(version):
    with pytest.raises(BackendError, match=r"cannot load this engine: Serialization \(bad\)$"):
        adapter(version, refuses_plan=True).load(b"plan")


def test_an_engine_without_a_numpy_type_is_refused():
    with pytest.raises(BackendError, match="'logits' of the engine is BF16, expected one of FLOAT"):
        adapter("11.4", dtype="BF16").load(b"plan")


def test_a_build_without_memory_is_told_apart():
    says = ((Severity.WARNING, "slow"), (Severity.ERROR, "Error Code 2: OutOfMemory (no memory)"))
    with pytest.raises(OutOfMemoryError, match=r"ran out of memory: OutOfMemory \(no memory\)"):
        adapter("10.3", says=says).parse(b"graph").build(BuilderSettings(), Watch())
    says = ((Severity.INTERNAL_ERROR, "Error Code 10: Could not find any implementation"),)
    with pytest.raises(BackendError, match="cannot build this graph: Could not find any") as caught:
        adapter("10.3", says=says).parse(b"graph").build(BuilderSettings(), Watch())
    assert not isinstance(caught.value, OutOfMemoryError)


def test_a_failure_without_a_word_says_so():
    trt = fake_trt("10.3")
    trt.Builder.build_serialized_network = lambda *_: None
    with pytest.raises(BackendError, match="TensorRT gave no reason"):
        TrtApi("trt", trt).parse(b"graph").build(BuilderSettings(), Watch())


def test_a_timing_cache_of_another_gpu_is_begun_anew():
    answers = iter([False, True])
    trt_api = adapter("10.3", takes_cache=lambda: next(answers))
    built = trt_api.parse(b"graph").build(BuilderSettings(timing_cache=b"old"), Watch())
    assert calls(trt_api, "create_timing_cache") == [(b"old",), (b"",)]
    assert built.timing_cache == b"timed"
    assert built.warnings == ("the timing cache is unusable here, and begun anew",)


def test_warnings_come_back_with_the_plan():
    says = ((Severity.WARNING, "slow"), (Severity.INFO, "chatter"))
    built = adapter("11.0", says=says).parse(b"graph").build(BuilderSettings(), Watch())
    assert built.warnings == ("slow",)


def test_the_lean_runtime_builds_nothing():
    trt = fake_trt("11.4")
    del trt.Builder, trt.OnnxParser, trt.IBuilderConfig, trt.EngineInspector
    lean = TrtApi("trt", trt)
    assert not lean.can_build
    assert lean.load(b"plan").inspect() is None


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        ("trt", r"TensorRT is not installed\. On a Jetson it comes with JetPack"),
        ("rtx", r"TensorRT-RTX is not installed\. Run: pip install 'edge-vit\[rtx\]'"),
    ],
)
def test_a_missing_package_says_how_to_get_it(monkeypatch, backend, line):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not api.is_installed(backend)
    with pytest.raises(MissingDependencyError, match=line):
        open_api(backend)


def test_a_package_that_cannot_be_loaded_says_why(monkeypatch):
    def load():
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(api._PACKAGES, "trt", {"tensorrt": load})
    with pytest.raises(BackendError, match=r"installed but cannot be loaded: libnvinfer\.so\.10"):
        open_api("trt")


def real(package):
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} comes with the dev extra on x86-64 Linux alone")
    return importlib.import_module(package)


@pytest.mark.parametrize("kind", NAMES)
def test_the_list_of_rtx_is_that_of_the_real_package(kind):
    trt = real("tensorrt_rtx")
    found = trt.ILogger.Severity if kind == "Severity" else getattr(trt, kind)
    assert names("rtx", kind) <= set(dir(found))
    removed = set(NAMES[kind].get("gone in 11.1", "").split())
    assert not removed & set(dir(found))


@pytest.mark.parametrize("kind", ["Runtime", "ICudaEngine", "IExecutionContext", "DataType"])
def test_the_list_of_11_is_that_of_the_real_lean_package(kind):
    lean = real("tensorrt_lean")
    assert names("11.4", kind) <= set(dir(getattr(lean, kind)))
    assert not set(NAMES[kind].get("gone in 11.1", "").split()) & set(dir(getattr(lean, kind)))


def test_the_real_packages_can_what_they_should():
    rtx = TrtApi("rtx", real("tensorrt_rtx"))
    assert rtx.can_build
    assert {"sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"} <= set(rtx.targets)
    assert not {"sm_87", "sm_90", "sm_110"} & set(rtx.targets)
    lean = TrtApi("trt", real("tensorrt_lean"))
    assert not lean.can_build
    assert not lean.has_runtime_cache
