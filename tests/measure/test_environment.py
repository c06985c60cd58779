import importlib.metadata
import os
import time

import device_trees
import numpy as np
import pytest

from edge_vit.device import read_device
from edge_vit.measure import environment
from edge_vit.measure.environment import read_environment
from edge_vit.runtime import cpu


def test_names_the_machine_and_the_packages():
    found = read_environment()
    assert found.device
    assert found.num_cores >= 1
    assert found.packages["numpy"] == np.__version__
    assert "edge-vit" in found.packages


def test_is_quick():
    def seconds():
        start = time.process_time()  # of this process alone: others may use the machine
        read_environment()
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.05


@pytest.mark.parametrize(
    ("text", "device", "sets"),
    [
        (
            "model name\t: Fast CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: Other\n",
            "Fast CPU",
            ("avx2", "avx512_vnni"),
        ),
        ("processor\t: 0\nFeatures\t: fp asimddp i8mm\n\n", "Board", ("asimddp", "i8mm")),
    ],
    ids=["x86", "arm"],
)
def test_reads_what_linux_says_of_the_first_core(tmp_path, monkeypatch, text, device, sets):
    (tmp_path / "cpuinfo").write_text(text)
    (tmp_path / "model").write_text("Board\0")
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(environment, "_BOARD", tmp_path / "model")
    found = read_environment()
    assert (found.device, found.instruction_sets) == (device, sets)


def test_leaves_facts_empty_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(environment, "_BOARD", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setattr(cpu, "_MOUNT", tmp_path / "none")
    found = read_environment()
    assert found.instruction_sets == ()
    assert found.memory_gib == 0
    assert found.num_cores == os.cpu_count()


def test_says_when_edge_vit_runs_from_its_source_tree(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert read_environment().packages == {"edge-vit": "source tree"}


def test_holds_what_a_board_is_and_how_it_is_set(tmp_path, monkeypatch):
    board = read_device(device_trees.agx_orin(tmp_path))
    monkeypatch.setattr(environment, "read_device", lambda: board)
    found = read_environment()
    assert (found.gpu, found.compute_capability) == ("tegra234 GPU", "8.7")
    assert (found.cuda, found.tensorrt, found.l4t) == ("13.2.1", "10.16.2", "39.2.0")
    assert (found.power_mode, found.clocks_locked) == ("MAXN (0)", True)
