"""Position embeddings against the formula as the paper writes it, and against timm."""

import math

import pytest
import torch

from edge_vit.training.vit import (
    resize_positions,
    sinusoidal_1d,
    sinusoidal_2d,
    sinusoids,
)


def formula(position, channel, channels):
    """Section 3.5 of "Attention Is All You Need", one number at a time."""
    angle = position / 10000 ** (2 * (channel // 2) / channels)
    return math.sin(angle) if channel % 2 == 0 else math.cos(angle)


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids(torch.arange(50), 12)
    for position in (0, 1, 7, 49):
        for channel in range(12):
            wanted = formula(position, channel, 12)
            assert table[position, channel].item() == pytest.approx(wanted, abs=1e-6)


def test_1d_counts_the_class_token_as_position_0():
    table = sinusoidal_1d(4, 8)
    assert table.shape == (1, 5, 8)
    assert table[0, 0].tolist() == [0, 1] * 4
    assert table[0, 3, 2].item() == pytest.approx(formula(3, 2, 8), abs=1e-6)


def test_2d_tells_row_in_the_first_half_and_column_in_the_second():
    table = sinusoidal_2d(3, 8)
    assert table.shape == (1, 10, 8)
    assert table[0, 0].tolist() == [0] * 8
    for row in range(3):
        for column in range(3):
            embedding = table[0, 1 + 3 * row + column]
            wanted = [formula(row, c, 4) for c in range(4)] + [
                formula(column, c, 4) for c in range(4)
            ]
            assert embedding.tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("grid_size", [2, 7, 10], ids=["smaller", "larger", "much-larger"])
def test_resizes_learned_positions_as_timm_does(grid_size):
    timm_layers = pytest.importorskip("timm.layers")
    embedding = torch.randn(1, 1 + 4 * 4, 8, generator=torch.Generator().manual_seed(0))
    wanted = timm_layers.resample_abs_pos_embed(embedding, [grid_size, grid_size])
    resized = resize_positions(embedding, grid_size)
    assert torch.allclose(resized, wanted, atol=1e-6)
    assert torch.equal(resized[:, 0], embedding[:, 0])


def test_leaves_positions_of_the_same_size_alone():
    embedding = torch.randn(1, 17, 8)
    assert torch.equal(resize_positions(embedding, 4), embedding)
