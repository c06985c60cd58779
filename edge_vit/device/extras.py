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

_REQUIREMENT = re.compile(r"""^([\w.-]+)\s*([<>=!~\d.,\w ]*);.*\bextra == ["']([\w-]+)["']""")
_BOUND = re.compile(r"(>=|<)(?!=)\s*([\d.]+)")
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
class Wanted:
    """A package that an extra asks for: its distribution, and bounds such as ``>=12.6,<13``."""

    name: str
    bounds: str = ""

    def admits(self, version: str) -> bool:
        """Whether `version` is within the bounds; only ``>=`` and ``<`` are known."""
        release = _release(version)
        return all(
            release >= _release(limit) if sign == ">=" else release < _release(limit)
            for sign, limit in _BOUND.findall(self.bounds)
        )


@dataclass(frozen=True)
class Package:
    """One package of an extra, and its version where it is installed.

    `error` is why it cannot be imported, `wanted` the bounds that the version is not within.
    """

    name: str
    version: str | None
    error: str = ""
    wanted: str = ""


def read_extras(requirements: Iterable[str]) -> dict[str, tuple[Wanted, ...]]:
    """Return the packages of each extra that are for this kind of processor."""
    extras: dict[str, tuple[Wanted, ...]] = {}
    for requirement in requirements:
        found, machine = _REQUIREMENT.match(requirement), _MACHINE.search(requirement)
        if not found or found[3] in _FOR_DEVELOPERS:
            continue
        if machine is None or machine[1] == platform.machine():
            wanted = Wanted(found[1], found[2].replace(" ", ""))
            extras[found[3]] = (*extras.get(found[3], ()), wanted)
    return extras


def try_extras(
    extras: Mapping[str, Sequence[Wanted]], advance: Callable[[int], None]
) -> dict[str, tuple[Package, ...]]:
    """Return the state of every package, once it was imported."""
    errors: dict[str, str] = {}
    states: dict[str, tuple[Package, ...]] = {}
    for extra, packages in extras.items():
        here = [wanted.name for wanted in packages if version_of(wanted.name) is not None]
        modules = [module_of(name) for name in here]
        errors |= try_imports([module for module in modules if module not in errors])
        states[extra] = tuple(_state(wanted, errors) for wanted in packages)
        advance(1)
    return states


def _state(wanted: Wanted, errors: Mapping[str, str]) -> Package:
    version = version_of(wanted.name)
    if version is None:
        return Package(wanted.name, None)
    misses = "" if wanted.admits(version) else wanted.bounds
    return Package(wanted.name, version, errors[module_of(wanted.name)], misses)


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


def _release(version: str) -> tuple[int, ...]:
    """The numbers before any suffix: (13, 5) of ``13.5.0rc1``, trailing zeros left out."""
    found = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in (found[0] if found else "").split(".") if part]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


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
