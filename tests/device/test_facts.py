import dataclasses

import device_trees
import fake_nvml
import pytest

from edge_vit.device import nvml as nvml_module
from edge_vit.device import read_device
from edge_vit.device.facts import Camera, Memory, read_memory
from edge_vit.device.jetson import PowerMode, jetpack_of, read_l4t
from edge_vit.device.nvml import Nvml, open_nvml
from edge_vit.device.sensors import Clock
from edge_vit.values import from_json, to_json


def test_knows_an_orin_nano(tmp_path):
    facts = read_device(device_trees.orin_nano(tmp_path))
    assert facts.is_jetson
    assert facts.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (facts.module, facts.soc) == ("p3767-0005", "tegra234")
    assert (facts.l4t, facts.jetpack) == ("36.4.3", "6.2")
    assert (facts.tensorrt, facts.cuda, facts.driver) == ("10.3.0", "12.6.68", "540.4.0")
    assert facts.gpu.compute_capability == "8.7"
    assert facts.power_mode == PowerMode(1, "25W")
    assert [mode.name for mode in facts.power_modes] == ["15W", "25W", "MAXN_SUPER"]
    assert facts.cameras == (Camera("/dev/video0", "vi-output, imx219 9-0010"),)
    assert (facts.fan.percent, facts.fan.rpm) == (40.0, 2140)
    assert facts.memory == Memory(7.44, 5.27, 3.72)


def test_reads_clocks_and_leaves_the_video_units_out(tmp_path):
    facts = read_device(device_trees.orin_nano(tmp_path))
    assert facts.clocks[0] == Clock("gpu", 306, 306, 918, False)
    assert [clock.name for clock in facts.clocks] == ["gpu", "emc", "cpu0", "cpu4"]
    assert facts.clocks_locked is False


def test_knows_that_jetson_clocks_locked_an_agx_orin(tmp_path):
    facts = read_device(device_trees.agx_orin(tmp_path))
    assert (facts.module, facts.jetpack, facts.tensorrt) == ("p3701-0005", "7.2", "10.16.2")
    assert facts.clocks[1] == Clock("emc", 3199, 204, 3199, True)  # the memory's own word counts
    assert facts.clocks_locked is True
    assert str(facts.power_mode) == "MAXN (0)"


def test_knows_a_thor(tmp_path):
    facts = read_device(device_trees.thor(tmp_path))
    assert (facts.module, facts.soc, facts.jetpack) == ("p3834-0008", "tegra264", "7.0")
    assert facts.gpu.compute_capability == "11.0"
    assert facts.clocks[0].mhz == 1100  # of gpu-gpc-0, not of the video unit gpu-nvd-0


def test_knows_a_desktop_by_its_files_alone(tmp_path):
    facts = read_device(device_trees.desktop(tmp_path))
    assert not facts.is_jetson
    assert facts.model == "AMD Ryzen 9 7950X"
    assert (facts.gpu.name, facts.gpu.compute_capability) == ("NVIDIA GeForce RTX 4090", "")
    assert (facts.driver, facts.cuda, facts.power_mode) == ("550.54.15", "12.4.0", None)


def test_asks_nvml_on_a_desktop(tmp_path):
    facts = read_device(device_trees.desktop(tmp_path), Nvml(fake_nvml.rtx_4090()))
    assert facts.gpu.compute_capability == "8.9"
    assert facts.gpu.memory_gib == 24
    assert facts.cuda_of_driver == "12.4"
    assert facts.clocks[0] == Clock("gpu", 2520, None, None, None)


def test_a_machine_that_tells_nothing_is_no_error(tmp_path):
    facts = read_device(tmp_path)
    assert not facts.is_jetson
    assert facts.gpu is None
    assert facts.clocks_locked is None
    assert facts.memory == Memory(None, None, None)
    known = {k for k, v in to_json(facts).items() if v not in ("", None, [])}
    assert known == {"python", "memory"}


@pytest.mark.parametrize("content", device_trees.BROKEN, ids=repr)
def test_garbage_in_every_file_is_no_error(tmp_path, content):
    device_trees.orin_nano(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    facts = read_device(tmp_path)
    assert facts.clocks == ()
    assert (facts.l4t, facts.jetpack, facts.cuda, facts.power_mode) == ("", "", "", None)


def test_a_folder_in_place_of_a_file_is_no_error(tmp_path):
    (tmp_path / "etc/nv_tegra_release").mkdir(parents=True)
    (tmp_path / "proc/meminfo").mkdir(parents=True)
    assert read_device(tmp_path).l4t == ""


def test_facts_survive_json(tmp_path):
    facts = read_device(device_trees.orin_nano(tmp_path))
    assert from_json(type(facts), to_json(facts)) == facts


def test_a_release_without_a_known_jetpack_is_left_open(tmp_path):
    device_trees.write(tmp_path, {"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID"})
    assert read_l4t(tmp_path) == "41.1.0"
    assert jetpack_of("41.1.0") == ""
    assert jetpack_of("36.4.0") == "6.1"


def test_a_removed_jetpack_package_is_not_taken(tmp_path):
    device_trees.orin_nano(tmp_path)
    status = (
        "Package: a\n\nPackage: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 5\n\n"
    )
    device_trees.write(tmp_path, {"var/lib/dpkg/status": status})
    assert read_device(tmp_path).jetpack == "6.2"  # by its release


def test_a_mode_that_the_board_does_not_list_keeps_its_number(tmp_path):
    device_trees.write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0010"})
    assert str(read_device(tmp_path).power_mode) == "mode 10"


def test_memory_is_read_now(tmp_path):
    device_trees.write(tmp_path, {"proc/meminfo": device_trees.meminfo(8000, 1000)})
    assert read_memory(tmp_path).free_gib == pytest.approx(1000 / 1024, abs=0.01)


def test_nvml_that_supports_little_leaves_the_rest_empty():
    nvml = Nvml(fake_nvml.FakeNvml(DeviceGetCount=1, DeviceGetHandleByIndex=lambda i: i))
    (gpu,) = nvml.gpus()
    assert dataclasses.astuple(gpu) == ("", "", None)
    assert (nvml.driver(), nvml.cuda()) == ("", "")
    assert nvml.read().power_w is None
    assert nvml.read(1) is None


def test_nvml_without_gpus_is_no_error(tmp_path):
    nvml = Nvml(fake_nvml.FakeNvml(DeviceGetCount=0))
    assert nvml.gpus() == ()
    assert nvml.read() is None
    assert read_device(tmp_path, nvml).gpu is None


def test_older_libraries_call_the_reasons_otherwise():
    class Older(fake_nvml.FakeNvml):
        def __getattr__(self, name):
            if "ClocksEvent" in name:
                raise AttributeError(name)
            return super().__getattr__(name)

    known = {"DeviceGetCount": 1, "DeviceGetHandleByIndex": lambda i: i}
    older = Older(**known, DeviceGetCurrentClocksThrottleReasons=0x20)
    assert Nvml(older).read().throttling == ("heat (software)",)


def test_nvml_is_opened_for_this_machine_alone_and_closed(tmp_path, monkeypatch):
    library = fake_nvml.rtx_4090()
    monkeypatch.setattr(nvml_module, "_load", lambda: library)
    with open_nvml(tmp_path) as nvml:
        assert nvml is None
    with open_nvml(nvml_module.Path("/")) as nvml:
        assert nvml.driver() == "550.54.15"
    assert not library.is_open


def test_this_machine_can_be_read():
    facts = read_device()
    assert facts.memory.total_gib > 0
    assert facts.model
