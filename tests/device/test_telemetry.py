import device_trees
import fake_nvml
import pytest

from edge_vit.device import TelemetryReader, open_telemetry
from edge_vit.device.nvml import Nvml


def test_the_input_rail_is_the_power_of_an_orin_nano(tmp_path):
    reading = TelemetryReader(device_trees.orin_nano(tmp_path)).read()
    assert reading.power_w == pytest.approx(4.984 * 1.856)
    assert reading.power_source == "VDD_IN"
    assert set(reading.rails_w) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert reading.throttling == ()
    assert reading.num_throttle_events == 27


def test_rails_are_summed_where_none_is_the_input(tmp_path):
    reading = TelemetryReader(device_trees.agx_orin(tmp_path)).read()
    summed = 18.792 * 0.140 + 18.784 * 0.020 + 4.968 * 0.980  # the memory is part of the third
    assert reading.power_w == pytest.approx(summed)
    assert reading.power_source == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert reading.rails_w["VDDQ_VDD2_1V8AO"] == pytest.approx(4.968 * 0.080)
    assert "NC" not in reading.rails_w


def test_the_input_of_a_thor_is_measured_by_its_own_chip(tmp_path):
    reading = TelemetryReader(device_trees.thor(tmp_path)).read()
    assert (reading.power_w, reading.power_source) == (39.6, "VIN")
    assert reading.throttling == ("gpu-throttle-alert",)


def test_a_sensor_that_is_off_is_left_out(tmp_path):
    device_trees.orin_nano(tmp_path)
    assert set(TelemetryReader(tmp_path).read().temperatures_c) == {"cpu", "gpu", "soc0", "tj"}
    device_trees.write(tmp_path, device_trees.zones(cpu="-256000", gpu="999999"))
    assert set(TelemetryReader(tmp_path).read().temperatures_c) == {"soc0", "tj"}


@pytest.mark.parametrize("content", device_trees.BROKEN, ids=repr)
def test_there_is_no_sum_while_a_rail_is_silent(tmp_path, content):
    reader = TelemetryReader(device_trees.agx_orin(tmp_path))
    path = tmp_path / "sys/class/hwmon/hwmon3/curr1_input"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    reading = reader.read()
    assert reading.power_w is None
    assert "VDD_GPU_SOC" not in reading.rails_w
    assert reading.rails_w["VIN_SYS_5V0"] == pytest.approx(4.968 * 0.980)


def test_a_silent_rail_does_not_hide_the_input_rail(tmp_path):
    reader = TelemetryReader(device_trees.orin_nano(tmp_path))
    (tmp_path / "sys/class/hwmon/hwmon1/in3_input").unlink()
    assert reader.read().power_w == pytest.approx(4.984 * 1.856)


def test_a_sensor_that_comes_back_is_read_again(tmp_path):
    reader = TelemetryReader(device_trees.orin_nano(tmp_path))
    path = tmp_path / "sys/class/thermal/thermal_zone1/temp"
    path.unlink()
    assert "gpu" not in reader.read().temperatures_c
    path.write_text("60000")
    assert reader.read().temperatures_c["gpu"] == 60


def test_a_desktop_has_the_power_of_its_gpu(tmp_path):
    nvml = Nvml(fake_nvml.rtx_4090())
    reading = TelemetryReader(device_trees.desktop(tmp_path), nvml).read()
    assert (reading.power_w, reading.power_source) == (320.5, "gpu (NVML)")
    assert reading.temperatures_c == {"x86_pkg_temp": 61, "gpu": 71}
    assert reading.clocks_mhz == {"cpu0": 4500, "gpu": 2520, "gpu memory": 10501}
    assert reading.throttling == ("power limit", "heat (hardware)")
    assert reading.num_throttle_events == 3


def test_nvml_does_not_override_the_rails_of_a_thor(tmp_path):
    nvml = Nvml(fake_nvml.rtx_4090(DeviceGetPowerUsage=8000))
    reading = TelemetryReader(device_trees.thor(tmp_path), nvml).read()
    assert (reading.power_w, reading.power_source) == (39.6, "VIN")
    assert reading.temperatures_c["gpu"] == 109


def test_a_machine_without_sensors_reads_as_nothing(tmp_path):
    reading = TelemetryReader(tmp_path, clock=lambda: 7.0).read()
    assert reading.at_s == 7.0
    assert reading.power_w is None
    assert not (reading.rails_w or reading.temperatures_c or reading.clocks_mhz)


def test_is_opened_for_the_time_of_a_block(tmp_path):
    with open_telemetry(device_trees.thor(tmp_path)) as telemetry:
        assert telemetry.read().power_w == 39.6
    with open_telemetry() as telemetry:
        assert telemetry.read().at_s > 0
