"""Children that crash, are killed, are cancelled, or whose parent is gone."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_vit.errors import ArtifactError, BackendError, MissingDependencyError
from edge_vit.runtime.trt import build, child
from edge_vit.runtime.trt.audit import Asked, EngineAudit
from edge_vit.runtime.trt.build import PlanRequest, build_plan, probe_plan
from edge_vit.runtime.trt.child import run_child
from edge_vit.runtime.trt.engines import build_engine
from edge_vit.runtime.trt.identity import EngineOptions
from edge_vit.runtime.trt.network import OutOfMemoryError
from tests.runtime.trt.bundles import ORIN, RTX
from tests.runtime.trt.conftest import Watched

ROOT = Path(__file__).parents[3]
SM86 = EngineOptions(targets=("sm_86",))


@pytest.fixture
def speaks(monkeypatch):
    """Return a function that puts other code in the place of the worker."""

    def put(code):
        def start(stderr):
            return subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

        monkeypatch.setattr(child, "_start", start)

    return put


def die(number):
    return (
        "import os, sys; input(); print('oops', file=sys.stderr, flush=True); "
        f"os.kill(os.getpid(), {int(number)})"
    )


def ask(purpose="loading x.engine"):
    return run_child({"operation": "none"}, lambda event: None, purpose)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (die(signal.SIGSEGV), BackendError, r"loading x\.engine crashed its process with SIGSEGV"),
        (die(signal.SIGKILL), OutOfMemoryError, "the process was killed, as the system does when"),
        ("raise SystemExit(3)", BackendError, "ended with status 3 and no answer"),
        ("input(); 1 / 0", BackendError, r"no answer \(ZeroDivisionError: division by zero\)"),
    ],
    ids=["crash", "out of memory", "exit", "exception"],
)
def test_a_child_that_dies_is_an_error(speaks, code, kind, words):
    speaks(code)
    with pytest.raises(kind, match=words):
        ask()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ArtifactError", ArtifactError),
        ("OutOfMemoryError", OutOfMemoryError),
        ("MissingDependencyError", MissingDependencyError),
        ("SomethingNew", BackendError),
    ],
)
def test_an_error_crosses_the_pipe(speaks, name, kind):
    speaks(f"input(); print('{json.dumps({'error': name, 'text': 'so it is'})}')")
    with pytest.raises(kind, match=r"^so it is$"):
        ask()


def test_a_child_that_does_not_end_is_ended(speaks):
    speaks(
        "import json, os, time; input(); print(json.dumps({'pid': os.getpid()}), flush=True); "
        "time.sleep(60)"
    )
    pids = []

    def interrupt(event):
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child({}, interrupt, "waiting")
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


REQUEST = PlanRequest("trt", 0, "a.onnx", "0" * 64, "a.engine", None, None, ())
ASKED = Asked("int8", {}, frozenset())
ANSWER = {
    "digest": "0" * 64,
    "num_bytes": 1,
    "seconds": 1.0,
    "warnings": [],
    "audit": {"witness": "network", "layers": {}, "products": {}},
}


@pytest.fixture
def short_of_memory(monkeypatch):
    """Return a function that lets a build fail that often; the workspaces that were tried."""

    def fail(times):
        tried = []

        def run(request, on_event, purpose):
            tried.append(request["workspace_bytes"])
            if len(tried) <= times:
                raise OutOfMemoryError("TensorRT 10.3.0 ran out of memory")
            return ANSWER

        monkeypatch.setattr(build, "run_child", run)
        return tried

    return fail


def test_less_workspace_when_memory_runs_out(short_of_memory, monkeypatch):
    monkeypatch.setattr(build, "workspace_bytes", lambda hardware, asked: 1 << 30)
    tried, watched = short_of_memory(2), Watched()
    report = build_plan(ORIN, REQUEST, ASKED, "int8 engine", watched)
    assert report.audit == EngineAudit("network", {}, {})
    assert tried == [1 << 30, 1 << 29, 1 << 28]
    assert watched.notes == [
        f"TensorRT 10.3.0 ran out of memory. Trying again with {mib} MiB of workspace"
        for mib in (512, 256)
    ]


def test_gives_up_when_memory_is_really_short(short_of_memory, monkeypatch):
    monkeypatch.setattr(build, "workspace_bytes", lambda hardware, asked: 1 << 30)
    tried = short_of_memory(99)
    with pytest.raises(OutOfMemoryError, match=r"or give less: --memory 256$"):
        build_plan(ORIN, REQUEST, ASKED, "int8 engine", Watched())
    assert len(tried) == 4


def test_a_limit_of_nobody_becomes_one(short_of_memory, monkeypatch):
    monkeypatch.setattr(build, "available_bytes", lambda: 1 << 32)
    tried = short_of_memory(1)
    build_plan(RTX, REQUEST, ASKED, "int8 engine", Watched())
    assert tried == [None, 1 << 31]


class Interrupting(Watched):
    """Presses Ctrl-C as soon as the builder has done something."""

    def _counted(self):
        import contextlib

        def advance(count):
            self.done.append(count)
            raise KeyboardInterrupt

        return contextlib.nullcontext(advance)


def test_a_cancelled_build_leaves_nothing(bundle, real_builder):
    progress = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, "int8", "rtx", SM86, builder=real_builder, progress=progress)
    assert 0 < sum(progress.done) < 100  # in mid-build
    assert list((bundle.path / "engines").iterdir()) == []
    assert build_engine(bundle, "int8", "rtx", SM86, builder=real_builder).is_new


def test_a_killed_build_releases_its_lock(bundle, real_builder):
    """As by a power cut: the parent is gone, the child follows, the next build starts clean."""
    code = (
        "import os, sys; from edge_vit.runtime.trt.engines import build_engine; "
        "from edge_vit.runtime.trt.identity import EngineOptions; "
        "from edge_vit.progress import Silent; import contextlib\n"
        "class Slow(Silent):\n"
        "    def step(self, name, total=None):\n"
        "        return contextlib.nullcontext(lambda count: (print(os.getpid(), flush=True), "
        "__import__('time').sleep(60)))\n"
        f"build_engine({str(bundle.path)!r}, 'int8', 'rtx', EngineOptions(targets=('sm_86',)), "
        "progress=Slow())"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    parent.stdout.readline()  # it is in mid-build, and holds the lock
    children = children_of(parent.pid)
    assert len(children) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    engine = build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    assert engine.is_new
    assert len(list((bundle.path / "engines").iterdir())) == 2
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in children):
            return
        time.sleep(0.1)
    pytest.fail("the child outlives its parent")


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def test_a_disk_that_fills_up_leaves_nothing(bundle, real_builder):
    """The child may write files of 100 kB at most, which a plan is not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ArtifactError, match=r"^cannot write .*/engines: File too large$"):
            build_engine(bundle, "int8", "rtx", SM86, builder=real_builder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((bundle.path / "engines").iterdir()) == []


def test_a_plan_is_loaded_by_nobody_without_a_driver(tmp_path):
    """TensorRT 11's lean runtime crashes here; the driver is asked first."""
    plan = tmp_path / "x.engine"
    plan.write_bytes(b"plan")
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a driver")
    with pytest.raises(BackendError, match=r"this machine has no NVIDIA driver"):
        probe_plan(plan, "0" * 64, RTX, Watched())
