from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_vit import optional
from edge_vit.errors import MissingDependencyError
from edge_vit.optional import require


@pytest.fixture
def without(monkeypatch):
    """Make the named packages look as if they were not installed."""

    def hide(*packages: str) -> None:
        for name in [n for n in sys.modules if n.partition(".")[0] in packages]:
            monkeypatch.delitem(sys.modules, name)

        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name.partition(".")[0] in packages:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])

    return hide


@pytest.mark.parametrize("module", ["json", "xml.dom"])
def test_returns_the_module_that_was_asked_for(module):
    assert require(module, "reading").__name__ == module


INSTALL_LINES = {
    "timm": "timm, which is not installed. Run: pip install 'edge-vit[zoo]'",
    "sklearn": "scikit-learn, which is not installed. Run: pip install 'edge-vit[train]'",
    "onnx_ir": "onnx-ir, which is not installed. Run: pip install 'edge-vit[export]'",
    "safetensors.torch": "safetensors, which is not installed. Run: pip install 'edge-vit[export]'",
    "unheard_of": "unheard_of, which is not installed. Run: pip install unheard_of",
}


@pytest.mark.parametrize(("module", "message"), INSTALL_LINES.items(), ids=INSTALL_LINES)
def test_missing_package_gives_the_install_line(without, module, message):
    without(module.partition(".")[0])
    with pytest.raises(MissingDependencyError) as error:
        require(module, "exporting")
    assert str(error.value) == f"exporting needs {message}"


def test_what_an_installed_package_lacks_is_not_blamed_on_it(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import surely_not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed_anywhere"):
        require("half_there", "testing")


@pytest.mark.parametrize(("distribution", "extra"), sorted(set(optional._EXTRAS.values())))
def test_the_extra_of_an_install_line_really_holds_the_package(distribution, extra):
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(rf"^{extra} = \[(.*?)\]$", pyproject, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert re.search(rf'"{distribution}(\[.*?\])?[<>=~]', listed[1])


def test_importing_it_imports_no_optional_package():
    code = (
        "import sys\n"
        "before = set(sys.modules)  # a package may load itself whenever Python starts\n"
        "import edge_vit.optional, edge_vit.data.images, edge_vit.spec.table\n"
        f"print(sorted(set({list(optional._EXTRAS)!r}) & (set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
