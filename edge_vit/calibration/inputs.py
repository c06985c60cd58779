"""What the linear layers of one block read, over the images that shape the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.block_walk import State
from edge_vit.calibration.gram import Gram
from edge_vit.calibration.token_weights import TokenWeights
from edge_vit.graph.sites import Block

NUM_ROWS = 1024
"""Rows kept of each layer's input, spread over images and tokens."""


@dataclass(frozen=True, eq=False)
class InputSample:
    """What is known of one activation beside its range."""

    gram: Gram  # over all its rows
    rows: npt.NDArray[np.float32]  # some of them, float32 (R, K)
    weights: npt.NDArray[np.float32]  # (R,), how much each counts for all that it stands for


def sample_inputs(
    block: Block,
    states: Iterable[State],
    num_images: int,
    token_weights: Mapping[str, TokenWeights],
) -> Mapping[str, InputSample]:
    """Return what the layers of `block` read, by the name of the value.

    `token_weights`: by layer, how much each token counts.
    """
    names = dict.fromkeys(site.linear.input.name or "" for site in block.sites)
    grams = dict[str, Gram]()
    rows: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    weights: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    layers = {site.linear.input.name or "": site.name for site in reversed(block.sites)}
    for state in states:
        for name in names:
            value = np.ascontiguousarray(state[name], np.float32)
            value = value.reshape(-1, value.shape[-1])
            counts = token_weights[layers[name]].of_rows(len(value))
            here = Gram.of(value, counts)
            grams[name] = grams[name].merge(here) if name in grams else here
            step = max(1, len(value) * num_images // NUM_ROWS)
            rows[name].append(value[::step].copy())  # a view would keep all of it
            stands_for = counts[::step] * step
            stands_for[0] = counts[0] + counts[-1] * (step - 1)  # the first token is always kept
            weights[name].append(stands_for)
    return {
        name: InputSample(grams[name], np.concatenate(rows[name]), np.concatenate(weights[name]))
        for name in names
    }
