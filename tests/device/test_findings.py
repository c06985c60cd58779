import dataclasses
import os

import device_trees
import fake_nvml
import pytest

from edge_vit.device import TelemetryReader, findings, read_device
from edge_vit.device.facts import Memory
from edge_vit.device.findings import (
    build_memory_gib,
    examine_cameras,
    examine_cuda,
    examine_engines,
    examine_folders,
    examine_machine,
    examine_memory,
    fastest_mode,
)
from edge_vit.device.jetson import PowerMode
from edge_vit.device.nvml import Nvml


def examine(root, *, sees_tensorrt=True, nvml=None, **changes):
    """Return state, subject and command of what is to do on the board below `root`."""
    facts = dataclasses.replace(read_device(root, nvml), **changes)
    found = examine_machine(
        root, facts, TelemetryReader(root, nvml).read(), sees_tensorrt=sees_tensorrt
    )
    return [(finding.state, finding.subject, finding.command) for finding in found]


SPEED = [
    ("advice", "speed", "sudo nvpmodel -m 2"),
    ("advice", "clocks", "sudo jetson_clocks --store && sudo jetson_clocks"),
]


def test_a_board_at_its_best_needs_nothing(tmp_path):
    assert examine(device_trees.agx_orin(tmp_path)) == []


def test_advises_on_power_mode_clocks_and_supply(tmp_path):
    found = examine(device_trees.orin_nano(tmp_path))
    assert found == [*SPEED, ("advice", "throttling", "")]


def test_says_when_python_does_not_see_the_systems_tensorrt(tmp_path):
    found = examine(device_trees.agx_orin(tmp_path), sees_tensorrt=False)
    assert found == [("problem", "TensorRT", "python3 -m venv --system-site-packages .venv")]


def test_says_when_jetpacks_tensorrt_is_missing(tmp_path):
    found = examine(device_trees.agx_orin(tmp_path), tensorrt="")
    assert found == [("problem", "TensorRT", "sudo apt-get install nvidia-jetpack")]


@pytest.mark.parametrize(
    ("l4t", "state"), [("35.4.1", "problem"), ("", "advice"), ("36.2.0", None)], ids=str
)
def test_an_old_or_unknown_release(tmp_path, l4t, state):
    found = examine(device_trees.agx_orin(tmp_path), l4t=l4t)
    assert [kind for kind, subject, _ in found if subject == "JetPack"] == [state] * bool(state)


def test_says_when_the_board_is_slowed_down_by_heat(tmp_path):
    root = device_trees.thor(tmp_path)
    found = examine_machine(
        root, read_device(root), TelemetryReader(root).read(), sees_tensorrt=True
    )
    (heat,) = [finding for finding in found if finding.subject == "throttling"]
    assert heat.detail.startswith("slowed down right now at 109 °C: gpu-throttle-alert")


def test_an_nvidia_card_without_its_driver_is_a_problem(tmp_path):
    card = "sys/bus/pci/devices/0000:01:00.0"
    device_trees.write(tmp_path, {f"{card}/vendor": "0x10de\n", f"{card}/class": "0x030000\n"})
    assert examine(tmp_path) == [("problem", "driver", "sudo ubuntu-drivers install")]
    device_trees.write(tmp_path, {f"{card}/class": "0x040300\n"})  # its sound
    assert examine(tmp_path) == []


def test_a_gpu_without_tensorrt_is_told(tmp_path):
    desktop = read_device(device_trees.desktop(tmp_path / "desktop"))
    assert desktop.gpus
    (found,) = examine_engines(desktop, has_tensorrt=False)
    assert (found.state, found.command) == ("advice", "pip install 'edge-vit[rtx]'")
    assert not [*examine_engines(desktop, has_tensorrt=True)]
    board = read_device(device_trees.agx_orin(tmp_path / "board"))
    assert not [*examine_engines(board, has_tensorrt=False)]  # has a line of its own


def test_a_desktop_wants_nvml(tmp_path):
    root = device_trees.desktop(tmp_path)
    assert ("advice", "NVML", "pip install 'edge-vit[nvml]'") in examine(root)
    found = examine(root, nvml=Nvml(fake_nvml.rtx_4090()))
    assert "NVML" not in [subject for _, subject, _ in found]


