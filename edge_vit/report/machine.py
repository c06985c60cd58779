"""What a machine is and what works on it, as grids for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_vit.device.extras import Package
from edge_vit.device.facts import DeviceFacts
from edge_vit.device.telemetry import Telemetry
from edge_vit.formats import all_formats
from edge_vit.measure.environment import read_environment
from edge_vit.optional import extra_of
from edge_vit.report.conditions import facts_grid
from edge_vit.report.grids import Grid
from edge_vit.report.wording import YES_NO
from edge_vit.runtime.backends import BACKENDS, choose_backend
from edge_vit.runtime.cgroup import cpu_quota


def machine_grid(facts: DeviceFacts, reading: Telemetry) -> Grid:
    """Return what this machine is, and how its sensors stand; what it does not tell is left out."""
    here, memory, fan = read_environment(), facts.memory, facts.fan
    cuda_of_driver = facts.cuda_of_driver and f"{facts.cuda_of_driver} (of the driver)"
    gpus = [
        ", compute capability ".join(filter(None, (gpu.name, gpu.compute_capability)))
        for gpu in facts.gpus
    ]
    power = ""
    if reading.power_w is not None:
        power = f"{reading.power_w:.1f} W ({reading.power_source})"
    rows = {
        "device": facts.model,
        "module": facts.module,
        "JetPack": facts.jetpack,
        "Jetson Linux": facts.l4t,
        "instruction sets": ", ".join(here.instruction_sets),
        "logical cores": str(here.num_cores),
        "CPU quota": _quota(here.num_cores),
        "GPU": "; ".join(gpus),
        "number formats": ", ".join(_formats_of_gpu(facts)),
        "driver": facts.driver,
        "CUDA": facts.cuda or cuda_of_driver,
        "TensorRT": facts.tensorrt,
        "system": here.system,
        "Python": here.python,
        "edge-vit": here.packages["edge-vit"],
        "memory": _gib(memory.total_gib),
        "free memory": _gib(memory.free_gib),
        "swap": _gib(memory.swap_gib),
        "power mode": str(facts.power_mode or ""),
        "clocks": _values(reading.clocks_mhz, "MHz"),
        "clocks locked": YES_NO[facts.clocks_locked],
        "power": power,
        "temperatures": _values(reading.temperatures_c, "°C"),
        "fan": f"{fan.percent:.0f} %" if fan and fan.percent is not None else "",
        "cameras": "; ".join(f"{camera.path} {camera.name}".strip() for camera in facts.cameras),
    }
    return facts_grid("Machine", rows)


def backends_grid(backends: Sequence[str]) -> Grid:
    """Return every backend, and which works here: those named in `backends`."""

    def state(name: str) -> str:
        if name in backends:
            return "works; auto takes it" if name == choose_backend() else "works"
        if BACKENDS[name].is_installed:
            return "installed; there is no GPU for it"
        extra = extra_of(BACKENDS[name].package)
        return "not here" + (f". Run: pip install 'edge-vit[{extra}]'" if extra else "")

    rows = tuple((name, backend.help, state(name)) for name, backend in BACKENDS.items())
    return Grid("Backends", ("backend", "is", "state"), rows, 3)


def extras_grid(extras: Mapping[str, Sequence[Package]]) -> Grid:
    """Return the state of every extra."""

    def state(extra: str) -> str:
        packages = extras[extra]
        missing = [package.name for package in packages if package.version is None]
        broken = [package.name for package in packages if package.error]
        if broken:
            return f"{', '.join(broken)} fails, see below"
        if missing:
            return f"lacks {', '.join(missing)}. Run: pip install 'edge-vit[{extra}]'"
        return ", ".join(f"{package.name} {package.version}" for package in packages)

    return Grid("Extras", ("extra", "state"), tuple((name, state(name)) for name in extras), 2)


def _formats_of_gpu(facts: DeviceFacts) -> list[str]:
    """The number formats that the first GPU computes in, where its generation is known."""
    digits = facts.gpus[0].compute_capability.split(".") if facts.gpus else []
    here = tuple(int(part) for part in digits if part.isdigit())
    return [
        each.name for each in all_formats() if len(here) == 2 and here >= each.compute_capability
    ]


def _quota(num_cores: int) -> str:
    quota = cpu_quota()
    if quota is None:
        return ""
    threads = "1 thread" if num_cores == 1 else f"{num_cores} threads"
    return (
        f"{quota:g} cores' time (control group): a run takes {threads} where --threads is not set"
    )


def _values(values: Mapping[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.0f} {unit}" for name, value in values.items())


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} GiB"
