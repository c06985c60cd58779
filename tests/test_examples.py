"""The numbered examples run, in order, each one on what those before it left."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))
DETECTOR = ROOT / "examples" / "07_detector.py"


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


@pytest.fixture
def run_example(folder, monkeypatch, capfd):
    """Return a function that runs an example in this process and returns what it printed."""

    # `auto` is ONNX Runtime, which opens a session in a fraction of OpenVINO's time.
    monkeypatch.setattr("edge_vit.runtime.backends.has_vnni", lambda: False)

    def run(path: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        captured = capfd.readouterr()
        assert captured.out.strip(), "an example shows something"
        assert not re.search(r"Traceback|Error:", captured.err)
        return captured.out

    return run


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem) for p in EXAMPLES if p.stem != DETECTOR.stem]
)
@pytest.mark.uncounted
def test_runs(path, run_example):
    run_example(path)


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.uncounted
def test_the_trained_detector_finds_digits_in_each_precision(share, run_example, monkeypatch):
    """On one in `share` of the example's scenes."""
    monkeypatch.syspath_prepend(DETECTOR.parent)
    scenes = importlib.import_module("detector.scenes")
    write = scenes.write_coco
    monkeypatch.setattr(
        scenes,
        "write_coco",
        lambda *args, count, **more: write(*args, count=count // share, **more),
    )
    found = {
        line[:4]: [float(value) for value in re.findall(r"AP\S* (\S+),", line)]
        for line in run_example(DETECTOR).splitlines()
    }
    assert found["fp32"][1] >= 0.7
    assert found["int8"][0] >= found["fp32"][0] - (0.005 if share == 1 else 0.05)
