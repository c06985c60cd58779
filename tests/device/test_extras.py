import importlib.metadata
import platform

import pytest

from edge_vit.device import extras
from edge_vit.device.extras import Package, read_extras, try_extras, try_imports


@pytest.fixture
def broken_packages(tmp_path, monkeypatch):
    """Modules that fail in their own ways, where a child process finds them."""
    sources = {
        "edge_vit_test_dies": "import os\nos._exit(7)",
        "edge_vit_test_crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        "edge_vit_test_raises": "raise RuntimeError('no such\\ndriver')",
        "edge_vit_test_exits": "raise SystemExit(3)",
        "edge_vit_test_talks": 'print(\'["json", ""]\')',
        "edge_vit_test_hangs": "import time\ntime.sleep(600)",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_reads_what_each_extra_holds():
    stated = [
        "pillow>=9",
        'torch>=2.6; extra == "export"',
        "onnx>=1.17 ; extra == 'export'",
        f'here>=1; platform_machine == "{platform.machine()}" and extra == "gpu"',
        'elsewhere>=1; platform_machine == "vax" and extra == "gpu"',
        'alien; platform_machine == "vax" and extra == "vax"',
        'ruff; extra == "dev"',
    ]
    assert read_extras(stated) == {
        "export": ("torch", "onnx"),
        "gpu": ("here",),
    }


def test_reads_what_edge_vit_itself_states():
    stated = importlib.metadata.requires("edge-vit")
    found = read_extras(stated)
    assert "onnxruntime" in found["cpu"]
    assert set(found["report"]) == {"jinja2", "matplotlib"}


def test_says_which_packages_really_import(broken_packages):
    names = ["json", "edge_vit_test_raises", "edge_vit_test_exits", "edge_vit_test_talks"]
    assert try_imports([*names, "edge_vit_test_absent"]) == {
        "json": "",
        "edge_vit_test_raises": "RuntimeError: no such driver",
        "edge_vit_test_exits": "SystemExit: 3",
        "edge_vit_test_talks": "",
        "edge_vit_test_absent": "ModuleNotFoundError: No module named 'edge_vit_test_absent'",
    }


def test_blames_the_package_that_takes_the_process_down_and_goes_on(broken_packages):
    names = ["json", "edge_vit_test_dies", "csv", "edge_vit_test_crashes", "ast"]
    assert try_imports(names) == {
        "json": "",
        "edge_vit_test_dies": "importing it ended the process with status 7",
        "csv": "",
        "edge_vit_test_crashes": "importing it ended the process with status -11",
        "ast": "",
    }


def test_does_not_wait_forever(broken_packages):
    found = try_imports(["edge_vit_test_hangs"], timeout_s=1)
    assert found == {"edge_vit_test_hangs": "importing it took more than 1 s"}


def test_the_current_folder_is_not_mistaken_for_a_package(tmp_path, monkeypatch):
    (tmp_path / "edge_vit_test_local.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "ModuleNotFoundError" in try_imports(["edge_vit_test_local"])["edge_vit_test_local"]


def test_states_version_and_error_of_every_package(monkeypatch):
    versions = {"numpy": "2.0", "broken": "1.0"}
    monkeypatch.setattr(extras, "version_of", versions.get)
    steps = []
    cases = {"cpu": ("numpy", "absent"), "gpu": ("broken", "numpy")}
    found = try_extras(cases, steps.append)
    error = "ModuleNotFoundError: No module named 'broken'"
    assert found == {
        "cpu": (Package("numpy", "2.0"), Package("absent", None)),
        "gpu": (Package("broken", "1.0", error), Package("numpy", "2.0")),
    }
    assert steps == [1, 1]


def test_a_module_of_two_extras_is_imported_once(monkeypatch):
    asked = []
    monkeypatch.setattr(extras, "version_of", lambda name: "1")
    monkeypatch.setattr(
        extras, "try_imports", lambda names: asked.extend(names) or dict.fromkeys(names, "")
    )
    cases = {"export": ("torch", "scikit-learn"), "train": ("torch",)}
    try_extras(cases, lambda count: None)
    assert asked == ["torch", "sklearn"]


def test_namespaces_are_not_taken_for_the_package():
    assert extras.module_of("nvidia-cuda-runtime") == "nvidia.cu13"
    assert extras.module_of("paho-mqtt") == "paho.mqtt.client"
    assert extras.module_of("nvidia-ml-py") == "pynvml"
    assert extras.module_of("some-thing") == "some_thing"
