"""The code is as docs/design.md draws it: imports point down the layers, files stay short."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edge_vit"
DESIGN = PACKAGE.parent / "docs" / "design.md"
LINE_LIMIT = 400
MEDIAN_LIMIT = 170
PACKAGE_LIMIT = 51_600  # docs/adr/0037-size-follows-what-is-promised.md

_ARRAYS = {"numpy", "PIL"}
_TENSORRT = {"tensorrt", "tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx"}
_ONNX = {"onnx", "onnx_ir", "onnxruntime", "google"}  # google.protobuf comes with onnx


@dataclass(frozen=True)
class Package:
    """A package, or a single file: its layer, and the libraries that it may load, late or not."""

    layer: int
    libraries: frozenset[str] = frozenset()


UTILITIES = "errors files git_lfs locks optional plugins printable progress values"
"""Single files of layer 0, which may import each other."""

PACKAGES = {
    **dict.fromkeys(UTILITIES.split(), Package(0)),
    "formats": Package(1),
    "spec": Package(2, frozenset({"numpy"})),
    "tasks": Package(3, frozenset({*_ARRAYS, "faster_coco_eval", "supervision"})),
    "data": Package(4, frozenset({*_ARRAYS, "av"})),
    "bundle": Package(5, frozenset({"numpy"})),
    "runtime": Package(6, frozenset({*_ARRAYS, *_TENSORRT, "onnxruntime", "openvino"})),
    "device": Package(6, frozenset({"numpy", "pynvml"})),
    "training": Package(7, frozenset({*_ARRAYS, "torch", "safetensors", "sklearn"})),
    "graph": Package(7, frozenset({"numpy", *_ONNX, "onnxscript"})),
    "export": Package(
        8,
        frozenset(
            {*_ARRAYS, *_ONNX, "onnxscript", "safetensors", "sklearn"}
            | {"torch", "timm", "torchvision", "transformers", "huggingface_hub"}
        ),
    ),
    "lowering": Package(8, frozenset({"numpy", "onnx", "onnx_ir", "threadpoolctl"})),
    "explain": Package(8, frozenset({*_ARRAYS, "onnx", "onnx_ir"})),
    "measure": Package(8, frozenset({*_ARRAYS, "onnx"})),  # onnx: for `emulate_half` alone
    "calibration": Package(9, frozenset({*_ARRAYS, *_ONNX, "onnxscript", "threadpoolctl"})),
    "camera": Package(10, frozenset({*_ARRAYS, "av", "paho"})),
    "cluster": Package(10, frozenset({"ray"})),
    "report": Package(10, frozenset({*_ARRAYS, "rich", "jinja2", "markupsafe", "matplotlib"})),
    "api": Package(11, frozenset({"torch", "onnx", "onnx_ir", "onnxruntime"})),
    "__init__": Package(12),
    "cli": Package(13, frozenset({*_ARRAYS, "click", "rich"})),
}

UPWARD = {("spec", "tasks"): "a model's spec has its task check it, when one is made"}
"""Imports against the order, and why."""

FILES = sorted(PACKAGE.rglob("*.py"))


def package_of(module: str) -> str:
    """Return the package of `module`, such as ``runtime`` for ``edge_vit.runtime.ort``."""
    return [*module.split("."), "__init__"][1]


def module_of(path: Path) -> str:
    """Return the dotted name of the file at `path`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Import:
    """One import: the module (a relative one starts with a dot), and whether it ever runs."""

    line: int
    module: str
    for_types_alone: bool = False

    @property
    def library(self) -> str:
        """The top-level module that is loaded, such as ``torch`` for ``torch.nn``."""
        return self.module.partition(".")[0]


@functools.cache
def imports_of(path: Path) -> list[Import]:
    """Return everything that `path` imports, wherever in the file it stands.

    Type-checking imports count, and so does ``require("timm", ...)``.
    """
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return [
        Import(node.lineno, module, node in for_types)
        for node in ast.walk(tree)
        for module in _imported_modules(node)
    ]


