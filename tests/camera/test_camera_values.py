from __future__ import annotations

import pytest

from edge_vit.camera.threads import describe
from edge_vit.camera.values import STAGES, Stamps

MS = 10**6


def test_the_stages_add_up_to_the_latency():
    stamps = Stamps(10 * MS, 12 * MS, 15 * MS, 19 * MS, 27 * MS, 43 * MS, 44 * MS)
    assert stamps.stage_ms() == dict(zip(STAGES, (2, 3, 4, 8, 16, 1), strict=True))
    assert sum(stamps.stage_ms().values()) == stamps.latency_ms == 34
    assert stamps.age_ms == 17


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError("two\nlines"), "two lines"), (ValueError(), "ValueError")],
)
def test_an_error_is_told_in_one_line(error, expected):
    assert describe(error) == expected
