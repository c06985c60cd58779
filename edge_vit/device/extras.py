"""State of the extras: each package is really imported, in a process of its own.

A package for another CUDA or another processor can be installed and still fail, or take the process
down with it, so asking for its version proves little.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_vit.optional import module_of

IMPORT_TIMEOUT_S = 120.0

_REQUIREMENT = re.compile(r"""^([\w.-]+).*;.*\bextra == ["']([\w-]+)["']""")
_MACHINE = re.compile(r"""platform_machine == ["']([\w-]+)["']""")
_FOR_DEVELOPERS = ("all", "dev")
_CHILD = """
import importlib, json, sys
sys.path[:] = [path for path in sys.path if path]  # not what lies in the current folder
answers = sys.stdout
sys.stdout = sys.stderr
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        error = ""
    except BaseException as raised:
        error = " ".join(f"{type(raised).__name__}: {raised}".split())
    print(json.dumps([name, error]), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Package:
    """A package of an extra, its installed version, and the error where it cannot be imported."""

    name: str
    version: str | None
    error: str = ""


def read_extras(requirements: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the packages of each extra that are for this kind of processor."""
    extras: dict[str, tuple[str, ...]] = {}
    for requirement in requirements:
        found, machine = _REQUIREMENT.match(requirement), _MACHINE.search(requirement)
        if not found or found[2] in _FOR_DEVELOPERS:
            continue
        if machine is None or machine[1] == platform.machine():
            extras[found[2]] = (*extras.get(found[2], ()), found[1])
    return extras


def try_extras(
    extras: Mapping[str, Sequence[str]], advance: Callable[[int], None]
) -> dict[str, tuple[Package, ...]]:
    """Return the state of every package, once it was imported."""
    errors: dict[str, str] = {}
    states: dict[str, tuple[Package, ...]] = {}
    for extra, packages in extras.items():
        versions = {name: version_of(name) for name in packages}
        modules = [module_of(name) for name, version in versions.items() if version is not None]
        errors |= try_imports([module for module in modules if module not in errors])
        states[extra] = tuple(
            Package(name, version, errors[module_of(name)] if version else "")
            for name, version in versions.items()
        )
        advance(1)
    return states


def version_of(distribution: str) -> str | None:
    """Return the installed version of `distribution`, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def try_imports(modules: Sequence[str], timeout_s: float = IMPORT_TIMEOUT_S) -> dict[str, str]:
    """Return for each of `modules` why it cannot be imported, "" where it can.

    When the process that imports them dies, another one goes on behind the module it died at.
    """
    errors: dict[str, str] = {}
    while rest := [module for module in modules if module not in errors]:
        answers, end = _run(rest, timeout_s)
        errors |= answers
        blamed = next((module for module in rest if module not in answers), None)
        if blamed is not None:
            errors[blamed] = end
    return errors


def _run(modules: Sequence[str], timeout_s: float) -> tuple[dict[str, str], str]:
    """The errors that a process reports that imports `modules`, and how it ended."""
    command = [sys.executable, "-c", _CHILD, *modules]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
        output, end = done.stdout, f"importing it ended the process with status {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output, end = late.stdout or b"", f"importing it took more than {timeout_s:g} s"
    return dict(json.loads(line) for line in output.decode(errors="replace").splitlines()), end
