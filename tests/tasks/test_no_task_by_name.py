"""Only the package of tasks knows their names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edge_vit.tasks import TASKS

PACKAGE = Path(__file__).parents[2] / "edge_vit"
NAMES = frozenset(TASKS.shipped)
OTHER_WORDS = {
    "edge_vit/calibration/seen.py": "keys of a file that holds the vectors of images",
    "edge_vit/optional.py": "names of extras",
    "edge_vit/export/sources/from_edgevit.py": "the number of blocks, in a checkpoint",
    "edge_vit/report/models.py": "the head of a column",
    "edge_vit/training/vit.py": "the number of blocks, in a configuration",
}
"""File -> what a name of a task means there."""


def names_of_tasks(source: str) -> list[int]:
    """Return the lines where the name of a task stands as a value, a key or an operand."""
    tree = ast.parse(source)
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # docstrings and other lone strings
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in NAMES and id(node) not in docs
    )


def test_no_file_outside_of_the_package_names_a_task():
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "tasks"
        and path.relative_to(PACKAGE.parent).as_posix() not in OTHER_WORDS
        for line in names_of_tasks(path.read_text())
    ]
    assert not found, "ask the task: edge_vit.tasks.task_of(spec)"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('if spec.task == "regression":\n    pass', [1]),
        ('x = {"multi_label": 1}', [1]),
        ('x = task in ("a", "features")', [1]),
        ('"""classification"""', []),
        ('x = "classifications"', []),
    ],
)
def test_the_reader_misses_none(source, lines):
    assert names_of_tasks(source) == lines
