"""The simulation proves itself: a bug is put into the session, and the drill has to find it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import session_drill
from session_drill import drill

import edge_vit

PACKAGE = Path(edge_vit.__file__).parent
FRESH = ("edge_vit.runtime.cudart", "edge_vit.runtime.trt", "simulated_engine")


@dataclass(frozen=True)
class Bug:
    """A bug: in `module`, `good` was written as `bad`."""

    name: str
    module: str
    good: str
    bad: str


RUN, SESSION = "trt.execution", "trt.session"
GPU = "cudart.gpu"

BUGS = (
    Bug(
        "stale address after the memory grew",
        RUN,
        "self.context.set_address(tensor.name, buffer.device)",
        "old or self.context.set_address(tensor.name, buffer.device)",
    ),
    Bug("does not wait for the run", RUN, "cuda.wait_for(self._events[3])", "pass"),
    Bug("waits before the outputs are copied", RUN, "wait_for(self._events[3])", "wait_for(2)"),
    Bug(
        "outputs are a view of memory that is used again",
        RUN,
        "self._views[name].copy()",
        "self._views[name]",
    ),
    Bug(
        "no new graph after a new shape",
        RUN,
        "        self._drop_graph()\n        self._num_runs = 0\n",
        "        self._num_runs = 0\n",
    ),
    Bug("captures a shape that never ran", RUN, "self._num_runs > 0", "self._num_runs >= 0"),
    Bug("never captures", RUN, "self._num_runs > 0", "self._num_runs > 99"),
    Bug("captures again each time", RUN, "            self._may_capture = False\n", ""),
    Bug(
        "leaves the stream in a capture that failed",
        RUN,
        "graph = self._cuda.end_capture(self._stream)\n",
        "graph = self._cuda.end_capture(self._stream) if is_taken else 0\n",
    ),
    Bug("leaks the graph", RUN, 'self._cuda.release("cudaGraphDestroy", graph)', "pass"),
    Bug(
        "leaks the graph that is ready",
        RUN,
        'self._cuda.release("cudaGraphExecDestroy", graph)',
        "pass",
    ),
    Bug(
        "frees the graph that is ready twice",
        RUN,
        "graph, self._graph = self._graph, None",
        "graph = self._graph",
    ),
    Bug(
        "copies the inputs before they are there",
        RUN,
        "        cuda.record(self._events[0], stream)\n",
        "        cuda.record(self._events[0], stream)\n"
        "        self._buffers['images'].upload(feeds['images'].nbytes, stream)\n"
        "        self._buffers['images'].host[:] = 1\n",
    ),
    Bug(
        "forgets to copy the inputs",
        RUN,
        "self._buffers[name].upload(array.nbytes, stream)",
        "pass",
    ),
    Bug(
        "copies the outputs before they are computed",
        RUN,
        "        self._compute()\n        cuda.record(self._events[2], stream)\n",
        "        cuda.record(self._events[2], stream)\n",
    ),
    Bug(
        "copies outputs of the last shape",
        RUN,
        "download(self._views[name].nbytes, stream)",
        "download(20, stream)",
    ),
    Bug(
        "keeps the shapes of the last run",
        RUN,
        "all(self._shapes.get(n) == s for n, s in shapes.items())",
        "self._shapes",
    ),
    Bug("does not free memory that was too small", RUN, "                old.free()\n", ""),
    Bug(
        "takes memory that is too small",
        RUN,
        "len(old.host) < num_bytes",
        "len(old.host) < 1",
    ),
    Bug(
        "goes on where TensorRT refused",
        RUN,
        'raise BackendError(f"TensorRT cannot run this engine: {self.context.reason}")',
        "pass",
    ),
    Bug(
        "frees while work is under way",
        RUN,
        "self._cuda.synchronize(self._stream)\n        fin",
        "pass\n        fin",
    ),
    Bug("leaks the context", RUN, "stack.callback(self.context.close)", "pass"),
    Bug(
        "leaks an event",
        RUN,
        'stack.callback(cuda.release, "cudaEventDestroy", self._events[-1])',
        "pass",
    ),
    Bug(
        "leaks the stream",
        RUN,
        'stack.callback(cuda.release, "cudaStreamDestroy", self._stream)',
        "pass",
    ),
    Bug(
        "the split mixes up its parts",
        RUN,
        "        cuda.record(self._events[1], stream)\n        self._compute()\n",
        "        self._compute()\n        cuda.record(self._events[1], stream)\n",
    ),
    Bug(
        "chooses the GPU at a thread's first run alone",
        GPU,
        '        self.call("cudaSetDevice", self.device)\n',
        '        if not hasattr(self, "is_bound"):\n            self.is_bound = True\n'
        '            self.call("cudaSetDevice", self.device)\n',
    ),
    Bug(
        "uses the wrong GPU on another thread",
        SESSION,
        "            self._cuda.bind_thread()\n            execution =",
        "            execution =",
    ),
    Bug(
        "keeps a context that failed",
        SESSION,
        "                    execution.close()\n",
        "                    pass\n",
    ),
    Bug(
        "takes a context again that was closed",
        SESSION,
        "self._execution = None  #",
        "self._execution = execution  #",
    ),
    Bug("leaks the context at the end", SESSION, "stack.callback(self._execution.close)", "pass"),
    Bug(
        "copies memory that is shared",
        GPU,
        'memory == "copy"\n        with',
        "True\n        with",
    ),
    Bug("does not close the engine", SESSION, "stack.callback(self._file.engine.close)", "pass"),
    Bug("leaks pinned memory", GPU, 'stack.callback(cuda.release, "cudaFreeHost", host)', "pass"),
    Bug(
        "leaks the GPU's memory",
        GPU,
        'stack.callback(cuda.release, "cudaFree", self.device)',
        "pass",
    ),
    Bug(
        "frees pinned memory by the wrong function",
        GPU,
        '"cudaFreeHost", host',
        '"cudaFree", host',
    ),
    Bug(
        "gives the GPU the address of the CPU",
        GPU,
        '(self.device,) = cuda.call("cudaHostGetDevicePointer", host, 0)',
        "self.device = host",
    ),
    Bug("captures what other threads do", GPU, "_THREAD_LOCAL = 1", "_THREAD_LOCAL = 0"),
    Bug(
        "swallows an error of CUDA",
        GPU,
        "raise self.failure(name, status)\n        return t",
        "pass\n        return t",
    ),
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_finds(bug, monkeypatch):
    monkeypatch.setattr(session_drill, "SECONDS", 3)  # some of the bugs hang
    with with_bug(bug) as tools, pytest.raises((Exception, pytest.fail.Exception)):
        drill(tools)


def test_finds_nothing_where_there_is_none():
    with with_bug(Bug("none", RUN, "ExecutionContext", "ExecutionContext")) as tools:
        drill(tools)


@contextlib.contextmanager
def with_bug(bug: Bug) -> Iterator[ModuleType]:
    """Give `simulated_engine` over sessions of their own, in which the bug is."""
    path = PACKAGE / "runtime" / (bug.module.replace(".", "/") + ".py")
    source = path.read_text()
    assert bug.name == "none" or source.count(bug.good) == 1, f"{path} has no such line, or several"
    finder = _Finder(f"edge_vit.runtime.{bug.module}", path, source.replace(bug.good, bug.bad))
    kept = {name: module for name, module in sys.modules.items() if name.startswith(FRESH)}
    for name in kept:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("simulated_engine")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(FRESH)]:
            del sys.modules[name]
        sys.modules.update(kept)
        for name, module in kept.items():
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, module)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives one module another source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, textwrap.dedent(source)

    def find_spec(self, name, path, target=None):
        return (
            importlib.machinery.ModuleSpec(name, self, origin=str(self._path))
            if name == self._name
            else None
        )

    def get_source(self, name: str) -> str:
        return self._source
