"""Importing costs little: no heavy package is loaded before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "timm", "torchvision"),
    *("transformers", "matplotlib", "jinja2", "sklearn", "scipy", "safetensors"),
}
CORE = {"numpy", "PIL", "click", "rich"}


def loaded_modules(code: str) -> set[str]:
    """Return the modules that a fresh process has loaded after `code`."""
    code = f"{code}\nimport json, sys; print(json.dumps([*sys.modules]))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout))


def loaded_packages(code: str) -> set[str]:
    """Return the top-level packages that a fresh process has loaded after `code`."""
    return {name.partition(".")[0] for name in loaded_modules(code)}


@pytest.mark.parametrize("module", ["edge_vit", "edge_vit.cli", "edge_vit.runtime"])
def test_importing_loads_no_heavy_package(module):
    assert not loaded_packages(f"import {module}") & HEAVY


def test_importing_the_root_loads_nothing_but_the_standard_library():
    assert not loaded_packages("import edge_vit") & (HEAVY | CORE)


def test_what_a_predictor_needs_loads_no_torch_and_no_onnx():
    assert not loaded_packages("import edge_vit; edge_vit.Predictor") & {"torch", "onnx", "sklearn"}


def test_would_notice_a_heavy_package():
    assert "onnxruntime" in loaded_packages("import onnxruntime") & HEAVY


HELP = """
import contextlib, io, sys
sys.argv = ["edgevit", "--help"]
from edge_vit.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
assert "export" in shown.getvalue()
"""


@pytest.mark.parametrize(
    ("code", "limit"), [("import edge_vit", 30), (HELP, 130)], ids=["import", "help"]
)
def test_few_modules_are_loaded_where_a_user_waits(code, limit):
    """A module is a millisecond or two: the number is the same on every machine."""
    assert len(loaded_modules(code) - loaded_modules("")) <= limit


def test_help_loads_no_package_but_the_one_that_prints_it():
    assert not loaded_packages(HELP) & (HEAVY | CORE - {"click"})
