"""File trees as the kernel and the system of known machines lay them out."""

from __future__ import annotations

import json
from pathlib import Path

MIB_OF_KIB = 1024

ORIN_NANO_MODES = (
    "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n"
    "< POWER_MODEL ID=0 NAME=15W >\nGPU MAX_FREQ 612000000\n\n"
    "< POWER_MODEL ID=1 NAME=25W >\nGPU MAX_FREQ 918000000\n\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nGPU MAX_FREQ -1\n\n"
    "< PM_CONFIG DEFAULT=1 >\n"
)


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write `files`, by path below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def meminfo(total_mib: int, free_mib: int, swap_mib: int = 0) -> str:
    rows = {"MemTotal": total_mib, "MemFree": free_mib // 2, "MemAvailable": free_mib}
    rows["SwapTotal"] = swap_mib
    return "".join(f"{name}:{mib * MIB_OF_KIB:>15} kB\n" for name, mib in rows.items())


def devfreq(name: str, now: int, lowest: int, highest: int) -> dict[str, str | bytes]:
    folder = f"sys/class/devfreq/{name}"
    values = {"cur_freq": now, "min_freq": lowest, "max_freq": highest}
    return {f"{folder}/{key}": f"{value}\n" for key, value in values.items()}


def cpu_policy(core: int, now: int, lowest: int, highest: int) -> dict[str, str | bytes]:
    folder = f"sys/devices/system/cpu/cpufreq/policy{core}"
    values = {"scaling_cur_freq": now, "scaling_min_freq": lowest, "scaling_max_freq": highest}
    return {f"{folder}/{key}": f"{value}\n" for key, value in values.items()}


def monitor(
    index: int, rails: list[tuple[str, int, int]], chip: str = "ina3221"
) -> dict[str, str | bytes]:
    """An INA3221 at hwmon `index`; each rail is label, millivolts, milliamps."""
    folder = f"sys/class/hwmon/hwmon{index}"
    files: dict[str, str | bytes] = {f"{folder}/name": f"{chip}\n"}
    for channel, (label, millivolts, milliamps) in enumerate(rails, start=1):
        files[f"{folder}/in{channel}_label"] = f"{label}\n"
        files[f"{folder}/in{channel}_input"] = f"{millivolts}\n"
        files[f"{folder}/curr{channel}_input"] = f"{milliamps}\n"
        files[f"{folder}/in{channel + 3}_input"] = "8\n"  # the voltage at the shunt
    files[f"{folder}/in7_label"] = "sum of shunt voltages\n"
    files[f"{folder}/in7_input"] = "24\n"
    files[f"{folder}/curr7_input"] = "9999\n"  # would be counted if channel 7 were
    return files


def zones(**millidegrees: str) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for index, (name, value) in enumerate(millidegrees.items()):
        files[f"sys/class/thermal/thermal_zone{index}/type"] = f"{name}-thermal\n"
        files[f"sys/class/thermal/thermal_zone{index}/temp"] = f"{value}\n"
    return files


def alerts(**states: int) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for index, (name, state) in enumerate(states.items()):
        files[f"sys/class/thermal/cooling_device{index}/type"] = f"{name}-throttle-alert\n"
        files[f"sys/class/thermal/cooling_device{index}/cur_state"] = f"{state}\n"
    return files


def orin_nano(root: Path) -> Path:
    """An Orin Nano 8 GB with JetPack 6.2, 25 W, clocks free, an IMX219 camera."""
    return write(
        root,
        {
            "proc/device-tree/model": b"NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/device-tree/compatible": b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0"
            b"nvidia,tegra234\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1,"
            " EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
            "etc/nvpmodel.conf": ORIN_NANO_MODES,
            "var/lib/nvpmodel/status": "pmode:0001",
            "var/lib/dpkg/status": "Package: adduser\nVersion: 3.1\n\n"
            "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\n",
            "usr/lib/aarch64-linux-gnu/libnvinfer.so.10": "",
            "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
            "usr/local/cuda/version.json": json.dumps({"cuda": {"version": "12.6.68"}}),
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64"
            "  540.4.0  Release Build\nGCC version:\n",
            "proc/meminfo": meminfo(7620, 5400, 3810),
            "dev/video0": "",
            "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
            "sys/class/hwmon/hwmon0/name": "pwmfan\n",
            "sys/class/hwmon/hwmon0/pwm1": "102\n",
            "sys/class/hwmon/hwmon2/name": "pwm_tach\n",
            "sys/class/hwmon/hwmon2/rpm": "2140\n",
            "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
            "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon3/oc3_event_cnt": "27\n",
            **monitor(
                1, [("VDD_IN", 4984, 1856), ("VDD_CPU_GPU_CV", 4976, 400), ("VDD_SOC", 4976, 304)]
            ),
            **zones(cpu="51187", gpu="50218", cv0="", soc0="49500", tj="51187"),
            **alerts(cpu=0, gpu=0),
            **devfreq("17000000.gpu", 306000000, 306000000, 918000000),
            **devfreq("15340000.vic", 115200000, 115200000, 601600000),
            **devfreq("bwmgr", 2133000000, 204000000, 3199000000),
            **cpu_policy(0, 1510400, 115200, 1728000),
            **cpu_policy(4, 729600, 115200, 1728000),
        },
    )


def agx_orin(root: Path) -> Path:
    """An AGX Orin 64 GB with JetPack 7.2, MAXN, clocks locked by ``jetson_clocks``."""
    emc = "sys/kernel/debug/bpmp/debug/clk/emc"
    return write(
        root,
        {
            "proc/device-tree/model": b"NVIDIA Jetson AGX Orin Developer Kit\0",
            "proc/device-tree/compatible": b"nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0"
            b"nvidia,tegra234\0",
            "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 1\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=50W >\n",
            "var/lib/nvpmodel/status": "pmode:0000\n",
            "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.16.2": "",
            "usr/local/cuda/version.json": json.dumps({"cuda": {"version": "13.2.1"}}),
            "proc/meminfo": meminfo(62800, 55000),
            **monitor(
                3,
                [
                    ("VDD_GPU_SOC", 18792, 140),
                    ("VDD_CPU_CV", 18784, 20),
                    ("VIN_SYS_5V0", 4968, 980),
                ],
            ),
            **monitor(4, [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 80), ("NC", 0, 0)]),
            **zones(CPU="77281", GPU="-256000", tj="77281"),
            **devfreq("17000000.ga10b", 1300500000, 1300500000, 1300500000),
            **cpu_policy(0, 2201600, 2201600, 2201600),
            f"{emc}/rate": "3199000000\n",
            f"{emc}/min_rate": "204000000\n",
            f"{emc}/max_rate": "3199000000\n",
            f"{emc}/mrq_rate_locked": "1\n",
        },
    )


