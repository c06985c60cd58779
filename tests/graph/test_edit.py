"""A constant that stands in for another one leaves no unread copy of it in the graph."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import parse

from edge_vit.graph.edit import add_constant, replace_input


@pytest.fixture
def graph():
    """A constant that two nodes read."""
    text = "(float[2] x) => (y) { a = Mul(x, w) y = Add(a, w) }"
    return parse(text, w=np.array([1.0, 2.0])).graph


def test_the_old_one_goes_with_its_last_reader(graph):
    mul, add = list(graph)
    new = add_constant(graph, "new", np.ones(2, np.float32))
    replace_input(mul, 1, new)
    assert set(graph.initializers) == {"w", "new"}
    replace_input(add, 1, new)
    assert set(graph.initializers) == {"new"}
    assert [node.inputs[1].name for node in graph] == ["new", "new"]


def test_values_of_other_nodes_stay(graph):
    _, add = list(graph)
    replace_input(add, 0, graph.inputs[0])
    assert [value.name for value in graph.inputs] == ["x"]
    assert set(graph.initializers) == {"w"}
