"""The numbered examples run, in order, each one on what those before it left."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("examples")


def test_there_are_examples_and_their_numbers_have_no_gap():
    assert EXAMPLES
    assert [int(path.name[:2]) for path in EXAMPLES] == [
        *range(int(EXAMPLES[0].name[:2]), int(EXAMPLES[0].name[:2]) + len(EXAMPLES))
    ]


def test_no_file_beside_them_is_forgotten():
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert files == {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
@pytest.mark.uncounted
def test_runs(path, folder, monkeypatch, capfd):
    """In this process: what an example imports takes longer than what it does."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name="__main__")
    captured = capfd.readouterr()
    assert captured.out.strip(), "an example shows something"
    if path.stem.endswith("_detector"):
        check_precisions(captured.out)
    assert not re.search(r"Traceback|Error:", captured.err)


def check_precisions(printed):
    """The trained detector finds digits, and loses no more than half a point of AP in INT8."""
    found = {
        line[:4]: [float(value) for value in re.findall(r"AP\S* (\S+),", line)]
        for line in printed.splitlines()
    }
    assert found["fp32"][1] >= 0.7
    assert found["int8"][0] >= found["fp32"][0] - 0.005
