"""``edgevit doctor``: this machine, and which extras are installed."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping

import click

from edge_vit.cli.options import json_option
from edge_vit.cli.output import print_json, print_tables
from edge_vit.errors import EdgeVitError

_REQUIREMENT = re.compile(r"""^([\w.-]+).*\bextra == ["']([\w-]+)["']""")
_FOR_DEVELOPERS = ("all", "dev")


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show this machine, and which extras are installed."""
    from edge_vit.measure.environment import read_environment
    from edge_vit.report.grids import Grid
    from edge_vit.report.terminal import grid_table
    from edge_vit.values import to_json

    environment, extras = read_environment(), read_extras(_requirements())
    if as_json:
        print_json({"environment": environment, "extras": extras})
        return
    facts = to_json(environment) | {"instruction_sets": ", ".join(environment.instruction_sets)}
    versions = facts.pop("packages")
    rows = [(name, str(value)) for name, value in (facts | versions).items()]
    print_tables(
        grid_table(Grid("Environment", ("fact", "value"), tuple(rows), 2)),
        grid_table(
            Grid("Extras", ("extra", "state"), tuple((n, _state(n, extras[n])) for n in extras), 2)
        ),
    )


def read_extras(requirements: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """Return, by extra, the installed version of each package in it, None where it is missing.

    Args:
        requirements: as a distribution states them, such as ``torch>=2.6; extra == "export"``.
    """
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found and found[2] not in _FOR_DEVELOPERS:
            extras.setdefault(found[2], {})[found[1]] = _version(found[1])
    return extras


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("edge-vit") or []
    except importlib.metadata.PackageNotFoundError:
        raise EdgeVitError(
            "edge-vit runs from its source tree, so its extras are not known. "
            "Run: pip install --editable ."
        ) from None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _state(extra: str, packages: Mapping[str, str | None]) -> str:
    missing = [name for name, version in packages.items() if version is None]
    if missing:
        return f"lacks {', '.join(missing)}. Run: pip install 'edge-vit[{extra}]'"
    return ", ".join(f"{name} {version}" for name, version in packages.items())
