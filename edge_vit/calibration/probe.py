"""What an error of one layer does to the model's output, without running the layers above it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime as ort

from edge_vit.calibration.block_walk import State
from edge_vit.calibration.output_error import OutputError, Outputs, thinned
from edge_vit.graph.exact import open_exact_session
from edge_vit.graph.expose import cut_below
from edge_vit.graph.sites import Unit
from edge_vit.graph.walk import Array
from edge_vit.spec import ModelSpec

_NO_ERROR = np.zeros(1, np.float32)


class BlockProbe:
    """One block of the fp32 model on a few images, ready to be disturbed.

    Attributes:
        block: which.
        inputs: of each of its layers by site name, (rows, K) float32, all images together.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        block: Unit,
        states: Sequence[State],
        exact: Sequence[Outputs],
        threads: int | None = None,
        spec: ModelSpec | None = None,
    ) -> None:
        disturbed = [site.linear.output.name or "" for site in block.sites]
        names = list(exact[0])
        self._cut = cut_below(model, [block.root.name or ""], disturbed, names, only_needed=True)
        self._threads = threads
        self.block, self._states, self._exact, self._spec = block, states, exact, spec
        self._made = [output.name for output in self._cut.model.graph.output]
        self._names = {site.name: site.linear for site in block.sites}
        self.inputs = {
            name: np.concatenate([_rows(state[linear.input.name or ""]) for state in states])
            for name, linear in self._names.items()
        }

    @functools.cached_property
    def _session(self) -> ort.InferenceSession:
        return open_exact_session(self._cut.model, self._threads)

    def release_session(self) -> None:
        """Let go of the session, and so of its memory, until it is needed again."""
        self.__dict__.pop("_session", None)

    def num_tokens(self, site: str) -> int | None:
        """Return how many tokens of one sequence an image gives the layer; None for several."""
        shape = self._states[0][self._names[site].input.name or ""].shape
        tokens = shape[-2] if len(shape) > 1 else 1
        return tokens if tokens > 1 and np.prod(shape[:-2]) == 1 else None

    def error_of(
        self, site: str, error: Array, num_images: int | None = None, most: float = math.inf
    ) -> OutputError:
        """Return how far the outputs come to be off: see `OutputError.until` for `most`."""
        got = self._disturbed(site, np.split(error, len(self._states))[:num_images])
        return OutputError.until(self._exact[:num_images], got, self._spec, most)

    def _disturbed(self, site: str, errors: Sequence[Array]) -> Iterator[Outputs]:
        linear = self._names[site]
        disturbed = self._cut.errors[linear.output.name or ""]
        for part, state, exact in zip(errors, self._states, self._exact, strict=False):
            leading = state[linear.input.name or ""].shape[:-1]
            feeds = {name: state[name] for name in self._cut.feeds}
            feeds |= dict.fromkeys(self._cut.errors.values(), _NO_ERROR)
            feeds[disturbed] = part.reshape(*leading, -1)
            outputs = (value[0] for value in self._session.run(self._made, feeds))
            made = dict(zip(self._made, outputs, strict=True))
            yield {**exact, **thinned(made, len(exact))}


def _rows(value: Array) -> Array:
    return value.reshape(-1, value.shape[-1])
