"""The silent form of progress says nothing and stops nothing."""

from __future__ import annotations

import pytest

from edge_vit.progress import SILENT


@pytest.mark.parametrize("total", [None, 3])
def test_counts_without_a_word(capsys, total):
    with SILENT.step("work", total) as advance:
        advance(1)
        advance(100)
    SILENT.note("something")
    assert capsys.readouterr() == ("", "")


def test_lets_errors_through():
    with pytest.raises(ZeroDivisionError), SILENT.step("work"):
        raise ZeroDivisionError


def test_steps_may_be_nested():
    with SILENT.step("outer", 2) as outer, SILENT.step("inner") as inner:
        inner(1)
        outer(1)
