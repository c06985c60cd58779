"""Engines that are really built, by TensorRT-RTX, for a GPU that is not here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_vit.bundle import Bundle
from edge_vit.errors import ArtifactError, GateFailed, SpecError
from edge_vit.progress import Silent
from edge_vit.runtime.trt import store
from edge_vit.runtime.trt.engines import build_engine, find_engine
from edge_vit.runtime.trt.identity import EngineOptions, Hardware
from edge_vit.runtime.trt.store import list_engines, read_sidecar, sidecar_path, write_sidecar
from tests.runtime.trt.bundles import ORIN, RTX, write_bundle

TOKENS, WIDTH = 17, 32
LINEAR = 2 * TOKENS * (WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * 4 * WIDTH)
OTHER = 2 * 2 * TOKENS * TOKENS * WIDTH + 16 * WIDTH * 3 * 8 * 8 + 10 * WIDTH
"""Multiply-adds of the two blocks' linear layers; of attention, patch embedding and head."""

SM86 = EngineOptions(targets=("sm_86",))


@pytest.fixture
def built(bundle, real_builder):
    return build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)


def contents(bundle):
    return sorted(path.name for path in (bundle.path / "engines").iterdir())


@pytest.mark.parametrize(
    ("precision", "macs"),
    [
        ("fp32", {"fp32": LINEAR + OTHER}),
        ("fp16", {"fp16": LINEAR + OTHER}),
        ("int8", {"int8": LINEAR, "fp16": OTHER}),
    ],
)
def test_builds_and_keeps_how(bundle, real_builder, watched, precision, macs):
    options = EngineOptions((1, 2, 4), optimization_level=0, targets=("sm_89", "sm_86"))
    engine = build_engine(bundle, precision, "rtx", options, builder=real_builder, progress=watched)
    assert engine.is_new
    assert engine.path.parent == bundle.path / "engines"
    assert contents(bundle) == [engine.path.name, sidecar_path(engine.path).name]
    sidecar = read_sidecar(sidecar_path(engine.path))
    assert sidecar == engine.sidecar
    identity = sidecar.identity
    assert (identity.precision, identity.backend, identity.batches) == (precision, "rtx", (1, 2, 4))
    assert identity.onnx_digest == bundle.artifact(f"onnx/{precision}.onnx").sha256
    assert identity.version == real_builder.version
    assert identity.targets == ("sm_86", "sm_89")
    assert (identity.gpu, identity.driver, identity.cuda) == ("", "", "")
    assert identity.optimization_level == 0
    assert sidecar.seconds > 0
    assert len(engine.read()) == sidecar.num_bytes > 1000
    audit = sidecar.audit
    assert audit.witness == "network"
    assert audit.num_blocks == 2
    assert {name: count for name, count in audit.macs.items() if count} == macs
    ((name, total),) = watched.steps
    assert name == f"building the {precision} engine with TensorRT-RTX {real_builder.version}"
    assert sum(watched.done) == total == 100
    assert len(watched.done) > 1
    again = build_engine(bundle, precision, "rtx", options, builder=real_builder)
    assert (again.is_new, again.path) == (False, engine.path)


@pytest.mark.uncounted
def test_a_graph_with_a_fixed_batch_has_no_profile(tmp_path, real_builder):
    fixed = write_bundle(tmp_path / "fixed.edgevit", batch=2)
    engine = build_engine(fixed, None, "rtx", SM86, builder=real_builder)
    assert engine.sidecar.identity.precision == "int8"
    assert engine.sidecar.identity.batches is None


def test_an_engine_for_several_targets_serves_each(bundle, built):
    for_both = dataclasses.replace(built.sidecar.identity, targets=("sm_86", "sm_89"))
    write_sidecar(built.path, dataclasses.replace(built.sidecar, identity=for_both))
    for target in ("sm_86", "sm_89"):
        found = find_engine(
            bundle, "int8", "rtx", builder=RTX, options=EngineOptions(targets=(target,))
        )
        assert not found.is_new


def test_finds_any_options_unless_asked_for_some(bundle, built):
    eight = dataclasses.replace(built.sidecar.identity, batches=(1, 4, 8), optimization_level=5)
    write_sidecar(built.path, dataclasses.replace(built.sidecar, identity=eight))
    here = dataclasses.replace(
        RTX, hardware=dataclasses.replace(ORIN.hardware, compute_capability="sm_86")
    )
    store.keep_record(
        built.sidecar.digest,
        store.TrustRecord("now", (f"{here.title}, Orin, driver 12.6",)),
    )
    assert find_engine(bundle, "int8", "rtx", builder=here, may_build=False).path == built.path
    with pytest.raises(ArtifactError, match="batch 1 to 8, tuned for 4 there, 1 here; optimiz"):
        find_engine(bundle, "int8", "rtx", builder=here, options=SM86, may_build=False)


