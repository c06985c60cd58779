"""Importing costs little: no heavy package is loaded before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

HEAVY = {
    *("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "timm", "torchvision"),
    *("transformers", "matplotlib", "jinja2", "sklearn", "scipy", "safetensors"),
}
CORE = {"numpy", "PIL", "click", "rich"}

IMPORT_LIMIT_MS = 150
HELP_LIMIT_MS = 300


def run_python(code: str, cache: os.PathLike[str] | None = None) -> str:
    """Return what `code` prints in a fresh process, whose compiled files go to `cache`."""
    environment = dict(os.environ)
    if cache is not None:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = os.fspath(cache)
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def loaded_packages(code: str) -> set[str]:
    """Return the top-level packages that a fresh process has loaded after `code`."""
    modules = json.loads(run_python(f"{code}\nimport json, sys; print(json.dumps([*sys.modules]))"))
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("module", ["edge_vit", "edge_vit.cli", "edge_vit.runtime"])
def test_importing_loads_no_heavy_package(module):
    assert not loaded_packages(f"import {module}") & HEAVY


def test_importing_the_root_loads_nothing_but_the_standard_library():
    assert not loaded_packages("import edge_vit") & (HEAVY | CORE)


def test_what_a_predictor_needs_loads_no_torch_and_no_onnx():
    assert not loaded_packages("import edge_vit; edge_vit.Predictor") & {"torch", "onnx", "sklearn"}


def test_would_notice_a_heavy_package():
    assert "onnxruntime" in loaded_packages("import onnxruntime") & HEAVY


def test_importing_the_root_is_quick(tmp_path):
    code = (
        "import time; start = time.perf_counter(); import edge_vit; "
        "print(1000 * (time.perf_counter() - start))"
    )
    best = min(float(run_python(code, tmp_path)) for _ in range(5))
    assert best <= IMPORT_LIMIT_MS


def test_help_is_quick(tmp_path):
    code = (
        "import sys; sys.argv = ['edgevit', '--help']; "
        "from edge_vit.cli import main; sys.exit(main())"
    )

    def help_ms() -> float:
        start = time.perf_counter()
        assert "export" in run_python(code, tmp_path)
        return 1000 * (time.perf_counter() - start)

    assert min(help_ms() for _ in range(8)) <= HELP_LIMIT_MS