def thor(root: Path) -> Path:
    """An AGX Thor with JetPack 7.0, slowed down by heat."""
    return write(
        root,
        {
            "proc/device-tree/model": b"NVIDIA Jetson AGX Thor Developer Kit\0",
            "proc/device-tree/compatible": b"nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0"
            b"nvidia,tegra264\0",
            "etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 1\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
            "var/lib/nvpmodel/status": "pmode:0001\n",
            "proc/meminfo": meminfo(125806, 110000),
            **monitor(
                1,
                [
                    ("VDD_GPU", 12040, 640),
                    ("VDD_CPU_SOC_MSS", 12040, 960),
                    ("VIN_SYS_5V0", 5088, 1740),
                ],
            ),
            "sys/class/hwmon/hwmon2/name": "ina238\n",
            "sys/class/hwmon/hwmon2/in1_input": "19800\n",
            "sys/class/hwmon/hwmon2/curr1_input": "2000\n",
            "sys/class/hwmon/hwmon2/power1_input": "39600000\n",
            **zones(cpu="96000", gpu="109000", tj="109000"),
            **alerts(cpu=0, gpu=1),
            **devfreq("gpu-gpc-0", 1100000000, 315000000, 1575000000),
            **devfreq("gpu-nvd-0", 900000000, 900000000, 900000000),
            **devfreq("bwmgr", 4266000000, 665600000, 4266000000),
        },
    )


def desktop(root: Path) -> Path:
    """A PC with a GPU whose driver is there; NVML is the tests' own."""
    return write(
        root,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\n\n",
            "proc/meminfo": meminfo(64000, 48000, 8000),
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module"
            "  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA GeForce RTX 4090"
            "\nIRQ:   \t\t 183\n",
            "usr/local/cuda/version.json": json.dumps({"cuda": {"version": "12.4.0"}}),
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
            **zones(x86_pkg_temp="61000"),
            **cpu_policy(0, 4500000, 400000, 5700000),
        },
    )


BROKEN = ("", "nan", "inf", "-inf", "garbage", "12 34", b"\xff\xfe\0\0", "\0", "1e999", "0x10")
"""What a sensor's file may hold in place of a number."""
