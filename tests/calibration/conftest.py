from __future__ import annotations

import pytest
from seeded import Seeded, random_images, seeded_vit

from edge_vit.table import CalibrationTable

STATIC_BATCH = 3


@pytest.fixture(scope="session")
def vit() -> Seeded:
    return seeded_vit()


@pytest.fixture(scope="session")
def static_vit() -> Seeded:
    return seeded_vit(STATIC_BATCH)


@pytest.fixture(scope="session")
def table(vit) -> CalibrationTable:
    """The table of `vit`; the weights of `static_vit` are the same ones."""
    return vit.calibrate(random_images(16))


@pytest.fixture(params=["dynamic", "static"])
def either_vit(request) -> Seeded:
    """The graph with a dynamic batch axis, then the one with a fixed batch of three."""
    return request.getfixturevalue("vit" if request.param == "dynamic" else "static_vit")
