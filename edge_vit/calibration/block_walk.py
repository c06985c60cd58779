"""Takes images through a model block by block, so that one block's values are kept at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
import onnxruntime as ort

from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.expose import cut_below, expose, keep_needed
from edge_vit.graph.sites import Unit, find_units
from edge_vit.graph.walk import Array
from edge_vit.spec import ModelSpec

State = dict[str, Array]
"""Values of one image by name."""


def walk_blocks(
    model: onnx.ModelProto, spec: ModelSpec, pixels: Sequence[Array], threads: int | None = None
) -> Iterator[tuple[Unit, Iterator[State]]]:
    """Yield each block, first to last, with what it reads and what its linear layers read.

    The inner iterator yields the values of one image after the other, in the order of `pixels`: all
    that flows into the graph below the block's root, and the input of each linear layer. What is
    left of it is run before the next block comes.
    """
    blocks = find_units(ir.from_proto(model).graph)
    outputs = [output.name for output in model.graph.output]
    feeds, made = list[set[str]](), list[set[str]]()
    for block in blocks:
        cut = cut_below(model, [block.root.name or ""], (), outputs)
        feeds.append(set(cut.feeds))
        made.append({name for node in cut.model.graph.node for name in node.output})
    made.append(set())
    # What no earlier block makes: the feeds of the first, and more where branches run side by side.
    first = sorted(
        name
        for index, names in enumerate(feeds)
        for name in names - set[str]().union(*feeds[:index], *made[:index])
    )
    session = open_exact_session(keep_needed(expose(model, first, only=True)), threads)
    states = [
        dict(zip(first, session.run(first, feed_image(spec, image)), strict=True))
        for image in pixels
    ]
    del session  # each holds the weights below it: one at a time
    for index, block in enumerate(blocks):
        later = set[str]().union(*feeds[index + 1 :])
        inputs = {site.linear.input.name or "" for site in block.sites}
        wanted = sorted((inputs | later - made[index + 1]) & made[index])
        cut = cut_below(model, [block.root.name or ""], (), wanted, only_needed=True)
        # A unit of one layer, beside others, has all that it reads already.
        session = open_exact_session(cut.model, threads) if wanted else None
        runs = _run(session, cut.feeds, wanted, states, later)
        del session
        yield block, runs
        for _ in runs:
            pass


def _run(
    session: ort.InferenceSession | None,
    feeds: Sequence[str],
    wanted: Sequence[str],
    states: list[State],
    later: set[str],
) -> Iterator[State]:
    for index, state in enumerate(states):
        if session is not None:
            made = session.run(wanted, {name: state[name] for name in feeds})
            state |= dict(zip(wanted, made, strict=True))
        yield dict(state)
        states[index] = {name: value for name, value in state.items() if name in later}
