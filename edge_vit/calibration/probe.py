"""What an error of one layer does to the model's output, without running the layers above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edge_vit.calibration.observer import feed_image, open_exact_session
from edge_vit.graph.cut import Cut, cut_below
from edge_vit.graph.expose import expose
from edge_vit.graph.sites import Block, find_blocks
from edge_vit.graph.walk import Array
from edge_vit.spec import ModelSpec

State = dict[str, Array]
"""Values of one image by name."""

_NO_ERROR = np.zeros(1, np.float32)

_BROKEN = 1e6
"""Relative error of an output that is not finite, or as bad."""


class BlockProbe:
    """One block of the fp32 model on a few images, ready to be disturbed.

    Attributes:
        block: which.
        inputs: of each of its layers by site name, (rows, K) float32, all images together.
    """

    def __init__(
        self,
        block: Block,
        session: ort.InferenceSession,
        cut: Cut,
        states: list[State],
        output: str,
    ) -> None:
        self.block = block
        self._session, self._cut, self._states, self._output = session, cut, states, output
        self._names = {site.name: site.linear for site in block.sites}
        self.inputs = {
            name: np.concatenate([_rows(state[linear.input.name or ""]) for state in states])
            for name, linear in self._names.items()
        }

    def close(self) -> None:
        """Let go of the session and the inputs."""
        del self._session, self.inputs

    def relative_error(self, site: str, error: Array) -> float:
        """Return the energy of the output's error over the energy of the output, 1e6 at most.

        Args:
            site: the layer that is disturbed.
            error: (rows, N) float32, what is added to its output.
        """
        linear = self._names[site]
        disturbed = self._cut.errors[linear.output.name or ""]
        energy = total = 0.0
        for part, state in zip(np.split(error, len(self._states)), self._states, strict=True):
            leading = state[linear.input.name or ""].shape[:-1]
            feeds = {name: state[name] for name in self._cut.feeds}
            feeds |= dict.fromkeys(self._cut.errors.values(), _NO_ERROR)
            feeds[disturbed] = part.reshape(*leading, -1)
            got = self._session.run([self._output], feeds)[0]
            energy += float(np.square(got - state[self._output], dtype=np.float64).sum())
            total += float(np.square(state[self._output], dtype=np.float64).sum())
        if not total:
            return 0.0
        return min(energy / total, _BROKEN) if np.isfinite(energy) else _BROKEN


def probe_blocks(
    model: onnx.ModelProto, spec: ModelSpec, pixels: Sequence[Array], threads: int | None = None
) -> Iterator[BlockProbe]:
    """Yield each block of `model`, first to last; use one before asking for the next.

    Only the values of one block are kept at a time.

    Args:
        model: the fp32 graph in canonical form.
        spec: its facts.
        pixels: uint8 (height, width, 3) RGB, as preprocessed, one per image.
        threads: of ONNX Runtime; None for all cores.
    """
    blocks, output = find_blocks(ir.from_proto(model).graph), spec.outputs[0].name
    feeds_of, wanted, reached = list[tuple[str, ...]](), [output], set[str]()
    for block in blocks:
        cut = _cut_block(model, block, output, ())
        feeds_of.append(cut.feeds)
        # The rest comes with the blocks before. Of branches side by side, not all does.
        wanted.extend(name for name in cut.feeds if name not in reached)
        reached.update(cut.feeds, *(node.output for node in cut.model.graph.node))
    session = open_exact_session(expose(model, wanted, only=True), threads)
    states: list[State] = []
    for image in pixels:
        values = session.run(wanted, feed_image(spec, image))
        states.append(dict(zip(wanted, values, strict=True)))
    del session  # each holds the weights below it: one at a time
    for index, block in enumerate(blocks):
        later = {name for names in feeds_of[index + 1 :] for name in names}
        inputs = {site.linear.input.name or "" for site in block.sites}
        wanted = sorted((later | inputs) - states[0].keys())
        cut = _cut_block(model, block, output, wanted)
        wanted = [value.name for value in cut.model.graph.output[1:]]
        session = open_exact_session(cut.model, threads)
        exact = dict.fromkeys(cut.errors.values(), _NO_ERROR)
        for state in states:
            feeds = exact | {name: state[name] for name in cut.feeds}
            state.update(zip(wanted, session.run(wanted, feeds), strict=True))
        probe = BlockProbe(block, session, cut, states, output)
        del session
        yield probe
        probe.close()
        for state in states:
            for name in state.keys() - later - {output}:
                del state[name]


def _cut_block(model: onnx.ModelProto, block: Block, output: str, inner: Sequence[str]) -> Cut:
    """Cut below what `block` is made from; of the values `inner`, those below it are outputs."""
    disturbed = [site.linear.output.name or "" for site in block.sites]
    return cut_below(model, [block.root.name or ""], disturbed, [output, *inner])


def _rows(value: Array) -> Array:
    return value.reshape(-1, value.shape[-1])
