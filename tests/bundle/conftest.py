"""The bundle that the tests in this folder share."""

from __future__ import annotations

import pytest
from small_bundles import write_bundle

from edge_vit.bundle import Bundle


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    """A bundle with a graph, golden outputs and a table."""
    return write_bundle(tmp_path / "cats.edgevit")