def _imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        if module == "edge_vit":
            names = {alias.name for alias in node.names}
            return [f"edge_vit.{name}" if name in PACKAGES else module for name in sorted(names)]
        return [module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "require":
        argument = node.args[0]
        assert isinstance(argument, ast.Constant), f"line {node.lineno}: name it literally"
        return [str(argument.value)]
    return []


def may_import(importer: str, imported: str) -> bool:
    """Return whether a module of package `importer` may import one of `imported`."""
    here, there = PACKAGES[importer].layer, PACKAGES[imported].layer
    is_known = (importer, imported) in UPWARD
    return importer == imported or there < here or here == there == 0 or is_known


def every_import() -> Iterator[tuple[str, str, Import]]:
    """Yield (where, package, import) for each import of the package."""
    for path in FILES:
        for found in imports_of(path):
            where = f"{path.relative_to(PACKAGE)}:{found.line} imports {found.module}"
            yield where, package_of(module_of(path)), found


def test_finds_the_files_of_the_package():
    assert PACKAGE / "errors.py" in FILES


def test_every_package_has_a_layer():
    assert set(PACKAGES) == {package_of(module_of(path)) for path in FILES}


def test_imports_point_down():
    assert not [
        f"{where}: layer {PACKAGES[package].layer} needs layer {PACKAGES[needed].layer}"
        for where, package, found in every_import()
        if found.library == "edge_vit"
        and not may_import(package, needed := package_of(found.module))
    ]


def test_every_exception_is_needed():
    made = {(package, package_of(found.module)) for _, package, found in every_import()
            if found.library == "edge_vit"}  # fmt: skip
    assert set(UPWARD) <= made


def test_every_package_loads_only_the_libraries_that_it_may():
    always = sys.stdlib_module_names | {"edge_vit", ""}
    assert not [
        where
        for where, package, found in every_import()
        if found.library not in PACKAGES[package].libraries | always
        and not (found.library == "typing_extensions" and found.for_types_alone)
    ]


def test_the_design_lists_every_package_in_its_layer():
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", DESIGN.read_text(), re.MULTILINE)
    drawn = {name: int(layer) for layer, names in rows for name in re.findall("`(\\w+)`", names)}
    assert drawn == {
        name.replace("__init__", "edge_vit"): package.layer for name, package in PACKAGES.items()
    }


@pytest.mark.parametrize("title", ["The image's way", "The weight's way"])
def test_a_way_crosses_every_package_once(title):
    section = DESIGN.read_text().partition(f"### {title}")[2].partition("\n#")[0]
    steps = re.findall(r"^\d+\. `([\w.]+)`", section, re.MULTILINE)
    assert len(steps) > 5
    assert not [step for step in steps if not _is_defined(step)]
    crossed = [package for package, _ in itertools.groupby(steps, lambda s: s.partition(".")[0])]
    assert len(crossed) == len(set(crossed)), crossed


def _is_defined(name: str) -> bool:
    """Whether ``package.module.function`` or ``package.module.Class.method`` is in the tree."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        folder = PACKAGE.joinpath(*parts[:cut])
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if path.is_file():
            scope = ast.parse(path.read_text()).body
            for part in parts[cut:]:
                named = [node for node in scope if getattr(node, "name", "") == part]
                if not named:
                    return False
                scope = getattr(named[0], "body", [])
            return True
    return False


def test_one_file_alone_imports_tensorrt():
    importers = {
        w.partition(":")[0] for w, _, found in every_import() if "tensorrt" in found.library
    }
    assert importers == {"runtime/trt/api.py"}


def test_no_import_is_relative():
    assert not [where for where, _, found in every_import() if not found.library]


def test_no_file_is_named_like_a_library_that_it_imports():
    assert not [
        path for path in FILES if path.stem in {found.library for found in imports_of(path)}
    ]


def test_every_file_is_valid_python_310():
    for path in FILES:
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


def test_every_file_is_short_enough_to_read():
    lengths = {module_of(path): len(path.read_text().splitlines()) for path in FILES}
    long = {module: length for module, length in lengths.items() if length > LINE_LIMIT}
    assert not long, "split it where a seam shows"


def test_the_package_is_no_larger_than_was_decided():
    total = sum(len(path.read_text().splitlines()) for path in FILES)
    assert total <= PACKAGE_LIMIT, "take something out, or say in ADR 0037 why not"


def test_the_median_file_is_short():
    lengths = [len(path.read_text().splitlines()) for path in FILES if path.stem != "__init__"]
    assert statistics.median(lengths) <= MEDIAN_LIMIT


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("cli", "errors", True),
        ("cli", "__init__", True),
        ("measure", "__init__", False),
        ("spec", "errors", True),
        ("runtime", "runtime", True),
        ("graph", "training", False),
        ("measure", "runtime", True),
        ("runtime", "measure", False),
        ("bundle", "runtime", False),
        ("spec", "tasks", True),
        ("tasks", "data", False),
        ("files", "errors", True),
        ("report", "api", False),
    ],
)
def test_the_rule_itself(importer, imported, allowed):
    assert may_import(importer, imported) is allowed


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    import torch.nn", ["torch.nn"]),
        ("from edge_vit import api", ["edge_vit.api"]),
        ("from edge_vit import __version__", ["edge_vit"]),
        ("from edge_vit.runtime.ort import x", ["edge_vit.runtime.ort"]),
        ("from . import sibling", ["."]),
        ("optional.require('timm', 'exporting')", ["timm"]),
        ("if TYPE_CHECKING:\n    import onnx", ["onnx"]),
    ],
)
def test_the_reader_of_imports_misses_none(tmp_path, source, expected):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert [found.module for found in imports_of(path)] == expected
