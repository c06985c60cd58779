"""What is installed: the wheel's files, and the pins against the bounds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"edge_vit-{PROJECT['version']}"
PY310_EXTRAS = ("cpu",)
"""What a device installs, beside the core."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Return the wheel, built without a network from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "edge_vit", folder / "tree" / "edge_vit")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    process = subprocess.run([*command, folder / "tree"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return zipfile.ZipFile(folder / f"{NAME}-py3-none-any.whl")


def test_wheel_holds_the_package_and_nothing_else(wheel):
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edge_vit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    facts = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    assert set(wheel.namelist()) == package | {f"{NAME}.dist-info/{fact}" for fact in facts}


def test_package_folder_holds_only_what_ships():
    kinds = {path.suffix for path in (ROOT / "edge_vit").rglob("*") if path.is_file()}
    assert kinds - {".pyc"} <= {".py", ".typed", ".html", ".css", ".js", ".json", ".svg"}


def test_wheel_says_that_it_is_typed(wheel):
    assert "edge_vit/py.typed" in wheel.namelist()


def test_wheel_installs_one_name_and_one_command(wheel):
    read = {
        name: wheel.read(f"{NAME}.dist-info/{name}").decode()
        for name in ("top_level.txt", "entry_points.txt")
    }
    assert read["top_level.txt"].split() == ["edge_vit"]
    assert read["entry_points.txt"].split() == [
        "[console_scripts]",
        "edgevit",
        "=",
        "edge_vit.cli:main",
    ]


def test_wheel_says_licence_and_oldest_python(wheel):
    metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata


def read_pins(name: str) -> dict[str, str]:
    """Return version by distribution of the constraints file `name`."""
    lines = [
        line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")
    ]
    wrong = [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)]
    assert not wrong, "a pin is name==version, without an address or a marker"
    pins = (line.split("==") for line in lines)
    return {canonicalize_name(pin): version for pin, version in pins}


def read_bounds(extras: tuple[str, ...]) -> list[Requirement]:
    """Return what the core and `extras` ask for, this project's own extras left out."""
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in extras)]
    requirements = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in requirements if requirement.name != "edge-vit"]


NOT_HERE = {"cuda12", "tensorrt"}
"""Extras of other machines: the older CUDA, and what comes from NVIDIA's own index."""
ALL_BOUNDS = read_bounds(
    tuple(extra for extra in PROJECT["optional-dependencies"] if extra not in NOT_HERE)
)


JETPACK6_BOUNDS = read_bounds(
    tuple(e for e in PROJECT["optional-dependencies"] if e not in ("cuda13", "tensorrt"))
)
"""Those of Python 3.10's home, whose CUDA is the older one."""


@pytest.mark.parametrize(
    ("name", "bounds"),
    [("constraints.txt", ALL_BOUNDS), ("constraints-py310.txt", JETPACK6_BOUNDS)],
    ids=["development", "device"],
)
def test_every_pin_is_within_the_bounds(name, bounds):
    pins = read_pins(name)
    wrong = [
        f"{bound.name} {pins[canonicalize_name(bound.name)]} is not {bound.specifier}"
        for bound in bounds
        if canonicalize_name(bound.name) in pins
        and pins[canonicalize_name(bound.name)] not in bound.specifier
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("constraints.txt", ALL_BOUNDS),
        ("constraints-py310.txt", read_bounds(PY310_EXTRAS)),
    ],
    ids=["development", "device"],
)
def test_everything_that_is_asked_for_is_pinned(name, bounds):
    assert {canonicalize_name(bound.name) for bound in bounds} <= set(read_pins(name))


def test_everything_has_a_lowest_version():
    assert not [bound.name for bound in ALL_BOUNDS if ">=" not in str(bound.specifier)]


def test_what_every_user_installs_is_small():
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == {
        *("numpy", "pillow", "click", "rich")
    }


def test_python_310_gets_the_newest_that_there_is_for_it():
    pins = read_pins("constraints-py310.txt")
    assert (pins["onnxruntime"], pins["numpy"]) == ("1.23.2", "2.2.6")
