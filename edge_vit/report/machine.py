"""What a machine is, what works on it, and the engines built for it, as grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_vit.device.extras import Package
from edge_vit.device.facts import DeviceFacts
from edge_vit.device.telemetry import Telemetry
from edge_vit.formats import all_formats, names_of
from edge_vit.measure.environment import read_environment
from edge_vit.optional import extra_of
from edge_vit.report.conditions import facts_grid
from edge_vit.report.grids import Grid, side_by_side
from edge_vit.report.wording import MISSING, YES_NO, megabytes, percent
from edge_vit.runtime.backends import BACKENDS, choose_backend
from edge_vit.runtime.cpu import cpu_quota
from edge_vit.runtime.trt.identity import batch_words
from edge_vit.runtime.trt.store import Engine


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


def engines_grid(engines: Sequence[Engine]) -> Grid:
    """Return one column per engine, of which there is one at least."""
    columns = [(engine.sidecar.identity.precision, _engine_column(engine)) for engine in engines]
    return side_by_side("Engines", columns, _engines_note(engines))


def _engine_column(engine: Engine) -> dict[str, str]:
    sidecar, identity, audit = engine.sidecar, engine.sidecar.identity, engine.sidecar.audit
    name = {"trt": "TensorRT", "rtx": "TensorRT-RTX"}.get(identity.backend, identity.backend)
    formats = tuple(reversed(names_of(all_formats())))
    return {
        "built with": f"{name} {identity.version}",
        "for": " ".join(filter(None, (identity.gpu, "+".join(identity.targets)))),
        "batch": batch_words(identity.batches),
        "size": megabytes(sidecar.num_bytes),
        "built in": f"{sidecar.seconds:.1f} s",
        "state": "built now" if engine.is_new else "there already",
        **{f"multiply-adds in {each}": percent(audit.share(each), 1) for each in formats},
        **{f"layers in {each}": str(audit.layers.get(each, 0)) for each in formats},
        "products named by the engine": _part(audit.num_named, len(audit.products)),
        "reformats": MISSING if audit.num_reformats is None else str(audit.num_reformats),
        "fused attention": _part(audit.num_fused, audit.num_blocks, " blocks"),
        "warnings of TensorRT": str(len(sidecar.warnings)) if sidecar.warnings else MISSING,
    }


def _part(part: int | None, whole: int, noun: str = "") -> str:
    return MISSING if part is None else f"{part} of {whole}{noun}"


def _engines_note(engines: Sequence[Engine]) -> str:
    witnesses = {engine.sidecar.audit.witness for engine in engines}
    if witnesses == {"engine"}:
        return "Layers as the engine's own inspector lists them."
    seen = "Layers as TensorRT read them in the graph, before it fused any"
    if witnesses == {"network"}:
        return f"{seen}: no GPU here has loaded these engines."
    return f"{seen}, where no GPU has loaded the engine; else as its inspector lists them."
