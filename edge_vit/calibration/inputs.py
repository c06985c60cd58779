"""What the linear layers of one block read, over the images that shape the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.block_walk import State
from edge_vit.calibration.gram import Gram
from edge_vit.graph.sites import Block

NUM_ROWS = 1024
"""Rows kept of each layer's input, spread over images and tokens."""


@dataclass(frozen=True, eq=False)
class InputSample:
    """What is known of one activation beside its range.

    Attributes:
        gram: over all its rows.
        rows: some of them, float32 (R, K).
    """

    gram: Gram
    rows: npt.NDArray[np.float32]


def sample_inputs(
    block: Block, states: Iterable[State], num_images: int
) -> Mapping[str, InputSample]:
    """Return what the layers of `block` read, by the name of the value.

    Args:
        block: which.
        states: of each image, as `walk_blocks` yields them; taken one at a time.
        num_images: how many there are.
    """
    names = dict.fromkeys(site.linear.input.name or "" for site in block.sites)
    grams = dict[str, Gram]()
    rows: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    for state in states:
        for name in names:
            value = np.ascontiguousarray(state[name], np.float32)
            value = value.reshape(-1, value.shape[-1])
            here = Gram.of(value)
            grams[name] = grams[name].merge(here) if name in grams else here
            step = max(1, len(value) * num_images // NUM_ROWS)
            rows[name].append(value[::step].copy())  # a view would keep all of it
    return {name: InputSample(grams[name], np.concatenate(rows[name])) for name in names}
