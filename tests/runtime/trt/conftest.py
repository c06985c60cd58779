from __future__ import annotations

import contextlib
import importlib.util
import shutil

import pytest

from edge_vit.bundle import Bundle
from edge_vit.progress import Silent
from edge_vit.runtime.trt.build import find_builder

# A device, and the run on Python 3.10 that stands for one, have no torch to make a bundle with.
NEED_A_DESK = ("audit", "building_values", "child", "engines", "model_builds", "simulated_device")
HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore = [] if HAS_TORCH else [f"test_{name}.py" for name in NEED_A_DESK]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Keep the tests out of the user's own folders."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shared_bundle(tmp_path_factory) -> Bundle:
    from tests.runtime.trt.bundles import write_bundle

    return write_bundle(tmp_path_factory.mktemp("trt") / "vit.edgevit")


@pytest.fixture
def bundle(shared_bundle, tmp_path) -> Bundle:
    """Return a bundle to write to."""
    path = tmp_path / "vit.edgevit"
    shutil.copytree(shared_bundle.path, path)
    return Bundle.open(path)


@pytest.fixture(scope="session")
def real_builder():
    """Return what really builds here, ahead of time; skip where it does not install."""
    from rtx import HAS_RTX

    if not HAS_RTX:
        pytest.skip("tensorrt_rtx comes with the dev extra on x86-64 Linux alone")
    return find_builder("rtx")


class Watched(Silent):
    """Progress that remembers."""

    def __init__(self):
        self.notes, self.steps, self.done = [], [], []

    def note(self, text):
        self.notes.append(text)

    def step(self, name, total=None):
        self.steps.append((name, total))
        return super().step(name, total) if total is None else self._counted()

    def _counted(self):
        return contextlib.nullcontext(self.done.append)


@pytest.fixture
def watched():
    return Watched()
