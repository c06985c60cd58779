"""Which extras work: each package is really imported, in a process of its own.

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
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_vit.optional import module_of

IMPORT_TIMEOUT_S = 120.0

_REQUIREMENT = re.compile(r"""^([\w.-]+).*\bextra == ["']([\w-]+)["']""")
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
    """One package of an extra.

    Attributes:
        name: of the distribution.
        version: that is installed; None where it is not.
        error: why it cannot be imported; "" where it can, or is not installed.
    """

    name: str
    version: str | None
    error: str = ""


def read_extras(requirements: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the packages of each extra that are for this kind of processor.

    Args:
        requirements: as a distribution states them, such as ``torch>=2.6; extra == "export"``.
    """
    extras: dict[str, tuple[str, ...]] = {}
    for requirement in requirements:
        found, machine = _REQUIREMENT.match(requirement), _MACHINE.search(requirement)
        if not found or found[2] in _FOR_DEVELOPERS:
            continue
        is_ours = machine is None or machine[1] == platform.machine()
        extras[found[2]] = extras.get(found[2], ()) + ((found[1],) if is_ours else ())
    return {extra: packages for extra, packages in extras.items() if packages}


def try_extras(
    extras: Mapping[str, Sequence[str]], advance: Callable[[int], None]
) -> dict[str, tuple[Package, ...]]:
    """Return the state of every package, once it was imported.

    Args:
        extras: the packages of each, by `read_extras`.
        advance: called after each extra.
    """
    errors: dict[str, str] = {}
    states: dict[str, tuple[Package, ...]] = {}
    for extra, names in extras.items():
        versions = {name: version_of(name) for name in names}
        modules = {name: module_of(name) for name in names if versions[name] is not None}
        errors |= try_imports([module for module in modules.values() if module not in errors])
        states[extra] = tuple(
            Package(name, versions[name], errors[modules[name]] if name in modules else "")
            for name in names
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

    One process imports all of them; when it dies, the module at which it died is the one to
    blame, and another process goes on with the next.
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
    """What a process says that imports `modules`, and how it ended."""
    command = [sys.executable, "-c", _CHILD, *modules]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            lines = process.stdout.read().decode(errors="replace").splitlines()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            was_late = not timer.is_alive()
            timer.cancel()
    if was_late:
        end = f"importing it took more than {timeout_s:g} s"
    else:
        end = f"importing it ended the process with status {status}"
    return dict(json.loads(line) for line in lines), end
