from __future__ import annotations

import os

import numpy as np
import pytest

from edge_vit.measure.latency import measure_latency
from edge_vit.measure.recorder import find_warnings, stage_of
from edge_vit.runtime import cpu
from edge_vit.runtime.cpu import Throttling, cpu_quota, read_throttling
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.options import SessionOptions, num_cores, threads_of_ort


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return a function that writes the files of control groups."""
    monkeypatch.setattr(cpu, "_GROUPS_OF_PROCESS", tmp_path / "self")
    monkeypatch.setattr(cpu, "_MOUNT", tmp_path / "fs")

    def make(of_process, files):
        (tmp_path / "self").write_text(of_process)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


V1 = "4:memory:/a\n2:cpu,cpuacct:/docker/x\n0::/\n"
CASES = {
    "none": ("", {}, None),
    "v2 in a container": ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
    "v2 unlimited": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "v2 nested": (
        "0::/pod/box\n",
        {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "150000 100000", "other/cpu.max": "1 9"},
        1.5,
    ),
    "v2 outside of the namespace": ("0::/../../x\n", {"cpu.max": "300000 100000"}, 3.0),
    "v2 beside v1": ("5:memory:/\n0::/a\n", {"unified/a/cpu.max": "20000 10000"}, 2.0),
    "v1": (
        V1,
        {
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1 of another host path": (
        V1,
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
        0.5,
    ),
    "v1 unlimited": (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    "v1 of processor sets alone": (
        "3:cpuset:/\n",
        {"cpuset/cpu.cfs_quota_us": "50000", "cpuset/cpu.cfs_period_us": "100000"},
        None,
    ),
    "v1 that tells nothing": (
        V1,
        {"cpu/cpu.cfs_quota_us": "0", "cpu/cpu.cfs_period_us": "0"},
        None,
    ),
    "nonsense": ("x\n0::/\n", {"cpu.max": "many of them\n"}, None),
}


@pytest.mark.parametrize(("of_process", "files", "quota"), CASES.values(), ids=CASES)
def test_the_quota_is_the_tightest_of_the_groups(groups, of_process, files, quota):
    groups(of_process, files)
    assert cpu_quota() == quota


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 6), (0.5, 1), (1, 1), (1.5, 1), (2.9, 2), (4, 4), (64, 6)]
)
def test_threads_are_as_many_as_the_quota_has_whole_cores(groups, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    groups("0::/\n", {} if quota is None else {"cpu.max": f"{round(quota * 100_000)} 100000"})
    assert num_cores() == SessionOptions().num_threads == cores
    assert SessionOptions(threads=5).num_threads == 5
    assert threads_of_ort() == (0 if quota is None else cores)
    assert threads_of_ort(5) == 5


def test_throttling_is_counted_in_both_versions(groups):
    groups("0::/a\n", {"a/cpu.stat": "usage_usec 9\nnr_throttled 7\nthrottled_usec 2500000\n"})
    assert read_throttling() == Throttling(7, 2.5)
    groups(
        "1:cpu:/\n", {"cpu/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 500000000\n"}
    )
    assert read_throttling() == Throttling(3, 0.5)
    assert read_throttling().since(Throttling(1, 0.25)) == Throttling(2, 0.25)


def test_a_timing_says_that_a_quota_stopped_it(groups, spec):
    stat = {"cpu.max": "50000 100000", "cpu.stat": "nr_throttled 10\nthrottled_usec 1000000\n"}
    groups("0::/\n", stat)

    class Throttled(FakeSession):
        def _run(self, feeds):
            groups("0::/\n", {"cpu.stat": "nr_throttled 14\nthrottled_usec 1200000\n"})
            return super()._run(feeds)

    images = np.zeros((2, *spec.preprocess.image_size, 3), np.uint8)
    report = measure_latency(Throttled(spec), warmup=1, iterations=3, images=images)
    (warning,) = (warning for warning in report.warnings if warning.name == "throttled")
    assert (
        "A CPU quota of 0.5 cores stopped this process in 4 periods, for 0.2 s" in warning.sentence
    )
    calm = measure_latency(FakeSession(spec), warmup=1, iterations=3, images=images)
    assert "throttled" not in [warning.name for warning in calm.warnings]


def test_a_quota_that_is_not_used_up_is_no_warning(groups):
    groups("0::/\n", {"cpu.max": "50000 100000"})
    assert find_warnings((stage_of("run", [1.0]),), 0.0, is_on_gpu=False) == ()


@pytest.fixture
def spec():
    from camera.scripted import tiny_spec

    return tiny_spec()