STALE = {
    "graph": ({"onnx_digest": "0" * 64}, "graph 000000000000 there, "),
    "version": ({"version": "1.4.0"}, "TensorRT 1.4.0 there, 1.7.1.116 here"),
    "target": ({"targets": ("sm_120",)}, "compute capability sm_120 there, sm_86 here"),
    "gpu": ({"gpu": "Orin"}, "GPU Orin there, unknown here"),
    "driver": ({"driver": "12.6"}, "driver 12.6 there, unknown here"),
    "cuda": ({"cuda": "12"}, "CUDA 12 there, unknown here"),
    "batch": ({"batches": (1, 4, 8)}, "batch 1 to 8, tuned for 4 there, 1 here"),
    "level": ({"optimization_level": 5}, "optimization level 5 there, default here"),
}


@pytest.fixture(scope="module")
def kept(shared_bundle, tmp_path_factory, real_builder):
    """Return a bundle with one engine in it, to copy."""
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("kept")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    shutil.copytree(shared_bundle.path, folder / "vit.edgevit")
    bundle = Bundle.open(folder / "vit.edgevit")
    engine = build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    monkeypatch.undo()
    return bundle, engine


@pytest.fixture
def stale(bundle, kept):
    """Return a function that puts a changed engine into `bundle`, without a build."""

    def make(trusted=True, plan=None, **changes):
        _, engine = kept
        folder = bundle.path / "engines"
        folder.mkdir(exist_ok=True)
        path = folder / engine.path.name
        path.write_bytes(plan or engine.path.read_bytes())
        identity = dataclasses.replace(engine.sidecar.identity, **changes)
        write_sidecar(path, dataclasses.replace(engine.sidecar, identity=identity))
        if trusted:
            store.keep_record(engine.sidecar.digest, store.TrustRecord("now"))
        return path

    return make


def refusal(bundle, **options):
    with pytest.raises(ArtifactError) as caught:
        find_engine(bundle, "int8", "rtx", builder=RTX, options=SM86, may_build=False, **options)
    return str(caught.value)


@pytest.mark.parametrize(("changes", "words"), STALE.values(), ids=STALE)
def test_says_what_is_stale(bundle, stale, changes, words):
    path = stale(**changes)
    line = refusal(bundle)
    assert line.startswith(f"no int8 engine for this machine ({path.name}: {words}")
    assert line.endswith(f"Run: edgevit build {bundle.path} --backend rtx --precision int8")


def test_all_that_differs_is_named(bundle, stale):
    stale(version="1.4.0", targets=("sm_120",))
    assert "TensorRT 1.4.0 there, 1.7.1.116 here; compute capability sm_120" in refusal(bundle)


def test_without_an_engine_says_so(bundle):
    assert f"({bundle.path} holds none)" in refusal(bundle)


def test_a_stale_engine_is_built_again(bundle, stale, watched, real_builder):
    old = stale(version="1.4.0")
    renamed = old.with_name(f"old-{old.name}")
    old.rename(renamed)
    sidecar_path(old).rename(sidecar_path(renamed))
    engine = find_engine(
        bundle, "int8", "rtx", builder=real_builder, options=SM86, progress=watched
    )
    assert engine.is_new
    assert watched.notes == [
        f"building a new engine: {renamed.name}: TensorRT 1.4.0 there, {real_builder.version} here"
    ]
    assert contents(bundle) == [engine.path.name, sidecar_path(engine.path).name]  # the old is gone


def test_an_engine_of_another_gpu_stays(bundle, stale, real_builder):
    other = stale(targets=("sm_120",))
    renamed = other.with_name("other.engine")
    other.rename(renamed)
    sidecar_path(other).rename(sidecar_path(renamed))
    build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    assert len(contents(bundle)) == 4


def flipped(plan):
    return plan[:1000] + bytes([plan[1000] ^ 1]) + plan[1001:]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda plan: plan[:100], "is truncated or edited: 100 bytes, its sidecar says "),
        (flipped, "was edited: its SHA-256 is not its sidecar's"),
    ],
    ids=["truncated", "bit flipped"],
)
def test_a_spoilt_plan_reaches_nobody(bundle, stale, kept, spoil, words):
    path = stale(plan=spoil(kept[1].path.read_bytes()))
    assert f"{path.name}: {path} {words}" in refusal(bundle)


def test_a_missing_plan_is_no_engine(bundle, stale):
    path = stale()
    path.unlink()
    assert "cannot be read: No such file" in refusal(bundle)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 1}', "[" * 100_000], ids=range(6)
)
def test_a_broken_sidecar_is_no_engine(bundle, stale, text):
    path = sidecar_path(stale())
    path.write_text(text)
    with pytest.raises(ArtifactError):
        read_sidecar(path)
    assert list(list_engines(bundle.path / "engines")) == []
    assert "holds none" in refusal(bundle)


def test_a_foreign_plan_needs_trust(bundle, stale):
    path = stale(trusted=False)
    assert "was not built here, and an engine can run code when it loads" in refusal(bundle)
    assert "--trust-engine" in refusal(bundle)
    found = find_engine(
        bundle, "int8", "rtx", builder=RTX, options=SM86, may_build=False, trusts=True
    )
    assert found.path == path
    assert store.find_record(found.sidecar.digest) == store.TrustRecord()
    find_engine(bundle, "int8", "rtx", builder=RTX, options=SM86, may_build=False)  # remembered