@pytest.mark.parametrize(
    ("cuda", "runtime", "state", "command"),
    [
        ("12.6.68", "12.9", None, None),
        ("12.6.68", "", "advice", "pip install 'edge-vit[cuda12]'"),
        ("12.6.68", "13.0", "problem", "pip install 'edge-vit[cuda12]'"),
        ("13.2.1", "12.9", None, None),
        ("", "13.0", None, None),
        ("11.8", "", None, None),
    ],
)
def test_the_cuda_runtime_is_one_that_the_driver_knows(tmp_path, cuda, runtime, state, command):
    facts = dataclasses.replace(read_device(device_trees.orin_nano(tmp_path)), cuda=cuda)
    found = [(finding.state, finding.command) for finding in examine_cuda(facts, runtime)]
    assert found == ([(state, command)] if state else [])


def test_a_machine_without_gpu_wants_no_cuda(tmp_path):
    facts = dataclasses.replace(read_device(tmp_path), cuda="12.6.0")
    assert not [*examine_cuda(facts, None)]


@pytest.mark.parametrize(
    ("memory", "soc", "command"),
    [
        (Memory(7.4, 3.0, 0.0), "tegra234", None),
        (Memory(7.4, None, 0.0), "tegra234", None),
        (Memory(7.4, 1.0, 3.7), "tegra234", "mkswap"),
        (Memory(7.4, 1.0, 8.0), "tegra234", "isolate multi-user.target"),
        (Memory(7.4, 1.0, 0.0), "", ""),
    ],
)
def test_memory_for_a_build(memory, soc, command, tmp_path):
    facts = dataclasses.replace(read_device(tmp_path), memory=memory, soc=soc)
    found = [*examine_memory(facts, 2.0)]
    assert [command in finding.command for finding in found] == [True] * (command is not None)


def test_a_larger_model_takes_more_to_build():
    assert build_memory_gib(0) == 1.5
    assert build_memory_gib(1 << 30) == 6.5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path):
    tmp_path.chmod(0o500)
    try:
        (found,) = examine_folders([tmp_path / "not" / "there"])
    finally:
        tmp_path.chmod(0o700)
    assert found.detail == f"{tmp_path} cannot be written"


def test_asks_the_system_whether_a_folder_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(findings.os, "access", lambda path, mode: path != tmp_path)
    (found,) = examine_folders([tmp_path, tmp_path])
    assert (found.state, found.command) == ("problem", f'sudo chown "$USER" {tmp_path}')


def test_too_little_disk_is_a_problem(tmp_path, monkeypatch):
    assert not [*examine_folders([tmp_path / "cache"])]
    usage = findings.shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(findings.shutil, "disk_usage", lambda path: usage)
    (found,) = examine_folders([tmp_path / "cache"])
    assert (found.state, found.subject) == ("problem", "disk")
    assert "1.0 GiB are left" in found.detail


def cameras(root, *, has_gstreamer=True):
    facts = read_device(root)
    return [f.command for f in examine_cameras(root, facts, has_gstreamer=has_gstreamer)]


def test_cameras_of_a_board(tmp_path):
    root = device_trees.orin_nano(tmp_path)
    assert cameras(root) == ["sudo apt-get install nvidia-l4t-gstreamer"]
    device_trees.write(root, {findings._GSTREAMER_CAMERA: ""})
    assert cameras(root) == []
    assert cameras(root, has_gstreamer=False) == ["sudo apt-get install gstreamer1.0-tools"]
    (root / "dev/video0").unlink()
    assert cameras(root) == ["sudo /opt/nvidia/jetson-io/jetson-io.py"]


def test_a_camera_that_this_user_may_not_open(tmp_path, monkeypatch):
    root = device_trees.desktop(tmp_path)
    device_trees.write(root, {"dev/video0": ""})
    assert cameras(root) == []
    monkeypatch.setattr(findings.os, "access", lambda path, mode: False)
    assert cameras(root) == ['sudo usermod -aG video "$USER"']


@pytest.mark.parametrize(
    ("names", "fastest"),
    [
        (["15W", "25W", "MAXN_SUPER"], "MAXN_SUPER"),
        (["MAXN", "MODE_15W"], "MAXN"),
        (["15W", "10W", "7W"], "15W"),
        (["MODE_15W", "MODE_50W", "MODE_30W"], "MODE_50W"),
    ],
    ids=str,
)
def test_the_fastest_mode(names, fastest):
    modes = [PowerMode(number, name) for number, name in enumerate(names)]
    assert fastest_mode(modes).name == fastest
    assert fastest_mode([]) is None
