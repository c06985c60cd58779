"""The house stands as docs/design.md draws it: imports point down, files stay short."""

from __future__ import annotations

import ast
import functools
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edge_vit"
LINE_LIMIT = 400
MEDIAN_LIMIT = 140

_ARRAYS = {"numpy", "PIL"}
_TENSORRT = {"tensorrt", "tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx"}
_ONNX = {"onnx", "onnx_ir", "onnxruntime", "google"}  # google.protobuf comes with onnx


@dataclass(frozen=True)
class Room:
    """A floor's room: its height, and the packages beyond the standard library that it may load."""

    floor: int
    packages: frozenset[str]


BASE = Room(0, frozenset({*_ARRAYS, "av"}))  # PyAV: for `video` alone, and late
"""Floor 0 is one room of single files: these may import each other."""

BASE_FILES = """
    bundle
    data
    errors
    files
    formats
    git_lfs
    locks
    optional
    plugins
    printable
    progress
    spec
    tasks
    values
"""

ROOMS = {
    **dict.fromkeys(BASE_FILES.split(), BASE),
    "runtime": Room(1, frozenset({*_ARRAYS, *_TENSORRT, "cuda", "onnxruntime", "openvino"})),
    "device": Room(1, frozenset({"numpy", "pynvml"})),
    "training": Room(2, frozenset({*_ARRAYS, "torch", "safetensors", "sklearn"})),
    "graph": Room(2, frozenset({"numpy", *_ONNX, "onnxscript"})),
    "export": Room(
        3,
        frozenset(
            {*_ARRAYS, *_ONNX, "onnxscript", "safetensors", "sklearn"}
            | {"torch", "timm", "torchvision", "transformers", "huggingface_hub"}
        ),
    ),
    "lowering": Room(3, frozenset({"numpy", "onnx", "onnx_ir"})),
    "calibration": Room(4, frozenset({*_ARRAYS, *_ONNX, "onnxscript", "threadpoolctl"})),
    "explain": Room(3, frozenset({*_ARRAYS, "onnx", "onnx_ir"})),
    "measure": Room(3, frozenset({*_ARRAYS, "onnx"})),  # onnx: for `half_answers` alone, and late
    "api": Room(5, frozenset({*_ARRAYS, "torch", "onnx", "onnx_ir", "onnxruntime"})),
    "camera": Room(4, frozenset({*_ARRAYS, "av", "paho"})),
    "cluster": Room(4, frozenset({"ray"})),
    "report": Room(4, frozenset({*_ARRAYS, "rich", "jinja2", "markupsafe", "matplotlib"})),
    "__init__": Room(6, frozenset()),
    "cli": Room(7, frozenset({*_ARRAYS, "click", "rich"})),
}

FILES = sorted(PACKAGE.rglob("*.py"))


def room_name(module: str) -> str:
    """Name the room of `module`, such as ``runtime`` for ``edge_vit.runtime.ort``."""
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
    def package(self) -> str:
        """The package that is loaded, such as ``torch`` for ``torch.nn``."""
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
            return [f"edge_vit.{name}" if name in ROOMS else module for name in sorted(names)]
        return [module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "require":
        argument = node.args[0]
        assert isinstance(argument, ast.Constant), f"line {node.lineno}: name it literally"
        return [str(argument.value)]
    return []


def may_import(importer: str, imported: str) -> bool:
    """Say whether a module of room `importer` may import one of room `imported`."""
    here, there = ROOMS[importer], ROOMS[imported]
    return importer == imported or there.floor < here.floor or here is there is BASE


def test_finds_the_files_of_the_package():
    assert PACKAGE / "errors.py" in FILES


def every_import() -> Iterator[tuple[str, str, Import]]:
    """Yield (where, room, import) for each import of the package."""
    for path in FILES:
        for found in imports_of(path):
            where = f"{path.relative_to(PACKAGE)}:{found.line} imports {found.module}"
            yield where, room_name(module_of(path)), found


def test_every_module_belongs_to_a_floor():
    homeless = [module_of(path) for path in FILES if room_name(module_of(path)) not in ROOMS]
    assert not homeless, "give it a floor here and in docs/design.md"


def test_every_room_of_the_table_is_there():
    assert set(ROOMS) == {room_name(module_of(path)) for path in FILES}


def test_imports_point_one_way():
    assert not [
        f"{where}: floor {ROOMS[room].floor} needs floor {ROOMS[room_name(found.module)].floor}"
        for where, room, found in every_import()
        if found.package == "edge_vit" and not may_import(room, room_name(found.module))
    ]


def test_every_room_loads_only_the_packages_that_it_may():
    assert not [
        where
        for where, room, found in every_import()
        if found.package not in ROOMS[room].packages | sys.stdlib_module_names | {"edge_vit", ""}
        and not (found.package == "typing_extensions" and found.for_types_alone)
    ]


def test_one_file_alone_imports_tensorrt():
    importers = {
        w.partition(":")[0] for w, _, found in every_import() if "tensorrt" in found.package
    }
    assert importers == {"runtime/trt/api.py"}


def test_no_import_is_relative():
    assert not [where for where, _, found in every_import() if not found.package]


def test_no_file_is_named_like_a_package_that_it_imports():
    assert not [
        path for path in FILES if path.stem in {found.package for found in imports_of(path)}
    ]


def test_every_file_is_valid_python_310():
    for path in FILES:
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


def test_every_file_is_short_enough_to_read():
    lengths = {module_of(path): len(path.read_text().splitlines()) for path in FILES}
    long = {module: length for module, length in lengths.items() if length > LINE_LIMIT}
    assert not long, "split it where a seam shows"


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
