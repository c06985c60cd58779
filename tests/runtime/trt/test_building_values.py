"""The values of a build: memory, phases, identity, the choice of who builds."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from edge_vit.cli.build import _warn_of_little_memory
from edge_vit.errors import BackendError, MissingDependencyError, SpecError
from edge_vit.runtime.trt import build
from edge_vit.runtime.trt.build import (
    available_bytes,
    choose_builder,
    workspace_bytes,
)
from edge_vit.runtime.trt.identity import EngineOptions, batch_words
from edge_vit.runtime.trt.listeners import Phases
from tests.runtime.trt.bundles import ORIN, RTX

MEMINFO = "MemTotal:  7802180 kB\nMemFree:  100 kB\nMemAvailable:  4194304 kB\n"


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


def test_a_jetson_counts_what_linux_calls_available(meminfo):
    assert workspace_bytes(ORIN.hardware, None, meminfo) == 2 << 30


def test_a_desktop_gpu_counts_its_own_memory(meminfo):
    desktop = dataclasses.replace(ORIN.hardware, is_integrated=False, free_bytes=8 << 30)
    assert workspace_bytes(desktop, None, meminfo) == 4 << 30


def test_without_a_gpu_there_is_no_limit(meminfo):
    assert workspace_bytes(RTX.hardware, None, meminfo) is None


def test_the_user_says_how_much(meminfo):
    assert workspace_bytes(ORIN.hardware, 100, meminfo) == 100 << 20
    with pytest.raises(SpecError, match="memory: got 8 MiB, expected at least 16"):
        workspace_bytes(ORIN.hardware, 8, meminfo)


@pytest.mark.parametrize("text", [None, "", "MemAvailable: many"])
def test_nobody_says_what_is_free(tmp_path, text):
    path = tmp_path / "meminfo"
    if text is not None:
        path.write_text(text)
    assert available_bytes(path) is None
    assert workspace_bytes(ORIN.hardware, None, path) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": (4, 2, 8)}, "got min 4, opt 2, max 8, expected 1 <= min <= opt <= max"),
        ({"batches": (0, 1, 1)}, "batch sizes: got min 0"),
        ({"optimization_level": 6}, "optimization level: got 6, expected 0 to 5"),
        ({"targets": ("8.6",)}, "target: got '8.6', expected a compute capability such as sm_86"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(SpecError, match=words):
        EngineOptions(**options)


def test_batches_in_words():
    assert batch_words(None) == "fixed"
    assert batch_words((2, 2, 2)) == "2"
    assert batch_words((1, 4, 8)) == "1 to 8, tuned for 4"


def follow(story):
    shares = []
    phases = Phases(lambda share: shares.append(round(share, 3)))
    for word, *details in story:
        getattr(phases, word)(*details)
    return shares


def test_phases_inside_a_step_count_as_its_part():
    shares = follow(
        [
            ("start", "build", None, 2),
            ("start", "clone", "build", 4),
            ("step", "clone", 0),
            ("step", "clone", 1),
            ("finish", "clone"),
            ("step", "build", 0),
            ("start", "time", "build", 2),
            ("step", "time", 0),
            ("finish", "time"),
            ("step", "build", 1),
            ("finish", "build"),
        ]
    )
    assert shares == [0.125, 0.25, 0.5, 0.75, 1.0]


def test_progress_never_goes_back():
    shares = follow(
        [
            ("start", "a", None, 2),
            ("step", "a", 0),
            ("start", "b", None, 10),
            ("step", "b", 0),
            ("step", "unknown", 3),
            ("finish", "unknown"),
            ("start", "none", "a", 0),
            ("step", "b", 8),
        ]
    )
    assert shares == [0.5, 0.9]


def test_phases_may_come_from_many_threads():
    shares = []
    phases = Phases(shares.append)
    phases.start("build", None, 1)

    def work(name):
        phases.start(name, "build", 100)
        for step in range(100):
            phases.step(name, step)
        phases.finish(name)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.fixture
def installed(monkeypatch):
    """Return a function that says what is installed."""

    def say(**found):
        def find(name):
            if isinstance(found[name], Exception):
                raise found[name]
            return found[name]

        monkeypatch.setattr(build, "is_installed", lambda name: name in found)
        monkeypatch.setattr(build, "find_builder", find)

    return say


LEAN = dataclasses.replace(ORIN, title="tensorrt_lean 11.4", can_build=False)
RTX_HERE = dataclasses.replace(
    RTX, hardware=dataclasses.replace(ORIN.hardware, compute_capability="sm_86")
)


@pytest.mark.parametrize(
    ("found", "targets", "chosen"),
    [
        ({"trt": ORIN, "rtx": RTX_HERE}, (), ORIN),
        ({"trt": LEAN, "rtx": RTX_HERE}, (), RTX_HERE),
        ({"trt": BackendError("broken"), "rtx": RTX_HERE}, (), RTX_HERE),
        ({"rtx": RTX_HERE}, (), RTX_HERE),
        ({"trt": ORIN, "rtx": RTX}, ("sm_89",), RTX),
    ],
    ids=["both", "lean", "broken", "rtx alone", "target"],
)
def test_auto_takes_what_can_build_here(installed, found, targets, chosen):
    installed(**found)
    assert choose_builder("auto", targets) is chosen


def test_auto_says_why_nothing_builds(installed):
    installed(trt=LEAN, rtx=RTX)
    with pytest.raises(SpecError) as caught:
        choose_builder("auto")
    assert str(caught.value) == (
        "nothing here can build an engine: tensorrt_lean 11.4 builds no engines; TensorRT-RTX "
        "1.7.1.116 finds no GPU here. To build for a desktop GPU that is not here, name it: "
        "--target sm_86"
    )
    installed(rtx=dataclasses.replace(RTX, hardware=ORIN.hardware))
    with pytest.raises(SpecError, match=r"TensorRT-RTX 1\.7\.1\.116 does not know sm_87"):
        choose_builder("auto")


def test_auto_without_any_says_how_to_get_one(installed):
    installed()
    with pytest.raises(MissingDependencyError, match=r"no TensorRT is installed\. A Jetson has it"):
        choose_builder("auto")


@pytest.mark.parametrize(
    ("available", "builder", "warned"),
    [(1 << 30, ORIN, True), (8 << 30, ORIN, False), (1 << 30, RTX, False), (None, ORIN, False)],
    ids=["little", "enough", "no gpu", "unknown"],
)
def test_little_memory_is_said_before_the_build(
    shared_bundle, monkeypatch, caplog, available, builder, warned
):
    monkeypatch.setattr(build, "available_bytes", lambda: available)
    _warn_of_little_memory(shared_bundle, builder)
    assert ("1.0 GiB of memory are free, and a build takes about 1.5" in caplog.text) == warned
