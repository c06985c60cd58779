"""The public names: those that are promised, and no others, each documented."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edge_vit

NAMES = [name for name in edge_vit.__all__ if name != "__version__"]


def test_holds_exactly_the_promised_names():
    assert set(edge_vit.__all__) == {
        *(
            "build_engine",
            "EngineOptions",
            "export_bundle",
            "calibrate",
            "quantize",
            "verify",
            "evaluate",
            "benchmark",
            "measure_latency",
        ),
        *("open_session", "Session", "SessionOptions", "Predictor"),
        *("ArraySource", "FolderSource", "ImageItem"),
        *("Bundle", "ModelSpec", "PreprocessSpec", "Recipe", "Limits", "SourceRequest"),
        *("EdgeVitError", "__version__"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_resolves_and_is_documented(name):
    value = getattr(edge_vit, name)
    assert value.__name__ == name
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "what a dataclass says when nobody wrote it"


def test_type_checkers_see_the_names_that_are_loaded_late():
    tree = ast.parse(Path(edge_vit.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == edge_vit._HOMES


def test_dir_lists_every_name():
    assert set(edge_vit.__all__) <= set(dir(edge_vit))


def test_refuses_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'exprot_bundle'"):
        edge_vit.exprot_bundle  # noqa: B018


def test_the_version_is_that_of_the_project_file():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{edge_vit.__version__}"' in project
