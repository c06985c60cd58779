"""Chooses the few images, or samples, that a graph is proven on, and that stay in the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from edge_vit.data.images import ImageItem, ImageSource
from edge_vit.data.preprocess import digest
from edge_vit.data.source import IndexedSource, limit_images
from edge_vit.errors import ImageError
from edge_vit.export.reference import runner_of
from edge_vit.export.sources import Source
from edge_vit.spec import ModelSpec, TensorSpec
from edge_vit.spec.samples import Rows
from edge_vit.tasks import task_named
from edge_vit.tasks.base import Outputs

NUM_GOLDEN = 5

_MAX_CANDIDATES = 64
"""How many images of each stretch have their content looked at, spread evenly over it."""

_MAX_DECODED = 8
"""How many images of each stretch are decoded in the search for a class that is not there yet."""

FIRST_SEED = 10**15  # of those that golden samples are made of: no address of seeds reaches it


def choose_golden(source: ImageSource, count: int = NUM_GOLDEN) -> tuple[ImageItem, ...]:
    """Return up to `count` different images of `source`, spread over it and over its classes.

    The source is cut into `count` stretches. In each, the images stand in the order of their
    digests, and the first one of a class that was not chosen before is taken; so it is the same one
    whatever the files are called, and not the first frame of everything. An image that cannot be
    read is passed over.
    """
    if not isinstance(source, IndexedSource):
        items = limit_images(source, count)
        return tuple({digest(item.pixels): item for item in items}.values())
    chosen: dict[str, ImageItem] = {}
    classes: set[int] = set()
    failure: ImageError | None = None
    parts = min(count, len(source))
    for part in range(parts):
        ends = (number * len(source) // parts for number in (part, part + 1))
        fallback: tuple[str, ImageItem] | None = None
        for index in _by_content(source, range(*ends))[:_MAX_DECODED]:
            try:
                item = source.item(index)
            except ImageError as error:
                failure = failure or error
                continue
            key = digest(item.pixels)
            if key in chosen:
                continue
            is_new = item.label is None or item.label not in classes
            if fallback is None or is_new:
                fallback = key, item
            if is_new:
                break
        if fallback is not None:
            chosen[fallback[0]] = fallback[1]
            if fallback[1].label is not None:
                classes.add(fallback[1].label)
    if not chosen and failure is not None:
        raise failure
    return tuple(chosen.values())


def _by_content(source: IndexedSource, stretch: range) -> Sequence[int]:
    """Return up to `_MAX_CANDIDATES` indices of `stretch`, ordered by what their images hold."""
    step = -(-len(stretch) // _MAX_CANDIDATES)
    keys: list[tuple[bytes, int]] = []
    for index in stretch[::step]:
        try:
            keys.append((hashlib.sha256(source.content_key(index)).digest(), index))
        except ImageError:
            keys.append((b"\xff" * 32, index))  # last: its turn says what is wrong with it
    return [index for _, index in sorted(keys)]


def own_samples(source: Source, count: int) -> tuple[str, Rows]:
    """Return what they are, in words, and `count` samples spread over what the model is fed.

    The model of `source` itself makes them.
    """
    run_all, _ = runner_of(source)
    (name,), task = source.outputs, task_named(source.task)

    def run(rows: Rows) -> Outputs:
        return {name: run_all(rows)[0]}

    # What the graph's own shape is, one run tells
    shapes = [(t.name, t.dtype, tuple(map(int, t.shape[1:]))) for t in source.inputs]
    output = run(np.zeros(1, np.dtype(shapes)))[name]
    spec = ModelSpec(
        name=source.name,
        source=source.address,
        task=source.task,
        labels=(),
        inputs=source.inputs,
        outputs=(TensorSpec(name, "float32", ("batch", *output.shape[1:])),),
        preprocess=source.preprocess,
        sampling=source.sampling,
    )
    made: list[Rows] = []
    while sum(map(len, made)) < count:
        made.append(task.inputs_of(spec, run, FIRST_SEED + len(made))[1])
    rows = np.concatenate(made)
    places = np.linspace(0, len(rows) - 1, count).round().astype(int)
    return f"{count} samples of its own", rows[places]
