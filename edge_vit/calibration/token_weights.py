"""How much an error at the first token counts beside one at any other.

Where a class token is read out, an error there costs the output far more than one of the hundreds
of others, and behind the last attention those cost nothing at all. Sums over rows that weigh all
alike would make up for errors that do not matter, at the cost of the one that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.layer import Layer, Plan
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.calibration.probe import BlockProbe

LEAST = 0.01
"""Weight of a token that does not matter: it still tells how channels vary."""

_BEHIND_ATTENTION = ("proj", "fc1", "fc2")
_NUM_IMAGES = 2  # that are asked: one number of each kind is looked for


@dataclass(frozen=True)
class TokenWeights:
    """How much errors count."""

    num_tokens: int = 1  # of a sequence
    first: float = 1.0  # weight of an error at the first token of each
    other: float = 1.0  # at any other; the larger of the two is 1

    def of_rows(self, count: int) -> npt.NDArray[np.float32]:
        """Return the weights of `count` rows, sequence after sequence."""
        weights = np.full(count, self.other, np.float32)
        weights[:: self.num_tokens] = self.first
        return weights


def first_token_weights(
    plans: Iterable[tuple[Layer, Plan]], probe: BlockProbe
) -> Mapping[str, TokenWeights]:
    """Return by layer what its first token weighs, and any other.

    Layers whose rows are no tokens of one sequence, as in windowed attention, weigh all alike.
    Layers of a block behind its attention share what the first of them comes to.
    """
    found, behind = dict[str, TokenWeights](), None
    for layer, plan in plans:
        if not layer.name.partition("/")[2].startswith(_BEHIND_ATTENTION):
            found[layer.name] = _ask(layer, plan, probe)
        else:
            found[layer.name] = behind = behind or _ask(layer, plan, probe)
    return found


def _ask(layer: Layer, plan: Plan, probe: BlockProbe) -> TokenWeights:
    tokens = probe.num_tokens(layer.name)
    if tokens is None:
        return TokenWeights()
    error = LayerRows(layer, probe.inputs[layer.name]).output_error(plan)
    is_first = (np.arange(len(error)) % tokens == 0)[:, None]
    costs = []
    for part in (error * is_first, error * ~is_first):
        energy = float(np.vdot(part, part))
        cost = probe.error_of(layer.name, part, _NUM_IMAGES).mean
        costs.append(cost / energy if energy else 0.0)
    if not (most := max(costs)):
        return TokenWeights()
    first, other = (max(LEAST, cost / most) for cost in costs)
    return TokenWeights(tokens, first, other)