def test_a_sidecar_is_no_proof(bundle, stale, kept):
    """Who can write a plan can write its digest beside it; the user's own state decides."""
    foreign = flipped(kept[1].path.read_bytes())
    path = stale(plan=foreign)
    sidecar = json.loads(sidecar_path(path).read_text())
    sidecar["digest"] = trust_digest(foreign)
    sidecar_path(path).write_text(json.dumps(sidecar))
    assert "was not built here" in refusal(bundle)


def trust_digest(data):
    from edge_vit.bundle import digest_of

    return digest_of(data)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "0" * 63])
def test_a_digest_is_no_path(bundle, stale, digest):
    path = stale()
    sidecar = json.loads(sidecar_path(path).read_text())
    sidecar["digest"] = digest
    sidecar_path(path).write_text(json.dumps(sidecar))
    assert "its SHA-256 is not its sidecar's" in refusal(bundle)
    with pytest.raises(ArtifactError, match="is no SHA-256"):
        store.find_record(digest)


def test_a_read_only_bundle_uses_the_cache(bundle, real_builder, watched, monkeypatch, tmp_path):
    inside = bundle.path / "engines"
    write = store._try_to_write

    def refuse(folder):
        if folder == inside:
            raise PermissionError(13, "Permission denied")
        write(folder)

    monkeypatch.setattr(store, "_try_to_write", refuse)
    engine = build_engine(bundle, "int8", "rtx", SM86, builder=real_builder, progress=watched)
    assert engine.path.is_relative_to(tmp_path / "cache" / "edge-vit" / "engines")
    assert not inside.exists()
    assert watched.notes[0].startswith(f"{bundle.path} is read-only (Permission denied), so")
    again = build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    assert (again.is_new, again.path) == (False, engine.path)


class Steps(Silent):
    """Keeps the names of the steps; `on_step` may hold one up."""

    def __init__(self, on_step):
        self.names = []
        self._on_step = on_step

    def step(self, name, total=None):
        self.names.append(name)
        self._on_step(name)
        return super().step(name, total)


def test_two_builders_build_once(bundle, real_builder):
    is_building, is_waiting = threading.Event(), threading.Event()

    def hold_until_the_other_waits(name):
        if name.startswith("building "):
            is_building.set()
            assert is_waiting.wait(60)

    def report_waiting(name):
        if name.startswith("waiting for process "):
            is_waiting.set()

    def build(progress):
        return build_engine(bundle, "int8", "rtx", SM86, builder=real_builder, progress=progress)

    first, second = Steps(hold_until_the_other_waits), Steps(report_waiting)
    with ThreadPoolExecutor() as pool:
        builds = [pool.submit(build, first)]
        assert is_building.wait(60)
        builds.append(pool.submit(build, second))
        assert [done.result().is_new for done in builds] == [True, False]
    (waited,) = second.names
    assert waited.endswith(f", which is writing {bundle.path / 'engines'}")
    assert len(contents(bundle)) == 2


def test_what_a_killed_builder_left_is_removed(bundle, real_builder):
    folder = bundle.path / "engines"
    folder.mkdir()
    (folder / ".int8-rtx.engine.123.partial").write_bytes(b"half")
    build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    assert len(contents(bundle)) == 2


def test_a_graph_that_is_wider_than_asked_is_refused(bundle, real_builder, monkeypatch):
    """The FP16 graph in the place of the INT8 one: what silent FP32 would look like, one up."""
    bundle = bundle.add({"onnx/int8.onnx": bundle.read("onnx/fp16.onnx")})
    with pytest.raises(GateFailed, match="block0/qkv computes in fp16, asked was int8") as caught:
        build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    assert "and 5 more" in str(caught.value)
    assert contents(bundle) == []


def test_an_edited_graph_reaches_no_builder(bundle, real_builder):
    path = bundle.path / "onnx" / "int8.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"int8\.onnx was truncated or edited"):
        build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    assert contents(bundle) == []


@pytest.mark.parametrize(
    ("builder", "options", "words"),
    [
        (RTX, EngineOptions(), "there is no GPU here to build for. Name the one that will run"),
        (RTX, EngineOptions(targets=("sm_87",)), "does not build for sm_87, only for sm_86, sm_89"),
        (RTX, EngineOptions(targets=("sm_90",)), "a Jetson or a server GPU take TensorRT: --back"),
        (ORIN, SM86, "--target is for TensorRT-RTX: TensorRT builds for the GPU that it runs on"),
        (
            dataclasses.replace(ORIN, hardware=Hardware(why_none="no driver")),
            EngineOptions(),
            "there is none here: no driver. Build on",
        ),
    ],
    ids=["none", "orin", "hopper", "trt", "trt without gpu"],
)
def test_impossible_targets_say_what_to_do(bundle, builder, options, words):
    with pytest.raises(SpecError, match=words):
        build_engine(bundle, "int8", builder.backend, options, builder=builder)
