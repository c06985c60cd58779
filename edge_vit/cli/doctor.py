"""``edgevit doctor``: what this machine is, what works, what is missing and how to repair it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import echo, print_grids, print_json
from edge_vit.errors import EdgeVitError

if TYPE_CHECKING:
    from edge_vit.bundle import Bundle
    from edge_vit.device.extras import Package
    from edge_vit.device.facts import DeviceFacts
    from edge_vit.device.findings import Finding
    from edge_vit.device.telemetry import Telemetry

_VIT_SMALL_BYTES = 88 << 20  # fp32 weights of a ViT-S/16, where no bundle says it


@click.command("doctor")
@click.argument("bundle", metavar="[BUNDLE]", required=False, type=click.Path(path_type=Path))
@params.json_option
@click.pass_context
def command(context: click.Context, bundle: Path | None, as_json: bool) -> None:
    """Show this machine, what works on it, and how to repair the rest.

    With BUNDLE, memory and disk are held against what building its engines takes. Commands are
    only printed, nothing is changed. Exit status: 1 when there is a problem.
    """
    from edge_vit.bundle import Bundle
    from edge_vit.device import TelemetryReader, read_device
    from edge_vit.device.extras import read_extras, try_extras
    from edge_vit.device.facts import ROOT
    from edge_vit.device.nvml import open_nvml
    from edge_vit.measure.environment import read_environment
    from edge_vit.report.machine import backends_grid, extras_grid, machine_grid
    from edge_vit.runtime.backends import available_backends, choose_backend

    log: CommandLog = context.obj
    opened = Bundle.open(bundle) if bundle else None
    with open_nvml(ROOT) as nvml:
        facts, reading = read_device(ROOT, nvml), TelemetryReader(ROOT, nvml).read()
    extras = read_extras(_requirements())
    with log.progress() as progress, progress.step("importing", len(extras)) as advance:
        states = try_extras(extras, advance)
    backends = available_backends()
    findings = [*_examine(facts, reading, opened), *_examine_install(states, backends)]
    if as_json:
        print_json(
            {
                "environment": read_environment(),
                "device": facts,
                "telemetry": reading,
                "extras": states,
                "backends": backends,
                "auto": choose_backend(),
                "findings": findings,
            }
        )
    else:
        print_grids(machine_grid(facts, reading), backends_grid(backends), extras_grid(states))
        _print_findings(findings)
    if any(finding.state == "problem" for finding in findings):
        context.exit(1)


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("edge-vit") or []
    except importlib.metadata.PackageNotFoundError:
        raise EdgeVitError(
            "edge-vit runs from its source tree, so its extras are not known. "
            "Run: pip install --editable ."
        ) from None


def _examine(facts: DeviceFacts, reading: Telemetry, bundle: Bundle | None) -> list[Finding]:
    from edge_vit.device import findings
    from edge_vit.device.facts import ROOT
    from edge_vit.runtime.backends import BACKENDS
    from edge_vit.runtime.cudart.calls import load_cudart
    from edge_vit.runtime.trt.store import cache_folder, state_folder

    weights = bundle.artifact(bundle.graph()).num_bytes if bundle else _VIT_SMALL_BYTES
    folders = [cache_folder(), state_folder(), Path(tempfile.gettempdir())]
    if bundle and os.access(bundle.path, os.W_OK):  # else its engines go to the cache
        folders.append(bundle.path.resolve())
    cudart = load_cudart()
    has_gstreamer = shutil.which("gst-launch-1.0") is not None
    has_tensorrt = any(BACKENDS[name].is_installed for name in ("trt", "rtx"))
    return [
        *findings.examine_machine(
            ROOT, facts, reading, sees_tensorrt=find_spec("tensorrt") is not None
        ),
        *findings.examine_cuda(facts, ".".join(map(str, cudart.version)) if cudart else ""),
        *findings.examine_engines(facts, has_tensorrt=has_tensorrt),
        *findings.examine_memory(facts, findings.build_memory_gib(weights)),
        *findings.examine_folders(folders),
        *findings.examine_cameras(ROOT, facts, has_gstreamer=has_gstreamer),
    ]


def _examine_install(
    extras: Mapping[str, Sequence[Package]], backends: Sequence[str]
) -> list[Finding]:
    from edge_vit.device.findings import Finding

    broken = {
        package.name: Finding(
            *("problem", f"extra {extra}"),
            f"{package.name} {package.version} is installed, but fails: {package.error}",
            f"pip install --force-reinstall 'edge-vit[{extra}]'",
        )
        for extra, packages in extras.items()
        for package in packages
        if package.error
    }
    none = "nothing here can run a model"
    unable = (
        [] if backends else [Finding("problem", "backend", none, "pip install 'edge-vit[cpu]'")]
    )
    return [*broken.values(), *unable]


def _print_findings(findings: Sequence[Finding]) -> None:
    if not findings:
        echo("Nothing to repair.")
        return
    echo("To do", bold=True)
    for finding in sorted(findings, key=lambda finding: finding.state != "problem"):
        is_problem = finding.state == "problem"
        echo("  ", nl=False)
        echo("problem" if is_problem else "advice", nl=False, fg="red" if is_problem else "yellow")
        echo(f" {finding.subject}: {finding.detail}")
        if finding.command:
            echo(f"      {finding.command}")
