"""A number format is known in one place: nothing outside compares with its name or its files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from edge_vit.formats import all_formats

PACKAGE = Path(__file__).parents[2] / "edge_vit"
OWN = ("formats", "lowering")
ALLOWED = {
    "report/models.py": "columns of the table of models",
    "runtime/trt/loaded.py": "numpy's names of the types that TensorRT knows",
}

WORDS = {name for each in all_formats() for name in (each.name, *each.files)}


def words_in(path: Path) -> set[str]:
    """Return the names and files of formats that stand as strings in the file at `path`."""
    if path.suffix == ".py":
        nodes = ast.walk(ast.parse(path.read_text()))
        return WORDS & {node.value for node in nodes if isinstance(node, ast.Constant)}
    return WORDS & set(re.findall(r"[\"']([\w/.-]+)[\"']", path.read_text()))


def outside() -> list[Path]:
    files = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".py", ".html", ".css")]
    return [path for path in files if path.relative_to(PACKAGE).parts[0] not in OWN]


def test_no_other_module_names_a_format_or_its_files():
    found = {str(path.relative_to(PACKAGE)): words_in(path) for path in outside()}
    assert {name: words for name, words in found.items() if words and name not in ALLOWED} == {}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_needed(name):
    assert words_in(PACKAGE / name)


def test_the_reader_finds_a_name(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('is_small = precision == "int8" or name == "onnx/fp16.onnx"')
    assert words_in(module) == {"int8", "onnx/fp16.onnx"}
