"""The bundle that the tests in this folder share."""

from __future__ import annotations

import shutil

import pytest
from small_bundles import write_bundle

from edge_vit.bundle import Bundle


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A bundle to read only: writing one waits for the disk."""
    return write_bundle(tmp_path_factory.mktemp("written") / "cats.edgevit").path


@pytest.fixture
def bundle(written, tmp_path) -> Bundle:
    """A bundle with a graph, golden outputs and a table."""
    return Bundle.open(shutil.copytree(written, tmp_path / "cats.edgevit"))
