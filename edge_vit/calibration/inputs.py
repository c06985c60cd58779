"""What the linear layers of one block read, over the images that shape the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.block_walk import State
from edge_vit.calibration.gram import CHUNK, Gram
from edge_vit.calibration.token_weights import TokenWeights
from edge_vit.graph.sites import Unit
from edge_vit.graph.walk import Array

NUM_ROWS = 1024
"""Rows kept of each layer's input, spread over images and tokens."""


@dataclass(frozen=True, eq=False)
class InputSample:
    """What is known of one activation beside its range."""

    gram: Gram  # over all its rows
    rows: npt.NDArray[np.float32]  # some of them, float32 (R, K)
    weights: npt.NDArray[np.float32]  # (R,), how much each counts for all that it stands for


def sample_inputs(
    block: Unit,
    states: Iterable[State],
    num_images: int,
    token_weights: Mapping[str, TokenWeights],
) -> Mapping[str, InputSample]:
    """Return what the layers of `block` read, by the name of the value.

    `token_weights`: by layer, how much each token counts.
    """
    layers = {site.linear.input.name or "": site.name for site in reversed(block.sites)}
    collected = {name: _Collected() for name in layers}
    for state in states:
        for name, sample in collected.items():
            value = np.ascontiguousarray(state[name], np.float32)
            value = value.reshape(-1, value.shape[-1])
            counts = token_weights[layers[name]].of_rows(len(value))
            sample.add(value, counts, max(1, len(value) * num_images // NUM_ROWS))
    return {name: sample.finish() for name, sample in collected.items()}


class _Collected:
    """One activation, image after image."""

    def __init__(self) -> None:
        self._gram: Gram | None = None
        self._open = list[tuple[Array, Array]]()  # rows and weights that are not in the sums yet
        self._rows, self._weights = list[Array](), list[Array]()

    def add(self, value: Array, counts: Array, step: int) -> None:
        """Take one image's rows in, and every so many of them into the sample."""
        if sum(len(rows) for rows, _ in self._open) + len(value) > CHUNK:
            self._sum()
        self._open.append((value, counts))
        self._rows.append(value[::step].copy())  # a view would keep all of it
        stands_for = counts[::step] * step
        stands_for[0] = counts[0] + counts[-1] * (step - 1)  # the first token is always kept
        self._weights.append(stands_for)

    def finish(self) -> InputSample:
        """Return what is known of all images."""
        self._sum()
        assert self._gram is not None
        return InputSample(self._gram, np.concatenate(self._rows), np.concatenate(self._weights))

    def _sum(self) -> None:
        if self._open:
            rows, weights = map(np.concatenate, zip(*self._open, strict=True))
            self._open.clear()
            self._gram = self._gram or Gram.empty(rows.shape[1])
            self._gram.add(rows, weights)
